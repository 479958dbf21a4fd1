"""Verdict on a challenger: what was decided, why, and the numbers behind it."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dpace_serve.acceptance.confidence_sequence import Interval
from dpace_serve.acceptance.verdict_rule import VerdictRule

Design = Literal["paired", "split"]
"""paired: the challenger shadowed requests that the champion served; split: each served its own."""

Decision = Literal["promote", "hold", "rollback"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)

Cause = Literal[
    "lift",
    "loss",
    "unclear",
    "too_little_data",
    "sample_ratio_mismatch",
    "lost_pairs",
    "step_time_unknown",
]

StepTimeSource = Literal["same_shape", "calibration"]
"""same_shape: both drafters have one shape and draft length, so their steps take the same time."""

_LARGEST_LOG = 700.0  # beyond, exp overflows


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long the challenger's steps take against the champion's, taken as known exactly.

    Attributes:
        ratio: Time of a step of the challenger over that of the champion, above 0.
        source: Where it is known from.
    """

    ratio: float
    source: StepTimeSource

    def __post_init__(self) -> None:
        """Refuse what is no ratio of times."""
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise ValueError(
                f"a ratio of step times must be above 0, got {self.ratio}. "
                "Give none where the times are not known."
            )

    def to_dict(self) -> dict[str, Any]:
        """The ratio for JSON."""
        return {"ratio": self.ratio, "source": self.source}


@dataclass(frozen=True, slots=True)
class TauComparison:
    """Tokens per step of both drafters, bonus token included.

    Attributes:
        champion: Tau of the champion.
        challenger: Tau of the challenger.
        log_lift: Logarithm of the challenger's over the champion's.
    """

    champion: Interval
    challenger: Interval
    log_lift: Interval

    def to_dict(self) -> dict[str, Any]:
        """The numbers for JSON, the lift as a share."""
        return {
            "champion": _tau_dict(self.champion),
            "challenger": _tau_dict(self.challenger),
            **lift_dict(self.log_lift),
        }


@dataclass(frozen=True, slots=True)
class PositionComparison:
    """Acceptance of one draft position under both drafters.

    Attributes:
        position: Draft position, from 1.
        champion: Its rate under the champion.
        challenger: Its rate under the challenger.
        difference: The challenger's less the champion's; holds for all positions together.
    """

    position: int
    champion: float
    challenger: float
    difference: Interval

    def to_dict(self) -> dict[str, Any]:
        """The numbers for JSON."""
        return {
            "position": self.position,
            "champion": self.champion,
            "challenger": self.challenger,
            "difference": self.difference.estimate,
            "low": self.difference.low,
            "high": self.difference.high,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer to: shall the challenger replace the champion?

    Attributes:
        design: How the two were compared.
        decision: What to do with the challenger.
        cause: Why, in a word.
        reason: Why, in a sentence with the numbers.
        requests: Requests of the champion and of the challenger; equal if paired.
        rule: What was asked for.
        step_time: How long steps take, if known.
        effect: Logarithm of the challenger's tokens per second over the champion's.
        tau: Tokens per step of both.
        positions: What separates the drafters at each draft position with enough requests, where at
            least one of them has a rate other than 0 and 1.
        more_requests: About how many further requests of the smaller arm (pairs, if paired) the
            interval needs to leave the undecided zone, if the estimate stays what it is; none if it
            is decided, the estimate lies inside the zone, or it would take a billion times as many.
    """

    design: Design
    decision: Decision
    cause: Cause
    reason: str
    requests: tuple[int, int]
    rule: VerdictRule
    step_time: StepTime | None
    effect: Interval | None = None
    tau: TauComparison | None = None
    positions: tuple[PositionComparison, ...] = ()
    more_requests: int | None = None

    @property
    def best_lift(self) -> Interval | None:
        """Logarithm of the gain in tokens per second, else in tau; none without numbers."""
        if self.effect is not None or self.tau is None:
            return self.effect
        return self.tau.log_lift

    def to_dict(self) -> dict[str, Any]:
        """The verdict for JSON; logarithms become lifts, as shares."""
        champion, challenger = self.requests
        return {
            "design": self.design,
            "decision": self.decision,
            "cause": self.cause,
            "reason": self.reason,
            "requests": {"champion": champion, "challenger": challenger},
            "effect": self.effect and {"of": "tokens_per_second", **lift_dict(self.effect)},
            "tau": self.tau and self.tau.to_dict(),
            "step_time": self.step_time and self.step_time.to_dict(),
            "positions": [position.to_dict() for position in self.positions],
            "more_requests": self.more_requests,
            "rule": self.rule.to_dict(),
        }


def lift_of(log_ratio: float) -> float:
    """A logarithm as a lift: 0.05 for 5 % more."""
    return math.expm1(min(log_ratio, _LARGEST_LOG))


def lift_dict(log_ratio: Interval) -> dict[str, float]:
    """A logarithm with its bounds as lifts, for JSON."""
    return {
        "lift": lift_of(log_ratio.estimate),
        "low": lift_of(log_ratio.low),
        "high": lift_of(log_ratio.high),
    }


def _tau_dict(tau: Interval) -> dict[str, float]:
    return {"tau": tau.estimate, "low": tau.low, "high": tau.high}
