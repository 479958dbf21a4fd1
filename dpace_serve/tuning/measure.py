"""Step time and tau of each draft length, measured in turn so that a drifting machine is fair."""

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from dpace_serve.acceptance.cost import LengthRange, MeasuredLength
from dpace_serve.errors import ConfigError
from dpace_serve.tuning.config import TuneConfig
from dpace_serve.vllm_engine.tuning_calls import TrafficCall, TrafficRun

MIN_FULL_STEPS = 3


class Answering(Protocol):
    """An engine that answers prompts with a table of draft lengths."""

    def answer(self, call: TrafficCall) -> TrafficRun:
        """Answer the prompts of the call."""
        ...


class PromptOrder:
    """Which prompts each round takes: all in turn, in an order that mixes the workloads."""

    def __init__(self, num_prompts: int, *, seed: int) -> None:
        self._order = list(range(num_prompts))
        random.Random(seed).shuffle(self._order)

    def places(self, count: int, *, round_number: int) -> tuple[int, ...]:
        """Places of the next `count` prompts; a file that is too short is begun again."""
        start = round_number * count
        return tuple(self._order[place % len(self._order)] for place in range(start, start + count))


def constant(num_draft_tokens: int) -> tuple[LengthRange, ...]:
    """The table that drafts as many tokens at every batch size."""
    return ((1, 1, num_draft_tokens),)


def in_turn(lengths: Sequence[int], round_number: int) -> Iterator[int]:
    """The lengths, begun with another one each round: none always follows the same other."""
    start = round_number % len(lengths)
    yield from (*lengths[start:], *lengths[:start])


def warm_up(
    engine: Answering, lengths: Sequence[int], order: PromptOrder, config: TuneConfig
) -> None:
    """Answer a few prompts at each length: engines do some work only once."""
    size = max(1, config.prompts_per_round // config.prompts_per_slot)
    for length in lengths:
        engine.answer(traffic(config, constant(length), size, order, 0))


def measure_lengths(
    engine: Answering,
    lengths: Sequence[int],
    batch_sizes: Sequence[int],
    order: PromptOrder,
    config: TuneConfig,
    on_run: Callable[[], None],
) -> list[MeasuredLength]:
    """Measure every length at every batch size, `config.rounds` times.

    Args:
        engine: Set up for lengths that change.
        lengths: Draft tokens per step.
        batch_sizes: Requests in the batch.
        order: Prompts of each round.
        config: How much to measure.
        on_run: Called after each measurement.

    Raises:
        ConfigError: If the answers are too short to keep a batch full.
        EngineError: If the engine fails.
    """
    seconds: dict[int, dict[int, list[float]]] = {
        length: {size: [] for size in batch_sizes} for length in lengths
    }
    accepted: dict[int, Counter[int]] = {length: Counter() for length in lengths}
    steps: dict[int, Counter[int]] = {length: Counter() for length in lengths}
    for round_number in range(config.rounds):
        for size in batch_sizes:
            for length in in_turn(lengths, round_number):
                run = engine.answer(traffic(config, constant(length), size, order, round_number))
                seconds[length][size].append(_step_seconds(run, size, length))
                for answer in run.answers:
                    accepted[length][answer.place] += answer.accepted
                    steps[length][answer.place] += answer.steps
                on_run()
    return [
        MeasuredLength(
            num_draft_tokens=length,
            # The same places for all lengths, so these are pairs.
            pairs=tuple(
                (accepted[length][place], steps[length][place]) for place in sorted(steps[length])
            ),
            step_seconds={size: tuple(rounds) for size, rounds in seconds[length].items()},
        )
        for length in lengths
    ]


def traffic(
    config: TuneConfig,
    ranges: tuple[LengthRange, ...],
    batch_size: int,
    order: PromptOrder,
    round_number: int,
) -> TrafficCall:
    """One round's prompts at this batch size, drafted by this table."""
    return TrafficCall(
        ranges=ranges,
        batch_size=batch_size,
        places=order.places(config.prompts_at(batch_size), round_number=round_number),
        temperature=config.temperature,
        seed=config.seed,
    )


def _step_seconds(run: TrafficRun, batch_size: int, num_draft_tokens: int) -> float:
    if len(run.full_step_seconds) < MIN_FULL_STEPS:
        raise ConfigError(
            f"a measurement needs {MIN_FULL_STEPS} steps with {batch_size} requests and no prompt, "
            f"got {len(run.full_step_seconds)} at {num_draft_tokens} draft tokens. Give prompts "
            "with longer answers, raise prompts_per_slot, or leave that batch size out."
        )
    return statistics.median(run.full_step_seconds)
