"""Reads, checks and writes a drafter's folder: `config.json` and safetensors.

Written is the z-lab layout; a folder of the speculators layout is read too, as vLLM serves it.
Importing and checking need no torch; only reading and writing the tensors themselves do.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.drafter.content import CONFIG_FILE, require_folder, revision
from dpace_serve.drafter.layout import check_layout, default_target_layer_ids, tensor_shapes
from dpace_serve.drafter.speculators import as_served, is_speculators
from dpace_serve.drafter.weight_files import (
    INDEX_FILE,
    SINGLE_FILE,
    find_weight_files,
    read_entries,
    read_json,
)
from dpace_serve.durable_file import flush
from dpace_serve.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = [
    "CONFIG_FILE",
    "DrafterConfig",
    "default_target_layer_ids",
    "read_config",
    "read_tensors",
    "revision",
    "tensor_shapes",
    "validate",
    "write",
    "write_files",
]

_STAGING = ".writing-"


def read_config(folder: Path) -> DrafterConfig:
    """The drafter's configuration, without a look at its weights.

    Raises:
        CheckpointError: If the folder or file is missing, or the configuration breaks a rule.
    """
    require_folder(folder)
    path = folder / CONFIG_FILE
    if not path.exists():
        raise CheckpointError(
            f"{folder}: no drafter, {CONFIG_FILE} is missing. Give the folder of an exported"
            " drafter."
        )
    values = read_json(path)
    try:
        if is_speculators(values):
            return as_served(values)
        return DrafterConfig.from_dict(values)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def validate(folder: Path) -> DrafterConfig:
    """Check configuration, files, the exact set of tensors, their shapes and number format.

    Neither engine notices a missing tensor, so this is where it is found.

    Raises:
        CheckpointError: On the first thing wrong: what, where and what to do.
    """
    config = read_config(folder)
    entries = read_entries(folder)
    try:
        check_layout(config, entries)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    return config


def read_tensors(folder: Path) -> "dict[str, torch.Tensor]":
    """All tensors of a drafter, on the CPU, after `validate`.

    Raises:
        CheckpointError: If the drafter is missing or damaged.
    """
    from dpace_serve.drafter import tensors  # torch is loaded only where tensors are

    validate(folder)
    return tensors.load(find_weight_files(folder))


def write(folder: Path, config: DrafterConfig, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Write a drafter so that equal contents give equal bytes.

    Nobody can read a mixture of an old and a new drafter: `config.json` goes first and comes
    back last, and every file is complete before it gets its name.

    Raises:
        CheckpointError: If the tensors are not exactly those that `config` asks for.
    """
    from dpace_serve.drafter import tensors as torch_tensors

    check_layout(config, torch_tensors.describe(tensors))
    write_files(folder, config.to_dict(), tensors)


def write_files(
    folder: Path, values: Mapping[str, Any], tensors: "Mapping[str, torch.Tensor]"
) -> None:
    """Write configuration and tensors as they are, in the way of `write`; checks nothing."""
    from dpace_serve.drafter import tensors as torch_tensors

    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    text = json.dumps({**values, "dtype": dtype}, indent=2, sort_keys=True) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(f"{_STAGING}*"):  # by a process that was killed while it wrote
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_STAGING) as made:
        staged = Path(made)
        torch_tensors.save(staged / SINGLE_FILE, tensors)
        (staged / CONFIG_FILE).write_text(text, encoding="utf-8")
        # safetensors makes files that only their owner may read; a server may be another user.
        (staged / SINGLE_FILE).chmod((staged / CONFIG_FILE).stat().st_mode)
        for name in (SINGLE_FILE, CONFIG_FILE):
            flush(staged / name)
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        for stale in folder.glob("*.safetensors"):
            stale.unlink()
        for name in (SINGLE_FILE, CONFIG_FILE):
            # A power cut may bring back the old names in any order, but for those flushed before.
            flush(folder)
            (staged / name).replace(folder / name)
        flush(folder)
