"""Moves a drafter's tensors between torch and safetensors; the only file here that needs torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from dpace_serve.drafter.safetensors_header import TensorEntry
from dpace_serve.errors import CheckpointError

_FORMATS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def load(paths: Iterable[Path]) -> dict[str, torch.Tensor]:
    """All tensors of the given safetensors files, on the CPU.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    loaded: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            loaded |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: weights cannot be read ({error}). Copy or export it again."
            ) from None
    return loaded


def save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to one safetensors file; the order of the mapping does not matter."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    save_file(plain, path, metadata={"format": "pt"})


def describe(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorEntry]:
    """Number format and shape of each tensor, in the words of a safetensors header."""
    return {
        name: TensorEntry(
            dtype=_FORMATS.get(tensor.dtype, str(tensor.dtype)), shape=tuple(tensor.shape)
        )
        for name, tensor in tensors.items()
    }


def find(paths: Iterable[Path], name: str) -> dict[str, torch.Tensor]:
    """The tensors of the given files whose name, without prefixes, is `name`.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    found: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (it is no mapping)
                    if key == name or key.endswith(f".{name}"):
                        found[key] = file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: weights cannot be read ({error}). Copy it again."
            ) from None
    return found
