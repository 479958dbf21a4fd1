"""What a verdict asks for."""

import math
from dataclasses import dataclass
from typing import Any

FEWEST_REQUESTS = 50
"""Below this neither the standard error nor the confidence sequence can be trusted."""


@dataclass(frozen=True, slots=True)
class VerdictRule:
    """Margins, confidence and sizes that a verdict is made with, fixed before the data comes in.

    Attributes:
        minimum_lift: Gain in tokens per second that must be exceeded to promote, as a share.
        maximum_loss: Loss that must be exceeded to roll back: the champion makes that share more.
        confidence: Coverage in (0, 1) of each interval over all moments at which one looks; that
            of the positions is of all of them together.
        planned_requests: Requests per arm at which intervals are narrowest against their error.
        minimum_requests: Requests per arm below which there is no answer; with weights, in each
            workload that has one.
    """

    minimum_lift: float
    maximum_loss: float
    confidence: float
    planned_requests: int
    minimum_requests: int

    def __post_init__(self) -> None:
        """Refuse what no verdict can be made with."""
        margins = (self.minimum_lift, self.maximum_loss)
        if not all(math.isfinite(margin) and margin >= 0 for margin in margins):
            raise ValueError(
                f"minimum_lift and maximum_loss must be shares of 0 or more, got {margins}. "
                "Use 0.02 for 2 %."
            )
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"confidence must lie between 0 and 1, got {self.confidence}. Use 0.95."
            )
        if self.minimum_requests < FEWEST_REQUESTS:
            raise ValueError(
                f"minimum_requests must be at least {FEWEST_REQUESTS}, got "
                f"{self.minimum_requests}: fewer have no error that can be trusted."
            )
        if self.planned_requests < self.minimum_requests:
            raise ValueError(
                f"planned_requests must be at least minimum_requests = {self.minimum_requests}, "
                f"got {self.planned_requests}. Plan more, or ask for fewer."
            )

    @property
    def promote_above(self) -> float:
        """Logarithm of the gain that the lower bound must exceed."""
        return math.log1p(self.minimum_lift)

    @property
    def roll_back_below(self) -> float:
        """Logarithm of the loss that the upper bound must fall below."""
        return -math.log1p(self.maximum_loss)

    def to_dict(self) -> dict[str, Any]:
        """The rule for JSON."""
        return {
            "minimum_lift": self.minimum_lift,
            "maximum_loss": self.maximum_loss,
            "confidence": self.confidence,
            "planned_requests": self.planned_requests,
            "minimum_requests": self.minimum_requests,
        }
