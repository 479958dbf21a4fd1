"""Reads drafters as other tools write them, and writes ours for those tools.

Known are the z-lab layout, which SpecForge writes too, and the speculators layout. The embedding
and the head that a speculators folder may hold must be the target's, and are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpace_serve.drafter.checkpoint import CONFIG_FILE, write, write_files
from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.drafter.layout import DRAFT_VOCABULARY, TARGET_TENSORS, check_layout
from dpace_serve.drafter.safetensors_header import TensorEntry
from dpace_serve.drafter.speculators import (
    from_speculators,
    is_speculators,
    require_a_place,
    to_speculators,
)
from dpace_serve.drafter.target import read_target
from dpace_serve.drafter.weight_files import find_weight_files, read_entries, read_json
from dpace_serve.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

Layout = Literal["zlab", "speculators"]


def read_layout(folder: Path, *, target: Path | None) -> DrafterConfig:
    """Configuration of a drafter in any known layout, its tensors' names and shapes checked.

    Args:
        folder: Folder of the drafter.
        target: Folder of its target, where it is known; some layouts do not name its layers.

    Raises:
        CheckpointError: On the first thing wrong or not supported.
    """
    path = folder / CONFIG_FILE
    values = read_json(path)
    num_layers = None if target is None else read_target(target).num_hidden_layers
    entries = read_entries(folder)
    try:
        _refuse_draft_vocabulary(entries)
        if is_speculators(values):
            config = from_speculators(values, num_target_layers=num_layers)
        else:
            # Some published folders leave it out.
            config = DrafterConfig.from_dict({"num_target_layers": num_layers, **values})
        check_layout(
            config, {name: entry for name, entry in entries.items() if name not in TARGET_TENSORS}
        )
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    return config


def read_drafter(
    folder: Path, *, target: Path | None
) -> "tuple[DrafterConfig, dict[str, torch.Tensor]]":
    """A drafter in any known layout: its configuration and its own tensors, on the CPU.

    Args:
        folder: Folder of the drafter.
        target: Folder of its target; needed where the drafter brings an embedding or a head, which
            must be the target's.

    Raises:
        CheckpointError: On the first thing wrong or not supported.
    """
    from dpace_serve.drafter import tensors as torch_tensors  # torch is loaded only where used

    config = read_layout(folder, target=target)
    loaded = torch_tensors.load(find_weight_files(folder))
    brought = {name: loaded.pop(name) for name in TARGET_TENSORS if name in loaded}
    if brought:
        _require_the_targets(folder, brought, target)
    return config, loaded


def export(drafter: Path, output: Path, *, layout: Layout, target: Path | None) -> None:
    """Write a drafter in a layout; equal drafters give equal bytes.

    Args:
        drafter: Folder of a drafter in any known layout.
        output: New or empty folder.
        layout: Layout to write.
        target: Folder of its target; the speculators layout names it.

    Raises:
        CheckpointError: If the drafter is damaged, or the layout cannot say what it computes.
        ConfigError: If the output is not empty, or a target is needed.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: the output must be a new or empty folder. Choose another.")
    config, tensors = read_drafter(drafter, target=target)
    if layout == "speculators":
        require_a_place(config)  # before a target is asked for that would not help
    if target is not None:
        _require_fit(drafter, config, target)
    if layout == "zlab":
        write(output, config, tensors)
        return
    if target is None:
        raise ConfigError("the speculators layout names the drafter's target. Give --target.")
    architectures = read_json(target / CONFIG_FILE).get("architectures") or []
    written = to_speculators(config, verifier=str(target), verifier_architectures=architectures)
    write_files(output, written, tensors)


def _refuse_draft_vocabulary(entries: Mapping[str, TensorEntry]) -> None:
    found = [name for name in DRAFT_VOCABULARY if name in entries]
    if found:
        raise CheckpointError(
            f"a reduced vocabulary is not supported, found {', '.join(found)}."
            " Give a drafter with the full one."
        )


def _require_fit(folder: Path, config: DrafterConfig, target: Path) -> None:
    facts = read_target(target)
    for key, found, needed in (
        ("target_hidden_size", config.target_hidden_size, facts.hidden_size),
        ("vocab_size", config.vocab_size, facts.vocab_size),
        ("num_target_layers", config.num_target_layers, facts.num_hidden_layers),
    ):
        if found != needed:
            raise CheckpointError(
                f"{folder}: {key} must be {needed} for {target}, got {found}."
                " Give the target that the drafter was trained for."
            )


def _require_the_targets(
    folder: Path, brought: "Mapping[str, torch.Tensor]", target: Path | None
) -> None:
    """Compare embedding and head with the target's, in the drafter's number format."""
    if target is None:
        raise ConfigError(
            f"{folder}: brings {', '.join(brought)}, which must be its target's. Give the target"
            " too (--target), so that they can be compared."
        )
    for name, tensor in brought.items():
        own = _target_tensor(target, name)
        if own.shape != tensor.shape or not bool((own.to(tensor.dtype) == tensor).all()):
            raise CheckpointError(
                f"{folder}: {name} must equal that of {target}, because a drafter uses its"
                " target's. Give the target it was trained for, or a drafter without its own."
            )


def _target_tensor(target: Path, name: str) -> "torch.Tensor":
    from dpace_serve.drafter import tensors as torch_tensors

    found: dict[str, Any] = torch_tensors.find(sorted(target.glob("*.safetensors")), name)
    if not found and name == "lm_head.weight":  # a tied head is the embedding
        return _target_tensor(target, "embed_tokens.weight")
    if len(found) != 1:
        raise CheckpointError(
            f"{target}: must hold one {name}, found {len(found)}. Give a language model's folder."
        )
    tensor: torch.Tensor = next(iter(found.values()))
    return tensor
