"""What a study compares: objectives, specialists, seeds and prompts around one training run."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpace_serve.config import Config
from dpace_training.config import SpecialistsConfig, TrainConfig
from dpace_training.data.input_config import InputConfig
from dpace_training.evaluation.config import ComparisonConfig, NumberFormat
from dpace_training.losses.config import LossConfig

ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class HeldOutSet(Config):
    """Prompts that no run trains on; the target answers them once for all drafters."""

    conversations: Path
    """File of prompts, in any form of `data.conversations`."""
    input: InputConfig = InputConfig()
    """How the prompts are read."""
    temperature: Literal[0, 1] = 0
    """Sampling temperature of the answers; 0 is greedy."""
    seed: int = 0
    """Seed of sampled answers."""
    max_new_tokens: Annotated[int, Field(ge=2)] = 256
    """Longest answer in tokens; the first comes with the prompt, drafts follow it."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Use only this many prompts, evenly spread over the file."""


class StudyConfig(Config):
    """Every arm is trained once with every seed; nothing else differs but what `steps` says."""

    base: TrainConfig
    """The run that all arms share; its `output` is the folder of the study."""
    arms: Annotated[dict[ArmName, LossConfig], Field(min_length=1)]
    """Objectives by the name they have in the result."""
    steps: dict[ArmName, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Optimizer steps of arms that need another number, such as more where a step costs less;
    `base.fit.epochs` must allow for them."""
    specialists: dict[ArmName, SpecialistsConfig] = Field(default_factory=dict)
    """Arms whose drafter has position specialists; the drafter of the others is as in `base`."""
    baseline: ArmName
    """The arm that the others are compared with."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """Seeds of the runs: initial weights, order of the documents, anchors."""
    held_out: Annotated[dict[ArmName, HeldOutSet], Field(min_length=1)]
    """Sets of held-out prompts by name."""
    dtype: NumberFormat = ComparisonConfig().dtype
    """Number format in which target and drafters compute when they are measured, whatever the
    training ran in."""

    @model_validator(mode="after")
    def _fits_together(self) -> "StudyConfig":
        if self.baseline not in self.arms:
            raise ValueError(f"baseline must be one of the arms, got {self.baseline!r}")
        for key, named in (("steps", self.steps), ("specialists", self.specialists)):
            if unknown := sorted(named.keys() - self.arms.keys()):
                raise ValueError(f"{key} must name arms of the study, got {unknown}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        return self

    def run(self, arm: str, seed: int) -> TrainConfig:
        """The training run of one arm and seed."""
        fit = {"seed": seed, "max_steps": self.steps.get(arm, self.base.fit.max_steps)}
        specialists = self.specialists.get(arm, self.base.drafter.specialists)
        return self.base.model_copy(
            update={
                "output": self.base.output / arm / f"seed-{seed}",
                "drafter": self.base.drafter.model_copy(update={"specialists": specialists}),
                "loss": self.arms[arm],
                "fit": self.base.fit.model_copy(update=fit),
            }
        )
