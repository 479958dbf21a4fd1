"""Questions sent through the OpenAI client, one or a few at a time, and what came back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import httpx2
from openai import AsyncOpenAI, OpenAIError
from pydantic import BaseModel

from dpace_serve.demo.prompts import DemoPrompt
from dpace_serve.errors import EngineError

TEMPERATURE = 0.0
WORKLOAD_TAG = "dpace_workload"


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer.

    Attributes:
        response_id: The server's name of the request.
        text: The answer.
        token_ids: Its tokens; none where the server did not return them.
        completion_tokens: Its length in tokens, as the server counted.
        started: Reading of the clock when the request was sent, in seconds.
        seconds: From sending the request to the last byte.
    """

    response_id: str
    text: str
    token_ids: tuple[int, ...] | None
    completion_tokens: int
    started: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where questions go and how they are asked."""

    url: str
    model: str
    max_new_tokens: int
    timeout_seconds: float
    concurrency: int

    def ask_all(
        self, prompts: Sequence[DemoPrompt], *, on_answer: Callable[[], None]
    ) -> list[Answer]:
        """Answers in the order of the prompts, `concurrency` requests at a time.

        Raises:
            EngineError: If a request fails.
        """
        try:
            return asyncio.run(self._ask_all(prompts, on_answer))
        except asyncio.CancelledError:
            # Only Ctrl-C cancels it. Python's runner installs its handler before it sets the count
            # of interrupts to 0, so one that comes in between leaves as a bare cancellation.
            raise KeyboardInterrupt from None

    async def _ask_all(
        self, prompts: Sequence[DemoPrompt], on_answer: Callable[[], None]
    ) -> list[Answer]:
        places = asyncio.Semaphore(self.concurrency)
        # No retries: a second attempt would hide a failure and count twice at the server.
        async with AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key="not-needed",
            timeout=self.timeout_seconds,
            max_retries=0,
        ) as client:

            async def ask(prompt: DemoPrompt) -> Answer:
                async with places:
                    try:
                        answer = await self._ask(client, prompt)
                    except (OpenAIError, httpx2.HTTPError) as error:  # the second: a stream cut off
                        reason = " ".join(str(error).split())
                        raise EngineError(
                            f"request {prompt.key} to {self.url} failed: {reason}."
                        ) from error
                on_answer()
                return answer

            tasks: list[asyncio.Task[Answer]] = []
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(ask(prompt)) for prompt in prompts]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None  # the others were cancelled
        return [task.result() for task in tasks]

    async def _ask(self, client: AsyncOpenAI, prompt: DemoPrompt) -> Answer:
        started = time.perf_counter()
        ask = _chat if prompt.is_chat else _complete
        parts = [part async for part in ask(client, prompt, self.model, self.max_new_tokens)]
        seconds = time.perf_counter() - started
        return _join(parts, started=started, seconds=seconds, key=prompt.key)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one response object or one chunk of a stream says."""

    response_id: str
    text: str
    token_ids: tuple[int, ...]
    completion_tokens: int


async def _chat(
    client: AsyncOpenAI, prompt: DemoPrompt, model: str, max_new_tokens: int
) -> AsyncIterator[_Part]:
    if not prompt.is_streamed:
        whole = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt.text}],
            temperature=TEMPERATURE,
            max_completion_tokens=max_new_tokens,
            extra_body=_extra_body(prompt),
        )
        choice = whole.choices[0]
        length = whole.usage.completion_tokens if whole.usage else 0
        yield _Part(whole.id, choice.message.content or "", _token_ids(choice), length)
        return
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt.text}],
        temperature=TEMPERATURE,
        max_completion_tokens=max_new_tokens,
        extra_body=_extra_body(prompt),
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        for delta in chunk.choices:
            yield _Part(chunk.id, delta.delta.content or "", _token_ids(delta), 0)
        if chunk.usage is not None:
            yield _Part(chunk.id, "", (), chunk.usage.completion_tokens)


async def _complete(
    client: AsyncOpenAI, prompt: DemoPrompt, model: str, max_new_tokens: int
) -> AsyncIterator[_Part]:
    if not prompt.is_streamed:
        whole = await client.completions.create(
            model=model,
            prompt=prompt.text,
            temperature=TEMPERATURE,
            max_tokens=max_new_tokens,
            extra_body=_extra_body(prompt),
        )
        length = whole.usage.completion_tokens if whole.usage else 0
        yield _Part(whole.id, whole.choices[0].text, _token_ids(whole.choices[0]), length)
        return
    stream = await client.completions.create(
        model=model,
        prompt=prompt.text,
        temperature=TEMPERATURE,
        max_tokens=max_new_tokens,
        extra_body=_extra_body(prompt),
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        for choice in chunk.choices:
            yield _Part(chunk.id, choice.text, _token_ids(choice), 0)
        if chunk.usage is not None:
            yield _Part(chunk.id, "", (), chunk.usage.completion_tokens)


def _extra_body(prompt: DemoPrompt) -> dict[str, object]:
    return {"return_token_ids": True, "vllm_xargs": {WORKLOAD_TAG: prompt.workload}}


def _token_ids(choice: BaseModel) -> tuple[int, ...]:
    return tuple((choice.model_extra or {}).get("token_ids") or ())


def _join(parts: Sequence[_Part], *, started: float, seconds: float, key: str) -> Answer:
    length = sum(part.completion_tokens for part in parts)
    if not length:
        raise EngineError(f"the answer to {key} came without usage. Serve with dpace serve.")
    token_ids = tuple(token for part in parts for token in part.token_ids)
    return Answer(
        response_id=parts[0].response_id,
        text="".join(part.text for part in parts),
        # Ids that do not add up to the answer prove nothing, so they are not compared.
        token_ids=token_ids if len(token_ids) == length else None,
        completion_tokens=length,
        started=started,
        seconds=seconds,
    )
