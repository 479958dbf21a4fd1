"""Bodies under a limit of size and time, and how many requests there may be at once."""

import asyncio

import pytest
from starlette.responses import PlainTextResponse

from dpace_serve.gate.generation_gate import GenerationGate
from dpace_serve.gate.refusal import RequestError
from dpace_serve.gate.room import Room
from dpace_serve.gate_config import LimitsConfig

from .conftest import message  # noqa: TID252 - tests have no package

LIMITS = LimitsConfig(max_body_kilobytes=1, body_timeout_seconds=0.2, max_concurrent_answers=3)


async def chunks(*parts, pause=0.0):
    for part in parts:
        await asyncio.sleep(pause)
        yield part


def body_of(size):
    head = b'{"prompt": "'
    return head + b"x" * (size - len(head) - 2) + b'"}'


async def test_a_body_may_have_just_so_many_bytes(gated):
    server = gated(limits=LIMITS)
    assert (await server.post(body_of(1000))).status_code == 200
    response = await server.post(body_of(1001))
    assert (response.status_code, server.refused) == (413, ["body"])
    assert message(response) == "the body must have at most 1000 bytes. Send less."


async def test_bytes_are_counted_while_they_come_whatever_a_header_says(gated):
    server = gated(limits=LIMITS)
    response = await server.post(chunks(*[b"x" * 100] * 20))  # chunked: no length is given
    assert (response.status_code, server.reached) == (413, [])
    sizes = []

    async def endless():
        while True:
            sizes.append(100)
            yield b"x" * 100

    assert (await server.post(endless())).status_code == 413


@pytest.mark.parametrize("length", ["1001", "9" * 5000])
async def test_a_length_that_is_too_large_is_refused_before_the_body(length):
    async def receive():
        raise AssertionError("nothing must be read")

    _, sent = await call(GenerationGate(echo, limits=LIMITS, count=ignore), receive, length)
    assert sent[0]["status"] == 413


@pytest.mark.parametrize("length", ["-1", "1e9", "", "x", "٣"])
async def test_a_length_that_is_none_says_nothing(length):
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive():
        return messages.pop()

    _, sent = await call(GenerationGate(echo, limits=LIMITS, count=ignore), receive, length)
    assert sent[0]["status"] == 200


async def test_a_body_that_comes_too_slowly_is_given_up(gated):
    server = gated(limits=LIMITS)
    response = await server.post(chunks(b"{", b'"a"', b":1}", pause=0.15))
    assert (response.status_code, server.refused, server.reached) == (408, ["body"], [])
    assert message(response).startswith("the body must come within 0.2 seconds")


async def test_a_client_that_leaves_within_its_body_leaves_no_trace():
    messages = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b"{", "more_body": True},
    ]
    refused = []

    async def receive():
        return messages.pop()

    gate = GenerationGate(echo, limits=LIMITS, count=refused.append)
    for _ in range(5):  # more than there are places
        messages[:] = [
            {"type": "http.disconnect"},
            {"type": "http.request", "body": b"{", "more_body": True},
        ]
        _, sent = await call(gate, receive)
        assert (sent, refused) == ([], [])


async def test_what_comes_after_the_body_is_passed_on():
    messages = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b"}", "more_body": False},
        {"type": "http.request", "body": b"{", "more_body": True},
    ]
    got = []

    async def receive():
        return messages.pop()

    async def app(scope, receive, send):
        got.extend([await receive(), await receive()])

    await call(GenerationGate(app, limits=LIMITS, count=ignore), receive)
    assert got == [
        {"type": "http.request", "body": b"{}", "more_body": False},
        {"type": "http.disconnect"},
    ]


def test_a_room_counts_answers():
    room = Room(3)
    room.take(2)
    with pytest.raises(RequestError) as caught:
        room.take(2)
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
    room.take(1)
    room.give_back(3)
    room.take(3)


def test_what_never_fits_is_not_told_to_come_again():
    with pytest.raises(RequestError, match="at most 3 answers") as caught:
        Room(3).take(4)
    assert caught.value.status == 400


async def test_nor_is_a_request_for_one_answer_more_than_there_are_places():
    refused = []
    gate = GenerationGate(echo, limits=LIMITS, count=refused.append)
    for body, status in [(b'{"n": 4}', 400), (b'{"prompt": ["a", "b"], "n": 2}', 400),
                         (b'{"n": 3}', 200)]:  # fmt: skip
        _, sent = await call(gate, one_body(body))
        assert sent[0]["status"] == status
    assert refused == ["request", "request"]


async def test_beyond_its_places_a_server_says_429_until_one_is_free():
    running, refused, entered = asyncio.Event(), [], asyncio.Semaphore(0)

    async def app(scope, receive, send):
        entered.release()
        await running.wait()
        await echo(scope, receive, send)

    gate = GenerationGate(app, limits=LIMITS, count=refused.append)
    first = [asyncio.create_task(call(gate, one_body(b"{}"))) for _ in range(3)]
    for _ in first:
        await entered.acquire()
    _, sent = await call(gate, one_body(b"{}"))
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], headers[b"retry-after"], refused) == (429, b"1", ["busy"])
    running.set()
    assert [sent[0]["status"] for _, sent in await asyncio.gather(*first)] == [200] * 3
    _, sent = await call(gate, one_body(b"{}"))
    assert sent[0]["status"] == 200


async def test_a_request_for_several_answers_takes_as_many_places():
    running, entered = asyncio.Event(), asyncio.Event()

    async def app(scope, receive, send):
        entered.set()
        await running.wait()
        await echo(scope, receive, send)

    gate = GenerationGate(app, limits=LIMITS, count=ignore)
    first = asyncio.create_task(call(gate, one_body(b'{"prompt": ["a", "b"]}')))
    await entered.wait()
    _, sent = await call(gate, one_body(b'{"n": 2}'))
    assert sent[0]["status"] == 429
    running.set()
    await first
    _, sent = await call(gate, one_body(b'{"n": 3}'))
    assert sent[0]["status"] == 200


async def test_places_come_back_when_the_engine_fails_or_the_request_is_cancelled():
    async def fails(scope, receive, send):
        raise ValueError("engine")

    gate = GenerationGate(fails, limits=LIMITS, count=ignore)
    for _ in range(4):
        with pytest.raises(ValueError, match="engine"):
            await call(gate, one_body(b"{}"))

    async def hangs(scope, receive, send):
        await asyncio.Event().wait()

    gate = GenerationGate(hangs, limits=LIMITS, count=ignore)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(gate, one_body(b"{}")), 0.01)


async def test_reading_takes_no_place(gated):
    server = gated(limits=LimitsConfig(max_concurrent_answers=1))
    responses = await asyncio.gather(
        *(server.ask("GET", "/v1/models", "an-api-key") for _ in range(5))
    )
    assert {response.status_code for response in responses} == {200}


async def echo(scope, receive, send):
    await PlainTextResponse("ok")(scope, receive, send)


def ignore(reason):
    pass


def one_body(body):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def call(app, receive, length=None):
    sent = []

    async def send(one):
        sent.append(one)

    headers = [(b"content-type", b"application/json")]
    if length is not None:
        headers.append((b"content-length", length.encode()))
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "headers": headers,
        "query_string": b"",
    }  # fmt: skip
    return await app(scope, receive, send), sent
