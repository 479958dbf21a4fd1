"""What a tuning run found, and its JSON form."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dpace_serve.acceptance.cost import MeasuredLength, break_even_tokens
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.tuning.verify import VerifiedBatch
from dpace_serve.vllm_engine.block_schedule import BlockSchedule, MeasuredPoint


@dataclass(frozen=True, slots=True)
class TuneRow:
    """One draft length at one batch size.

    Attributes:
        batch_size: Requests in the batch.
        num_draft_tokens: Draft tokens per step.
        step_ms: Time of a full step, the median over rounds.
        step_ms_low: Smallest of the rounds.
        step_ms_high: Largest of the rounds.
        tau: Tokens per step.
        tau_low: Lower bound of its interval, over prompts.
        tau_high: Upper bound.
        tokens_per_second: Of a full batch, without the time of prompts.
        added_tokens: Tokens per step more than the next shorter length brings; none for the first.
        break_even_tokens: What these must exceed to pay for the longer step; none for the first.
        is_chosen: The schedule drafts this many at this batch size.
    """

    batch_size: int
    num_draft_tokens: int
    step_ms: float
    step_ms_low: float
    step_ms_high: float
    tau: float
    tau_low: float
    tau_high: float
    tokens_per_second: float
    added_tokens: float | None
    break_even_tokens: float | None
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class TuneResult:
    """Everything that one run found.

    Attributes:
        schedule: What the server reads.
        rows: What it follows from, by batch size and length.
        max_num_seqs: Requests that the engine runs at a time.
        confidence: Coverage of the intervals of tau.
        verified: The schedule against the fixed lengths; empty where it was not asked for.
        min_verified_ratio: The ratio that each of these has to reach.
    """

    schedule: BlockSchedule
    rows: tuple[TuneRow, ...]
    max_num_seqs: int
    confidence: float
    verified: tuple[VerifiedBatch, ...]
    min_verified_ratio: float

    @property
    def is_verified(self) -> bool:
        """Whether no batch size that was run fell short."""
        return all(batch.ratio >= self.min_verified_ratio for batch in self.verified)

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON; what is undefined is null."""
        return {
            **self.schedule.model_dump(mode="json"),
            "measured": [_finite(asdict(row)) for row in self.rows],
            "max_num_seqs": self.max_num_seqs,
            "confidence": self.confidence,
            "verified": [asdict(batch) for batch in self.verified],
            "min_verified_ratio": self.min_verified_ratio,
        }


def tune_rows(
    lengths: Sequence[MeasuredLength], schedule: BlockSchedule, confidence: float
) -> tuple[TuneRow, ...]:
    """Every measured length at every measured batch size, shorter ones first."""
    rising = sorted(lengths, key=lambda length: length.num_draft_tokens)
    return tuple(
        _row(length, before, batch_size, schedule.length_at(batch_size), confidence)
        for batch_size in sorted(rising[0].step_seconds)
        for length, before in zip(rising, [None, *rising], strict=False)
    )


def measured_points(lengths: Sequence[MeasuredLength]) -> tuple[MeasuredPoint, ...]:
    """The same for the schedule's own file."""
    return tuple(
        MeasuredPoint(
            batch_size=batch_size,
            num_draft_tokens=length.num_draft_tokens,
            step_ms=1000 * statistics.median(rounds),
            tau=length.tau,
            tokens_per_second=length.goodput(batch_size),
        )
        for length in lengths
        for batch_size, rounds in length.step_seconds.items()
    )


def _row(
    length: MeasuredLength,
    before: MeasuredLength | None,
    batch_size: int,
    chosen: int,
    confidence: float,
) -> TuneRow:
    rounds = length.seconds_at(batch_size)
    low, high = AcceptanceMoments.from_pairs(length.pairs).tau_interval(confidence)
    return TuneRow(
        batch_size=batch_size,
        num_draft_tokens=length.num_draft_tokens,
        step_ms=1000 * statistics.median(rounds),
        step_ms_low=1000 * min(rounds),
        step_ms_high=1000 * max(rounds),
        tau=length.tau,
        tau_low=low,
        tau_high=high,
        tokens_per_second=length.goodput(batch_size),
        added_tokens=None if before is None else length.tau - before.tau,
        break_even_tokens=(
            None if before is None else break_even_tokens(before, length, batch_size)
        ),
        is_chosen=length.num_draft_tokens == chosen,
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
