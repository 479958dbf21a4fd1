"""What `dpace eval` decides."""

from typing import Annotated

from pydantic import Field

from dpace_training.config import EvaluationConfig


class ComparisonConfig(EvaluationConfig):
    """Drafters on the same prompts, answered by the target at one temperature."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature of the answers; 0 is greedy. Drafts stay the most likely tokens."""
    seed: int = 0
    """Seed of sampled answers."""
    all_anchors: bool = True
    """Draft after every token of the answers too: a second number, which is not tau."""
