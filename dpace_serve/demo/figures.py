"""From answers and records to the figures that are shown: pure arithmetic, no server."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.moments import AcceptanceMoments, PairedRatio, paired_tau_ratio
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.demo.acceptance_rows import AcceptanceRows
from dpace_serve.demo.prompts import DemoPrompt
from dpace_serve.demo.traffic import Answer
from dpace_serve.errors import EngineError


@dataclass(frozen=True, slots=True)
class ArmRun:
    """What one arm did with the prompts, in their order.

    Attributes:
        name: Name of the arm.
        answers: One per prompt.
        rows: The server's records of these answers; none without a drafter.
    """

    name: str
    answers: tuple[Answer, ...]
    rows: AcceptanceRows | None


@dataclass(frozen=True, slots=True)
class TauEstimate:
    """Tau with its interval, and the verification steps behind it."""

    tau: float
    low: float
    high: float
    steps: int


@dataclass(frozen=True, slots=True)
class DraftingFigures:
    """How well one drafter drafted.

    Attributes:
        overall: Tau over all prompts.
        by_workload: Tau of each workload, in the order of the prompts.
        accepted_per_position: Share of the steps that drafted a position which accepted it and
            all before it, from position 1; nan where none drafted it.
    """

    overall: TauEstimate
    by_workload: dict[str, TauEstimate]
    accepted_per_position: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What one arm achieved.

    Attributes:
        name: Name of the arm.
        tokens_per_second: Tokens of all answers over the time of all requests.
        speedup: That over the first arm's.
        num_identical: Answers equal to the first arm's.
        drafting: Acceptance; none without a drafter.
    """

    name: str
    tokens_per_second: float
    speedup: float
    num_identical: int
    drafting: DraftingFigures | None


@dataclass(frozen=True, slots=True)
class PairedFigures:
    """Tau of arm `a` over tau of arm `b` on the same prompts."""

    a: str
    b: str
    ratio: PairedRatio


def tokens_are_comparable(runs: Sequence[ArmRun]) -> bool:
    """Whether every answer of every arm came with its token ids."""
    return all(answer.token_ids is not None for run in runs for answer in run.answers)


def arm_figures(
    run: ArmRun,
    prompts: Sequence[DemoPrompt],
    *,
    reference: ArmRun,
    confidence: float,
) -> ArmFigures:
    """Figures of one arm against the reference, which is the arm without speculation.

    Raises:
        EngineError: If the arm has a drafter that never drafted.
    """
    speed = _tokens_per_second(run)
    return ArmFigures(
        name=run.name,
        tokens_per_second=speed,
        speedup=speed / _tokens_per_second(reference),
        num_identical=_num_identical(run, reference),
        drafting=_drafting(run, run.rows, prompts, confidence) if run.rows else None,
    )


def paired_figures(runs: Sequence[ArmRun], *, confidence: float) -> tuple[PairedFigures, ...]:
    """Tau of each later drafter over each earlier one, paired by prompt."""
    drafted = [(run.name, _pairs(run.rows)) for run in runs if run.rows is not None]
    return tuple(
        PairedFigures(a, b, paired_tau_ratio(pairs_b, pairs_a, confidence))
        for (b, pairs_b), (a, pairs_a) in itertools.combinations(drafted, 2)
    )


def num_right(run: ArmRun, prompts: Sequence[DemoPrompt]) -> tuple[int, int]:
    """How many answers are right, of how many that have one right answer."""
    checked = [
        answer.text.strip() == prompt.expected.strip()
        for answer, prompt in zip(run.answers, prompts, strict=True)
        if prompt.expected is not None
    ]
    return sum(checked), len(checked)


def _tokens_per_second(run: ArmRun) -> float:
    tokens = sum(answer.completion_tokens for answer in run.answers)
    return tokens / sum(answer.seconds for answer in run.answers)


def _num_identical(run: ArmRun, reference: ArmRun) -> int:
    return sum(
        ours.text == theirs.text
        and (None in (ours.token_ids, theirs.token_ids) or ours.token_ids == theirs.token_ids)
        for ours, theirs in zip(run.answers, reference.answers, strict=True)
    )


def _drafting(
    run: ArmRun, rows: AcceptanceRows, prompts: Sequence[DemoPrompt], confidence: float
) -> DraftingFigures:
    by_workload: dict[str, list[RequestAcceptance]] = {}
    counts = AcceptanceCounts.zero(rows.num_draft_tokens)
    for prompt, answer, record in zip(prompts, run.answers, rows.records, strict=True):
        if record is None:
            continue
        _require_agreement(run.name, prompt, answer, record)
        by_workload.setdefault(prompt.workload, []).append(record)
        counts += record.counts(rows.num_draft_tokens)
    if not counts.steps:
        raise EngineError(
            f"the {run.name} server recorded no verification step for {len(run.answers)} answers. "
            "Check with dpace doctor that the drafter fits the target."
        )
    every = [record for records in by_workload.values() for record in records]
    return DraftingFigures(
        overall=_estimate(every, confidence),
        by_workload={name: _estimate(part, confidence) for name, part in by_workload.items()},
        accepted_per_position=tuple(counts.rates()),
    )


def _require_agreement(
    arm: str, prompt: DemoPrompt, answer: Answer, record: RequestAcceptance
) -> None:
    """Check the server's record against what the client received.

    The first token comes from the prefill and tokens of steps without drafts are nobody's, so an
    answer is at least one token longer than what verification steps emitted.
    """
    if record.workload != prompt.workload or record.emitted_tokens >= answer.completion_tokens:
        raise EngineError(
            f"the {arm} server's record of {prompt.key} must carry its workload and fewer tokens "
            f"than the {answer.completion_tokens} of the answer, got {record.workload} and "
            f"{record.emitted_tokens}. Report this with the server's log."
        )


def _estimate(records: Sequence[RequestAcceptance], confidence: float) -> TauEstimate:
    moments = AcceptanceMoments.from_requests(records)
    low, high = moments.tau_interval(confidence)
    return TauEstimate(tau=moments.tau, low=low, high=high, steps=moments.steps)


def _pairs(rows: AcceptanceRows) -> list[tuple[int, int]]:
    return [(record.accepted, record.steps) if record else (0, 0) for record in rows.records]
