"""What the two processes of an offline engine say to each other."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Which hidden states the engine exports, and where its files lie until they are read.

    `layer_ids` rise strictly; id i is the output of decoder layer i, from 0, before the final norm.
    """

    layer_ids: tuple[int, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an offline engine runs a target.

    `dtype` is its number format; `max_model_len` counts prompt and answer in tokens. `export` is
    None for an engine that generates.
    """

    target: Path
    dtype: str
    max_model_len: int
    max_num_seqs: int
    tensor_parallel_size: int
    gpu_memory_utilization: float
    eager: bool
    export: ExportSettings | None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, the longest answer in tokens and the seed of its sampling."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class FinishedAnswer:
    """The new tokens of the request at this place of its call, the end token included."""

    place: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """Asks for answers, which come in as many messages as it takes, each when its answers end."""

    requests: tuple[GenerationRequest, ...]
    temperature: float
    end_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class ExportCall:
    """Asks for hidden states."""

    documents: tuple[tuple[int, ...], ...]
