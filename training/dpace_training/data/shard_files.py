"""The files of cached features: whole shards of documents in safetensors, written in one step."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpace_serve.durable_file import write_whole
from dpace_serve.errors import ConfigError

SHARD_TENSORS = frozenset({"taps", "next_token", "offsets"})
FINAL_TENSORS = frozenset({"final"})
# Shards used to hold this many documents each, and were numbered.
OLD_SHARD_DOCUMENTS = 512


def shard_path(folder: Path, first: int) -> Path:
    """File of the taps and next tokens of the documents from this place on."""
    return _path(folder, "shard", first)


def final_shard_path(folder: Path, first: int) -> Path:
    """File of the final states of the same documents."""
    return _path(folder, "final", first)


def write_shard(
    path: Path,
    taps: Sequence[Float[Tensor, "_ features"]],
    next_token: Sequence[Int[Tensor, " _"]],
) -> None:
    """Write documents one after another; `offsets` say where each starts and ends."""
    lengths = torch.tensor([0] + [len(tokens) for tokens in next_token])
    tensors = {
        "taps": torch.cat(list(taps)).cpu(),
        "next_token": torch.cat(list(next_token)),
        "offsets": lengths.cumsum(dim=0),
    }
    _save_whole(path, tensors)


def write_final_shard(path: Path, finals: Sequence[Float[Tensor, "_ hidden"]]) -> None:
    """Write the final states of the same documents."""
    _save_whole(path, {"final": torch.cat(list(finals)).cpu()})


def shard_damage(path: Path, lengths: Sequence[int], first: int) -> str | None:
    """Why a shard cannot be used, in one line; None if it is whole.

    A file that was cut is found by its length, which its header says; other bytes are not read.

    Args:
        path: An existing file.
        lengths: Tokens of each document of the cache.
        first: Place of the shard's first document.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if missing := SHARD_TENSORS - set(file.keys()):
                return f"it lacks {', '.join(sorted(missing))}"
            found = file.get_tensor("offsets").diff().tolist()
    except (OSError, SafetensorError) as error:
        return _one_line(error)
    expected = list(lengths[first : first + len(found)])
    return None if found and found == expected else "it holds other documents"


def final_shard_damage(path: Path, num_tokens: int) -> str | None:
    """The same of a file of final states, which must hold this many tokens."""
    try:
        with safe_open(path, framework="pt") as file:
            if missing := FINAL_TENSORS - set(file.keys()):
                return f"it lacks {', '.join(sorted(missing))}"
            found, *_ = file.get_slice("final").get_shape()
    except (OSError, SafetensorError) as error:
        return _one_line(error)
    return None if found == num_tokens else "it holds other documents"


def num_documents(path: Path) -> int:
    """Documents of a whole shard."""
    with opened(path) as file:
        return len(file.get_tensor("offsets")) - 1


@contextmanager
def opened(path: Path) -> Generator[safe_open, None, None]:
    """The mapped file; its tensors keep the mapping after the context.

    Raises:
        ConfigError: If it has gone or was damaged since it was written.
    """
    try:
        file = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({_one_line(error)}). The same command makes it again."
        ) from None
    with file:
        yield file


def _path(folder: Path, kind: str, first: int) -> Path:
    number, rest = divmod(first, OLD_SHARD_DOCUMENTS)
    old = folder / f"{kind}-{number:05d}.safetensors"
    return old if rest == 0 and old.exists() else folder / f"{kind}-{first:08d}.safetensors"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _save_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        write_whole(path, lambda file: save_file(tensors, file))
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{path}: cannot be written ({_one_line(error)}). Free space or choose "
            "another folder; the files written before are kept."
        ) from None
