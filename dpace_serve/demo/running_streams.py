"""Requests kept in flight: a new one starts whenever one ends."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from dpace_serve.demo.streamed_answer import Question, StreamedAnswer, stream_answer
from dpace_serve.errors import EngineError

_NAP_SECONDS = 0.01
"""How often the client looks how late it is itself."""
TOGETHER_SECONDS = 0.001
"""Chunks of one answer that come closer than this were read from the socket as one."""


@dataclass(slots=True)
class StreamLog:
    """What came of the requests of some streams.

    Attributes:
        answers: Number of the question and its answer, in the order in which they ended.
        failures: Why requests failed, one line each.
        lateness_seconds: How much later than planned the client woke, time and again: what the
            client's own work may have added to any time stamp.
    """

    answers: list[tuple[int, StreamedAnswer]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lateness_seconds: list[float] = field(default_factory=list)

    def num_different(self, references: Sequence[StreamedAnswer]) -> int:
        """Answers whose tokens are not those of the reference to the same question."""
        return sum(
            answer.token_ids != references[number].token_ids for number, answer in self.answers
        )

    def gaps(self) -> list[tuple[float, float]]:
        """Times of two chunks that follow each other in one answer, of all answers.

        Chunks that came together count as one: after a delay they come in heaps, whose tiny gaps
        would make it look short.
        """
        gaps = (gap for _, answer in self.answers for gap in itertools.pairwise(answer.arrivals))
        return [gap for gap in gaps if gap[1] - gap[0] >= TOGETHER_SECONDS]


@asynccontextmanager
async def running_streams(
    client: httpx2.AsyncClient, questions: Sequence[Question], *, model: str, num_streams: int
) -> AsyncIterator[StreamLog]:
    """Keep requests in flight, question after question and round again, until the block ends.

    The last requests run to their end. A failure is logged, and its stream goes on.

    Yields:
        The log, which grows.
    """
    log = StreamLog()
    is_over = asyncio.Event()
    numbers = itertools.cycle(range(len(questions)))

    async def stream() -> None:
        while not is_over.is_set():
            number = next(numbers)
            try:
                answer = await stream_answer(client, questions[number], model=model)
            except EngineError as error:
                log.failures.append(str(error))
                await asyncio.sleep(_NAP_SECONDS)  # a dead server fails at once
            else:
                log.answers.append((number, answer))

    async with asyncio.TaskGroup() as group:
        for _ in range(num_streams):
            group.create_task(stream())
        group.create_task(_watch_lateness(log, is_over))
        try:
            yield log
        finally:
            is_over.set()


async def ask_all(
    client: httpx2.AsyncClient, questions: Sequence[Question], *, model: str, num_streams: int
) -> list[StreamedAnswer]:
    """Answers in the order of the questions, some requests at a time.

    Raises:
        EngineError: If a request fails.
    """
    places = asyncio.Semaphore(num_streams)

    async def ask(question: Question) -> StreamedAnswer:
        async with places:
            return await stream_answer(client, question, model=model)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(question)) for question in questions]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others were cancelled
    return [task.result() for task in tasks]


async def _watch_lateness(log: StreamLog, is_over: asyncio.Event) -> None:
    clock = asyncio.get_running_loop().time
    while not is_over.is_set():
        planned = clock() + _NAP_SECONDS
        await asyncio.sleep(_NAP_SECONDS)
        log.lateness_seconds.append(clock() - planned)
