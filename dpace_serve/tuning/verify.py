"""The schedule run against every fixed draft length on the same prompts, in turn.

All of them run in one engine, set up for lengths that change, with its drafter loaded. Two servers
may be faster than their rows here: one without a drafter, and on a GPU one with a single length,
for vLLM's V1 runner gives up full CUDA graphs where lengths change.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dpace_serve.acceptance.cost import LengthRange
from dpace_serve.tuning.config import TuneConfig
from dpace_serve.tuning.measure import Answering, PromptOrder, constant, in_turn, traffic


@dataclass(frozen=True, slots=True)
class VerifiedBatch:
    """The schedule against the fixed lengths at one batch size.

    Speeds are tokens of all answers over the time from first prompt to last answer, so prompts
    and the last, smaller batches are in them.

    Attributes:
        batch_size: Requests in flight.
        tokens_per_second: Of the schedule; the median over rounds.
        fixed: The same for each fixed length.
        best_fixed: The length with the highest of these.
        ratio: Schedule over the best fixed length; the median of the ratios inside a round.
        low: Smallest of these ratios.
        high: Largest of them.
    """

    batch_size: int
    tokens_per_second: float
    fixed: dict[int, float]
    best_fixed: int
    ratio: float
    low: float
    high: float


def verify_schedule(
    engine: Answering,
    schedule: tuple[LengthRange, ...],
    lengths: Sequence[int],
    batch_sizes: Sequence[int],
    order: PromptOrder,
    config: TuneConfig,
    on_run: Callable[[], None],
) -> list[VerifiedBatch]:
    """Run the schedule and each fixed length, `config.rounds` times at each batch size.

    Raises:
        EngineError: If the engine fails.
    """
    verified = []
    for size in batch_sizes:
        tables = [schedule, *(constant(length) for length in lengths)]
        speeds: list[list[float]] = [[] for _ in tables]
        for round_number in range(config.rounds):
            for place in in_turn(range(len(tables)), round_number):
                run = engine.answer(traffic(config, tables[place], size, order, round_number))
                speeds[place].append(run.num_tokens / run.seconds)
                on_run()
        verified.append(_compare(size, speeds[0], dict(zip(lengths, speeds[1:], strict=True))))
    return verified


def _compare(
    batch_size: int, schedule: Sequence[float], fixed: dict[int, list[float]]
) -> VerifiedBatch:
    medians = {length: statistics.median(speeds) for length, speeds in fixed.items()}
    best = max(medians, key=lambda length: medians[length])
    ratios = [ours / theirs for ours, theirs in zip(schedule, fixed[best], strict=True)]
    return VerifiedBatch(
        batch_size=batch_size,
        tokens_per_second=statistics.median(schedule),
        fixed=medians,
        best_fixed=best,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
    )
