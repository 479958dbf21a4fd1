"""The files of cached features: whole shards of documents in safetensors, written in one step."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor


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


def _save_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)
