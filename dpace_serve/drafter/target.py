"""What a drafter must know of its target, read from the target's files on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpace_serve.drafter.weight_files import read_json
from dpace_serve.errors import CheckpointError

_CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """The part of a target's configuration that its drafter depends on."""

    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    rope_theta: float | None
    """None where the target has several or gives none."""
    eos_token_ids: frozenset[int]
    rope_type: str
    """How positions are scaled; `default` is not at all."""
    partial_rotary_factor: float
    """Share of each head that is rotated."""
    ties_head: bool
    """Whether the embedding may be the head too; only an explicit `false` rules it out."""
    dtype: str | None
    """Number format of the weights, where the configuration says it."""


def find_target_folder(target: str | Path) -> Path | None:
    """The folder of a target: itself, or the local copy of a hub name; None without a copy.

    Nothing is downloaded.

    Raises:
        CheckpointError: If it is neither an existing folder nor a possible hub name.
    """
    folder = Path(target)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(
            f"{target}: a target is a folder, this is a file. Give the folder around it."
        )
    if folder.is_absolute() or str(target).startswith(".") or len(folder.parts) > 2:
        raise CheckpointError(f"{target}: the target's folder does not exist. Check the path.")
    return _cached_folder(str(target))


def read_target(folder: Path) -> TargetFacts:
    """Read a target's configuration; a multimodal one speaks through its text part.

    Raises:
        CheckpointError: If it is missing, unreadable or lacks a size.
    """
    path = folder / _CONFIG_FILE
    values = read_json(path)
    generation = folder / "generation_config.json"
    places = [values, read_json(generation) if generation.exists() else {}]
    whole, text = values, values.get("text_config")
    if isinstance(text, dict):
        values = text
        places.append(text)
    rope = _rope(values)
    share = rope.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    return TargetFacts(
        hidden_size=_size(path, values, "hidden_size"),
        num_hidden_layers=_size(path, values, "num_hidden_layers"),
        vocab_size=_size(path, values, "vocab_size"),
        rope_theta=_rope_theta(values),
        eos_token_ids=frozenset().union(*(_token_ids(place) for place in places)),
        rope_type=str(rope.get("rope_type") or rope.get("type") or "default"),
        partial_rotary_factor=float(share) if isinstance(share, int | float) else 1.0,
        ties_head=False not in (place.get("tie_word_embeddings") for place in (values, whole)),
        dtype=_dtype(values) or _dtype(whole),
    )


def _cached_folder(name: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache  # comes with the engine extras
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(name, _CONFIG_FILE)
    except ValueError:
        raise CheckpointError(f"{name}: neither a folder nor a hub name. Check the path.") from None
    return Path(found).parent if isinstance(found, str) else None


def _size(path: Path, values: Mapping[str, Any], key: str) -> int:
    size = values.get(key)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise CheckpointError(
            f"{path}: {key} must be a whole number of at least 1, got {size!r}."
            " Give a language model's folder."
        )
    return size


def _rope(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary parameters under their present or their former name."""
    for key in ("rope_parameters", "rope_scaling"):
        parameters = values.get(key)
        if isinstance(parameters, dict):
            return parameters
    return {}


def _rope_theta(values: Mapping[str, Any]) -> float | None:
    nested = _rope(values).get("rope_theta")
    theta = values.get("rope_theta") if nested is None else nested
    return float(theta) if isinstance(theta, int | float) else None


def _dtype(values: Mapping[str, Any]) -> str | None:
    dtype = values.get("dtype", values.get("torch_dtype"))
    return dtype if isinstance(dtype, str) else None


def _token_ids(values: Mapping[str, Any]) -> frozenset[int]:
    ids = values.get("eos_token_id")
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(token_id for token_id in listed if isinstance(token_id, int))
