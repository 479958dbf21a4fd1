"""The drafters that an engine is told to host, and the check of their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpace_serve.drafter import checkpoint, doctor
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

ADDITIONAL_CONFIG = "dpace"
"""Key in vLLM's additional configuration, which reaches every worker."""


def additional_config(others: Sequence[Path]) -> dict[str, Any]:
    """What tells the workers to host these drafters beside the first, in slots from 1."""
    return {ADDITIONAL_CONFIG: {"drafters": [str(folder) for folder in others]}}


def hosted_folders(vllm_config: "VllmConfig") -> list[Path]:
    """Folders of the drafters beside the first."""
    additional = vllm_config.additional_config
    # The engine also takes objects of other plugins there.
    given = additional.get(ADDITIONAL_CONFIG, {}) if isinstance(additional, dict) else {}
    return [Path(name) for name in given.get("drafters", ())]


def require_comparable(vllm_config: "VllmConfig") -> None:
    """Check that matching an answer is the same as being accepted by verification.

    Raises:
        ConfigError: If drafts are sampled and verified by their probabilities, or blocks are
            verified as a whole: there it is not.
    """
    speculation = vllm_config.speculative_config
    method, verification = speculation.draft_sample_method, speculation.rejection_sample_method
    if (method, verification) != ("greedy", "standard"):
        raise ConfigError(
            "several drafters need draft_sample_method greedy and rejection_sample_method standard,"
            f" got {method} and {verification}. Serve one drafter, or set those."
        )


def require_complete(vllm_config: "VllmConfig", folders: Sequence[Path]) -> None:
    """Check the files of drafters, and that they fit the engine's target.

    Raises:
        CheckpointError: On the first thing wrong.
    """
    target = vllm_config.model_config.model
    num_draft_tokens = vllm_config.speculative_config.num_speculative_tokens
    for folder in dict.fromkeys(folders):
        doctor.require_servable(target, folder, num_draft_tokens)
    require_same_layers(folders)


def require_same_layers(folders: Sequence[Path]) -> None:
    """Check that drafters read the same layers of the target: the engine gives them to all alike.

    Raises:
        CheckpointError: If one reads others than the first.
    """
    layers = [checkpoint.read_config(folder).target_layer_ids for folder in folders]
    for folder, ids in zip(folders, layers, strict=True):
        if ids != layers[0]:
            raise CheckpointError(
                f"{folder}: target_layer_ids must be {list(layers[0])}, as of {folders[0]}, got "
                f"{list(ids)}. Serve it alone, or retrain it with those."
            )


def require_one_rank(folder: str | Path, num_ranks: int) -> None:
    """Check that a drafter with position specialists is not spread over several devices.

    Raises:
        ConfigError: If it would be: its stacked weights are not divided.
    """
    if num_ranks > 1:
        raise ConfigError(
            f"{folder}: position specialists need tensor_parallel_size 1, because their stacked "
            f"weights are not divided, got {num_ranks}. Serve it on one device, or a plain drafter."
        )


def first_folder(vllm_config: "VllmConfig") -> list[Path]:
    """The folder of the engine's own drafter; nothing where it is given by its hub name."""
    folder = Path(vllm_config.speculative_config.model)
    return [folder] if folder.is_dir() else []


def local_copy(vllm_config: "VllmConfig") -> Path:
    """The local copy of the engine's own drafter, once it is loaded.

    Raises:
        CheckpointError: If there is none.
    """
    name = vllm_config.speculative_config.model
    folder = find_target_folder(name)
    if folder is None:
        raise CheckpointError(
            f"the drafter needs a local copy, so that its tensors can be checked, got {name}. "
            "Download it and give its folder."
        )
    return folder
