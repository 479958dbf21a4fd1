"""What `dpace eval` decides."""

from typing import Annotated, Literal

from pydantic import Field

from dpace_training.config import EvaluationConfig

NumberFormat = Literal["float32", "bfloat16", "float16"]


class ComparisonConfig(EvaluationConfig):
    """Drafters on the same prompts, answered by the target at one temperature."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature of the answers; 0 is greedy. Drafts stay the most likely tokens."""
    seed: int = 0
    """Seed of sampled answers."""
    dtype: NumberFormat = "float32"
    """Number format in which target and drafters compute: the target's answers decide what is
    right, a smaller format is for targets that are too big."""
    all_anchors: bool = True
    """Draft after every token of the answers too: a second number, which is not tau."""
