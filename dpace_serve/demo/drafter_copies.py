"""Drafters to swap between: copies of the bundled ones, some of them with weights of their own."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
NOISE = 0.01
"""Standard deviation of what is added to a weight, as a share of that of its tensor."""


def write_drafter_root(
    root: Path, drafters: Mapping[str, Path], *, num_perturbed: int
) -> list[str]:
    """Copy drafters into a folder, and add perturbed copies of the first.

    Args:
        root: An existing folder.
        drafters: Folder of each drafter, by name.
        num_perturbed: Further drafters, all different.

    Returns:
        Names of the folders under the root, those given first.
    """
    for name, folder in drafters.items():
        shutil.copytree(folder, root / name)
    first = next(iter(drafters))
    names = list(drafters)
    for number in range(1, num_perturbed + 1):
        name = f"{first}-{number}"
        shutil.copytree(root / first, root / name)
        _perturb(root / name / WEIGHTS, seed=number)
        names.append(name)
    return names


def _perturb(file: Path, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(file)
    for name, weight in weights.items():
        noise = torch.randn(weight.shape, generator=generator)
        scale = NOISE * float(weight.float().std(correction=0))
        weights[name] = (weight.float() + scale * noise).to(weight.dtype).contiguous()
    save_file(weights, file, metadata={"format": "pt"})
