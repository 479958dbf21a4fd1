"""One answer as a stream: its tokens, and when each chunk of them came.

The stream is read from the socket and not through the OpenAI client, whose work on every chunk
would delay the others on a machine of few cores.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2

from dpace_serve.demo.prompts import DemoPrompt
from dpace_serve.demo.traffic import WORKLOAD_TAG
from dpace_serve.errors import EngineError

DRAFTER_TAG = "dpace_drafter"
PLAIN = {"Accept-Encoding": "identity"}
"""Compressed chunks could not be told apart as they come."""
_DATA = b"data: "
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks for.

    Attributes:
        prompt: What the model is given.
        max_new_tokens: Longest answer in tokens.
        temperature: Sampling temperature; 0 is greedy.
        seed: Of the request's own random numbers.
        drafter: Name of the drafter that shall serve it; none leaves it to the server.
    """

    prompt: DemoPrompt
    max_new_tokens: int
    temperature: float
    seed: int
    drafter: str | None

    @property
    def path(self) -> str:
        """Route that it is sent to."""
        return "/v1/chat/completions" if self.prompt.is_chat else "/v1/completions"

    def body(self, model: str) -> dict[str, Any]:
        """JSON body of the request."""
        text = self.prompt.text
        tags = {WORKLOAD_TAG: self.prompt.workload}
        return {
            "model": model,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_new_tokens,
            "stream": True,
            "return_token_ids": True,
            "vllm_xargs": tags if self.drafter is None else {**tags, DRAFTER_TAG: self.drafter},
            **(
                {"messages": [{"role": "user", "content": text}]}
                if self.prompt.is_chat
                else {"prompt": text}
            ),
        }


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """A whole answer.

    Attributes:
        response_id: The server's name of the request.
        token_ids: Its tokens.
        arrivals: Reading of the clock at each chunk that brought tokens, in seconds.
    """

    response_id: str
    token_ids: tuple[int, ...]
    arrivals: tuple[float, ...]


async def stream_answer(
    client: httpx2.AsyncClient, question: Question, *, model: str
) -> StreamedAnswer:
    """Ask once, and read the answer to its end.

    Raises:
        EngineError: If the request fails, or the stream ends before the answer does.
    """
    response_id, is_finished = "", False
    token_ids: list[int] = []
    arrivals: list[float] = []
    try:
        async with client.stream(
            "POST", question.path, json=question.body(model), headers=PLAIN
        ) as response:
            if response.status_code != httpx2.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                raise _failed(question, f"status {response.status_code}: {text}")
            async for arrived, event in _events(response):
                if "error" in event:
                    raise _failed(question, json.dumps(event["error"]))
                response_id = event["id"]
                for choice in event["choices"]:
                    new = choice.get("token_ids") or ()
                    if new:
                        token_ids.extend(new)
                        arrivals.append(arrived)
                    is_finished |= choice.get("finish_reason") is not None
    except httpx2.HTTPError as error:
        raise _failed(question, str(error) or type(error).__name__) from error
    if not is_finished:
        raise _failed(question, "the stream ended before the answer")
    return StreamedAnswer(response_id, tuple(token_ids), tuple(arrivals))


async def _events(response: httpx2.Response) -> AsyncIterator[tuple[float, dict[str, Any]]]:
    """Events of a stream, each with the time at which its last byte came."""
    waiting = b""
    async for received in response.aiter_raw():
        arrived = time.perf_counter()
        *lines, waiting = (waiting + received).split(b"\n")
        for line in lines:
            if line.startswith(_DATA) and _DONE not in line:
                yield arrived, json.loads(line.removeprefix(_DATA))


def _failed(question: Question, reason: str) -> EngineError:
    return EngineError(f"request {question.prompt.key} failed: {' '.join(reason.split())}.")
