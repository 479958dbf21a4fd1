"""What a drafter's shadow says of it, against what it does when it serves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.moments import AcceptanceMoments, PairedRatio, paired_tau_ratio
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.demo.shadow_truth import TruthRun


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Acceptance of one drafter in one arm.

    Attributes:
        steps: Blocks that were compared with the answer.
        tau: Tokens per step.
        tau_low: Lower bound of its interval, with the prompt as unit.
        tau_high: Upper bound.
        rates: Share of the steps that accepted each position, from position 1.
    """

    steps: int
    tau: float
    tau_low: float
    tau_high: float
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TruthFigures:
    """One drafter in a champion's shadow and alone.

    Attributes:
        drafter: The drafter.
        champion: In whose shadow.
        temperature: Sampling temperature.
        num_prompts: Prompts with records in both arms.
        num_left_out: Prompts without.
        num_different: Greedy answers that differ between the arms.
        shadow: In the shadow.
        alone: Serving.
        ratio: Tau in the shadow over tau alone, paired by prompt: the bias of the anchors.
    """

    drafter: str
    champion: str
    temperature: float
    num_prompts: int
    num_left_out: int
    num_different: int
    shadow: ArmFigures
    alone: ArmFigures
    ratio: PairedRatio


def truth_figures(run: TruthRun, *, confidence: float) -> TruthFigures:
    """Sum up a run; several samples of a prompt depend on each other and count as one unit."""
    shadow = [prompt.shadow for prompt in run.prompts]
    alone = [prompt.alone for prompt in run.prompts]
    return TruthFigures(
        drafter=run.drafter,
        champion=run.champion,
        temperature=run.temperature,
        num_prompts=len(run.prompts),
        num_left_out=run.num_left_out,
        num_different=run.num_different,
        shadow=_arm(shadow, run.num_draft_tokens, confidence),
        alone=_arm(alone, run.num_draft_tokens, confidence),
        ratio=paired_tau_ratio(_pairs(alone), _pairs(shadow), confidence),
    )


Records = Sequence[RequestAcceptance]


def _arm(prompts: Sequence[Records], num_draft_tokens: int, confidence: float) -> ArmFigures:
    counts = AcceptanceCounts.zero(num_draft_tokens)
    for record in (record for records in prompts for record in records):
        counts += record.counts(num_draft_tokens)
    moments = AcceptanceMoments.from_pairs(_pairs(prompts))
    low, high = moments.tau_interval(confidence)
    return ArmFigures(counts.steps, moments.tau, low, high, tuple(counts.rates()))


def _pairs(prompts: Iterable[Records]) -> list[tuple[int, int]]:
    """Accepted draft tokens and verification steps of each prompt."""
    return [
        (sum(record.accepted for record in records), sum(record.steps for record in records))
        for records in prompts
    ]
