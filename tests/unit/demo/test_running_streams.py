"""Streams that never pause, against a server that answers from a script."""

import asyncio
import json

import httpx2
import pytest

from dpace_serve.demo.prompts import DemoPrompt
from dpace_serve.demo.running_streams import StreamLog, ask_all, running_streams
from dpace_serve.demo.streamed_answer import Question, StreamedAnswer, stream_answer
from dpace_serve.errors import EngineError


def question(number, *, is_chat=False, drafter=None):
    prompt = DemoPrompt("code", number, f"text {number}", is_chat=is_chat, expected=None)
    return Question(prompt, 8, temperature=0.0, seed=3, drafter=drafter)


def event(token_ids, finish_reason=None):
    choice = {"index": 0, "token_ids": token_ids, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"id": "cmpl-1", "choices": [choice]}).encode() + b"\n\n"


WHOLE = [event([5]), event([6, 7]), event([], "length"), b"data: [DONE]\n\n"]


class Script:
    """Answers requests with these pieces, and keeps their bodies."""

    def __init__(self, pieces, status=200):
        self.pieces, self.status, self.bodies, self.paths = pieces, status, [], []
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, request):
        self.bodies.append(json.loads(request.content))
        self.paths.append(request.url.path)
        return httpx2.Response(self.status, content=self.send())

    async def send(self):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        for piece in self.pieces:
            await asyncio.sleep(0.001)
            yield piece
        self.in_flight -= 1

    def client(self):
        return httpx2.AsyncClient(base_url="http://test", transport=httpx2.MockTransport(self))


async def test_an_answer_has_its_tokens_and_the_time_of_each_chunk_with_tokens():
    script = Script(WHOLE)
    async with script.client() as client:
        answer = await stream_answer(client, question(0, drafter="dflash"), model="tiny")
    assert (answer.response_id, answer.token_ids) == ("cmpl-1", (5, 6, 7))
    first, second = answer.arrivals
    assert second - first >= 0.0005
    (body,) = script.bodies
    assert (body["prompt"], body["seed"], body["stream"]) == ("text 0", 3, True)
    assert body["vllm_xargs"] == {"dpace_workload": "code", "dpace_drafter": "dflash"}


async def test_a_chat_goes_through_the_chat_route():
    script = Script(WHOLE)
    async with script.client() as client:
        await stream_answer(client, question(0, is_chat=True), model="tiny")
    assert script.paths == ["/v1/chat/completions"]
    assert script.bodies[0]["messages"] == [{"role": "user", "content": "text 0"}]


async def test_an_event_may_come_in_pieces():
    whole = b"".join(WHOLE)
    script = Script([whole[:40], whole[40:41], whole[41:]])
    async with script.client() as client:
        answer = await stream_answer(client, question(0), model="tiny")
    assert answer.token_ids == (5, 6, 7)


@pytest.mark.parametrize(
    ("pieces", "status", "reason"),
    [
        ([b"no such model"], 404, "status 404: no such model"),
        ([event([5])], 200, "the stream ended before the answer"),
        ([event([5]), b'data: {"error": {"message": "died"}}\n\n'], 200, "died"),
    ],
)
async def test_whatever_is_no_whole_answer_is_a_failure(pieces, status, reason):
    async with Script(pieces, status).client() as client:
        with pytest.raises(EngineError, match=reason):
            await stream_answer(client, question(0), model="tiny")
        async with running_streams(client, [question(0)], model="tiny", num_streams=2) as log:
            await asyncio.sleep(0.05)
    assert not log.answers
    assert len(log.failures) > 2
    assert reason in log.failures[0]


async def test_as_many_requests_run_as_there_are_streams_and_all_come_to_their_end():
    script = Script(WHOLE)
    questions = [question(number) for number in range(3)]
    async with script.client() as client:
        references = await ask_all(client, questions, model="tiny", num_streams=1)
        assert script.most_in_flight == 1
        async with running_streams(client, questions, model="tiny", num_streams=4) as log:
            await asyncio.sleep(0.1)
    assert script.most_in_flight == 4
    assert script.in_flight == 0
    assert not log.failures
    assert len(log.answers) == len(script.bodies) - len(references) > 4
    assert {number for number, _ in log.answers} == {0, 1, 2}
    assert log.num_different(references) == 0
    assert log.lateness_seconds


def test_chunks_that_came_together_have_no_gap():
    heap = StreamedAnswer("cmpl-1", (1, 2, 3, 4), (0.0, 0.5, 0.5002, 0.6))
    other = StreamedAnswer("cmpl-2", (1, 2), (0.55, 0.65))
    log = StreamLog(answers=[(0, heap), (1, other)])
    assert log.gaps() == [(0.0, 0.5), (0.5002, 0.6), (0.55, 0.65)]


async def test_an_answer_of_other_tokens_is_counted():
    script = Script(WHOLE)
    async with script.client() as client:
        references = await ask_all(client, [question(0)], model="tiny", num_streams=1)
        script.pieces = [event([5]), event([6], "length")]
        async with running_streams(client, [question(0)], model="tiny", num_streams=1) as log:
            await asyncio.sleep(0.02)
    assert log.num_different(references) == len(log.answers) > 0
