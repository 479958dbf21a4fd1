"""What one tuning run decides, and what it measures where it was not told."""

import itertools
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from dpace_serve.config import Config
from dpace_serve.errors import ConfigError
from dpace_serve.serve_config import ServeConfig

DEFAULT_BATCH_SIZES = (1, 2, 4, 8, 16)
DEFAULT_VERIFY_BATCH_SIZES = (1, 4, 16)
MOST_DEFAULT_LENGTHS = 6

BatchSizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Lengths = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2)]


class TuneConfig(Config):
    """Everything `dpace tune` decides."""

    serve: ServeConfig
    """What will be served; the engine is set up from it as `dpace serve` does."""
    prompts: Path
    """JSONL file of prompts like those that will be served."""
    draft_lengths: Lengths | None = None
    """Draft tokens per step to measure; up to six, from 0 to a full block, when not given."""
    batch_sizes: BatchSizes | None = None
    """Batch sizes to measure, from 1; 1, 2, 4, 8, 16 when not given, as far as the engine goes."""
    rounds: Annotated[int, Field(ge=2)] = 5
    """How often each length is measured at each batch size, all lengths in turn."""
    prompts_per_round: Annotated[int, Field(ge=2)] = 12
    """Prompts of one measurement, at least; large batches take more."""
    prompts_per_slot: Annotated[int, Field(ge=2)] = 3
    """Prompts of one measurement for each request of the batch, at least."""
    max_new_tokens: Annotated[int, Field(ge=2)] = 128
    """Longest answer in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature; 0 is greedy."""
    seed: int = 0
    """Seed of the order of the prompts, and of sampling."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Coverage of the intervals of tau."""
    max_tie_loss: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Largest estimated loss at which a shorter length still ties with the fastest, as a share."""
    verify_batch_sizes: BatchSizes | None = None
    """Batch sizes at which `--verify` runs the schedule against every length; 1, 4 and 16 when not
    given, as far as the engine goes."""
    min_verified_ratio: Annotated[float, Field(gt=0)] = 0.95
    """Speed of the schedule over that of the best length below which `--verify` fails."""

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        for name in ("draft_lengths", "batch_sizes", "verify_batch_sizes"):
            values = getattr(self, name)
            if values is not None and not _rises(values):
                raise ValueError(f"{name} must rise strictly, got {list(values)}")
        if self.batch_sizes is not None and self.batch_sizes[0] != 1:
            raise ValueError("batch_sizes must start at 1, so that every batch has a length")
        if self.serve.drafter is None:
            raise ValueError("serve.drafter is not set: without a drafter nothing can be tuned")
        if self.serve.block_schedule is not None:
            raise ValueError("serve.block_schedule must not be set: it is what is measured")
        return self

    def lengths_up_to(self, most: int) -> tuple[int, ...]:
        """Draft tokens per step to measure.

        Args:
            most: Draft tokens that the engine is started with.

        Raises:
            ConfigError: If a given one is larger.
        """
        if self.draft_lengths is None:
            return spread_lengths(most)
        if self.draft_lengths[-1] > most:
            raise ConfigError(
                f"draft_lengths may go up to {most}, which is what is served, got "
                f"{self.draft_lengths[-1]}. Raise serve.num_draft_tokens, or drop it."
            )
        return self.draft_lengths

    def batch_sizes_up_to(self, most: int) -> tuple[int, ...]:
        """Batch sizes to measure.

        Args:
            most: Requests that the engine runs at a time.

        Raises:
            ConfigError: If a given one is larger.
        """
        return _up_to(most, "batch_sizes", self.batch_sizes, DEFAULT_BATCH_SIZES)

    def verify_batch_sizes_up_to(self, most: int) -> tuple[int, ...]:
        """Batch sizes to verify, as `batch_sizes_up_to`.

        Raises:
            ConfigError: If a given one is larger.
        """
        name, given = "verify_batch_sizes", self.verify_batch_sizes
        return _up_to(most, name, given, DEFAULT_VERIFY_BATCH_SIZES)

    def prompts_at(self, batch_size: int) -> int:
        """Prompts of one measurement at a batch size."""
        return max(self.prompts_per_round, self.prompts_per_slot * batch_size)


def spread_lengths(most: int) -> tuple[int, ...]:
    """Up to six lengths from 0 to `most`, as evenly as whole numbers go."""
    last = min(most, MOST_DEFAULT_LENGTHS - 1)
    return tuple(round(place * most / last) for place in range(last + 1))


def _rises(values: tuple[int, ...]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))


def _up_to(
    most: int, name: str, given: tuple[int, ...] | None, default: tuple[int, ...]
) -> tuple[int, ...]:
    if given is None:
        return tuple(size for size in default if size <= most)
    if given[-1] > most:
        raise ConfigError(
            f"{name} may go up to {most}, the engine's max_num_seqs, got {given[-1]}. "
            "Raise --max-num-seqs behind --, or drop it."
        )
    return given
