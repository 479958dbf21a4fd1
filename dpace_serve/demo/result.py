"""What a demo run found, and its JSON form."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from dpace_serve.demo.figures import ArmFigures, DraftingFigures, PairedFigures, TauEstimate
from dpace_serve.demo.machine import Machine


@dataclass(frozen=True, slots=True)
class Example:
    """One question and its answer, to read."""

    workload: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything that one run found.

    Attributes:
        target: Name of the target.
        block_size: Anchor plus draft tokens.
        temperature: Sampling temperature; 0 is greedy.
        arms: Figures of each arm, the one without speculation first.
        paired: Comparisons of two drafters on the same prompts.
        num_prompts: Prompts that each arm answered.
        num_right: Right answers, of those that can be checked.
        num_checked: Answers that can be checked.
        compared: What identity means here: the tokens, or only the text.
        confidence: Coverage of the intervals.
        machine: Where it was measured.
        examples: A few answers, to read.
    """

    target: str
    block_size: int
    temperature: float
    arms: tuple[ArmFigures, ...]
    paired: tuple[PairedFigures, ...]
    num_prompts: int
    num_right: int
    num_checked: int
    compared: str
    confidence: float
    machine: Machine
    examples: tuple[Example, ...]

    @property
    def is_lossless(self) -> bool:
        """Whether speculation changed no answer."""
        return all(arm.num_identical == self.num_prompts for arm in self.arms)

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON; what is undefined is null."""
        return {
            "target": self.target,
            "block_size": self.block_size,
            "temperature": self.temperature,
            "lossless": self.is_lossless,
            "arms": [self._arm(arm) for arm in self.arms],
            "paired": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "tau_ratio": _number(pair.ratio.ratio),
                    "low": _number(pair.ratio.low),
                    "high": _number(pair.ratio.high),
                }
                for pair in self.paired
            ],
            "prompts": self.num_prompts,
            "right_answers": self.num_right,
            "checked_answers": self.num_checked,
            "compared": self.compared,
            "confidence": self.confidence,
            "machine": asdict(self.machine),
        }

    def _arm(self, arm: ArmFigures) -> dict[str, Any]:
        speed = {"name": arm.name, "tokens_per_second": arm.tokens_per_second}
        if arm.drafting is None:
            return speed
        return {
            **speed,
            "speedup": arm.speedup,
            "identical_answers": arm.num_identical,
            **_drafting(arm.drafting),
        }


def _drafting(drafting: DraftingFigures) -> dict[str, Any]:
    return {
        **_estimate(drafting.overall),
        "accepted_per_position": [_number(rate) for rate in drafting.accepted_per_position],
        "workloads": {name: _estimate(part) for name, part in drafting.by_workload.items()},
    }


def _estimate(estimate: TauEstimate) -> dict[str, Any]:
    return {
        "tau": _number(estimate.tau),
        "tau_low": _number(estimate.low),
        "tau_high": _number(estimate.high),
        "steps": estimate.steps,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
