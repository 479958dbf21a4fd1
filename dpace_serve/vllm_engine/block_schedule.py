"""The file that says how many tokens to draft at which batch size, and how the server uses it.

vLLM reads such a table as `num_speculative_tokens_per_batch_size`; batch sizes above the table's
last range draft as that range does.
"""

from argparse import Namespace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpace_serve.acceptance.cost import LengthRange
from dpace_serve.config import Config, build_config
from dpace_serve.drafter import checkpoint
from dpace_serve.durable_file import write_whole
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import MAX_JSON_BYTES, parse_json, read_text
from dpace_serve.serve_config import ServeConfig

TABLE_KEY = "num_speculative_tokens_per_batch_size"

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]


class TunedMachine(Config):
    """Where a schedule was measured."""

    device: str
    """What the engine computes on."""
    cpu: str
    """Model of the processor."""
    num_cores: PositiveCount
    """Cores that the measurement could use."""
    engine: str
    """The engine and its version."""


class MeasuredPoint(Config):
    """One draft length at one batch size."""

    batch_size: PositiveCount
    """Requests in the batch."""
    num_draft_tokens: Count
    """Draft tokens per step; 0 is speculation off, with the drafter still loaded."""
    step_ms: Annotated[float, Field(gt=0)]
    """Time of a full step without prompts, the median over rounds."""
    tau: Annotated[float, Field(ge=1)]
    """Tokens per step at this length."""
    tokens_per_second: Annotated[float, Field(gt=0)]
    """Tokens per second while the batch is full."""


class BlockSchedule(Config):
    """What `dpace tune` writes and `dpace serve --block-schedule` reads."""

    format: Literal[1]
    """Version of this form."""
    target: str
    """Target that it was measured with."""
    drafter: str
    """Drafter that it was measured with."""
    revision: str
    """Revision of that drafter's checkpoint; the schedule holds for no other."""
    num_draft_tokens: PositiveCount
    """Draft tokens that the engine was started with, the most that a step may draft."""
    machine: TunedMachine
    """Where it was measured."""
    schedule: Annotated[tuple[LengthRange, ...], Field(min_length=1)]
    """First batch size, last batch size, draft tokens per step; each range follows the last."""
    measured: tuple[MeasuredPoint, ...]
    """What the schedule follows from."""

    @model_validator(mode="after")
    def _has_a_length_for_every_batch_size(self) -> Self:
        expected = 1
        for first, last, num_draft_tokens in self.schedule:
            if first != expected or last < first:
                raise ValueError(f"the range {[first, last]} must start at batch size {expected}")
            if not 0 <= num_draft_tokens <= self.num_draft_tokens:
                raise ValueError(f"a length must lie in 0..{self.num_draft_tokens}")
            expected = last + 1
        return self

    def length_at(self, batch_size: int) -> int:
        """Draft tokens per step at a batch size."""
        for _, last, num_draft_tokens in self.schedule:
            if batch_size <= last:
                return num_draft_tokens
        return self.schedule[-1][2]


def read_schedule(path: Path) -> BlockSchedule:
    """Read a schedule.

    Raises:
        ConfigError: If the file cannot be read or is no such schedule.
    """
    try:
        values = parse_json(read_text(path, max_bytes=MAX_JSON_BYTES))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a JSON object. Write it with `dpace tune`.")
    return build_config(BlockSchedule, values, source=str(path))


def write_schedule(path: Path, schedule: BlockSchedule) -> None:
    """Write a schedule, whole or not at all.

    Raises:
        ConfigError: If the file cannot be written.
    """
    text = schedule.model_dump_json(indent=2) + "\n"
    try:
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}). Choose another path."
        ) from None


def require_fitting_schedule(config: ServeConfig) -> None:
    """Refuse a schedule that says nothing about what is served; needs no engine.

    Raises:
        CheckpointError: If the drafter cannot be read.
        ConfigError: If the schedule cannot be read, was measured with another drafter, or drafts
            more than is served.
    """
    path = config.block_schedule
    if path is None:
        return
    schedule = read_schedule(path)
    if config.drafter is None:
        raise ConfigError(f"{path}: a block schedule needs a drafter. Add --drafter, or drop it.")
    revision = checkpoint.revision(config.drafter)
    if schedule.revision != revision:
        raise ConfigError(
            f"{path}: made for revision {schedule.revision} of {schedule.drafter}, the drafter is "
            f"revision {revision}. Measure this one with `dpace tune`."
        )
    served = config.num_draft_tokens or checkpoint.read_config(config.drafter).num_draft_tokens
    longest = max(num_draft_tokens for _, _, num_draft_tokens in schedule.schedule)
    if longest > served:
        raise ConfigError(
            f"{path}: drafts up to {longest} tokens, num_draft_tokens is {served}. Serve with "
            f"num_draft_tokens={schedule.num_draft_tokens}, or measure with {served}."
        )


def use_schedule(config: ServeConfig, args: Namespace) -> None:
    """Put the schedule, if there is one, into the arguments of the engine's server.

    Raises:
        ConfigError: If the engine would drop it.
    """
    if config.block_schedule is None:
        return
    require_one_replica(args)
    ranges = read_schedule(config.block_schedule).schedule
    args.speculative_config = {**args.speculative_config, TABLE_KEY: [list(one) for one in ranges]}


def require_one_replica(args: Namespace) -> None:
    """Refuse data parallelism: vLLM drops a schedule then, with a warning only.

    Its replicas step together and could ask for different lengths.

    Raises:
        ConfigError: If there are several replicas.
    """
    if args.data_parallel_size > 1:
        raise ConfigError(
            "a block schedule needs --data-parallel-size 1, got "
            f"{args.data_parallel_size}. Serve replicas as servers of their own."
        )
