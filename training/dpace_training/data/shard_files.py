"""The files of cached features: whole shards of documents in safetensors, written in one step."""

from collections.abc import Collection, Sequence
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


def shard_path(folder: Path, index: int) -> Path:
    """File of the taps and next tokens of one shard."""
    return folder / f"shard-{index:05d}.safetensors"


def final_shard_path(folder: Path, index: int) -> Path:
    """File of the final states of one shard."""
    return folder / f"final-{index:05d}.safetensors"


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


def damage(path: Path, names: Collection[str]) -> str | None:
    """Why a file cannot be read or does not hold these tensors, in one line; None if it is whole.

    A file that was cut is found by its length, which its header says; other bytes are not read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            missing = set(names) - set(file.keys())
    except (OSError, SafetensorError) as error:
        return " ".join(str(error).split())
    return f"it lacks {', '.join(sorted(missing))}" if missing else None


def _save_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        write_whole(path, lambda file: save_file(tensors, file))
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{path}: cannot be written ({' '.join(str(error).split())}). Free space or choose "
            "another data.work; the files written before are kept."
        ) from None
