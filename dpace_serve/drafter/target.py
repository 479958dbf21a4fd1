"""What a drafter must know of its target, read from the target's files on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpace_serve.drafter.rope import Rope
from dpace_serve.drafter.rotation import read_target_rope
from dpace_serve.drafter.weight_files import read_json
from dpace_serve.errors import CheckpointError

_CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """The part of a target's configuration that its drafter depends on."""

    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    rope: Rope | None
    """None where no drafter can rotate so, or the files do not say how the target does."""
    rope_problem: str
    """Why there is no rotation; empty where there is one."""
    eos_token_ids: frozenset[int]
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
    rope, rope_problem = _rope(values)
    return TargetFacts(
        hidden_size=_size(path, values, "hidden_size"),
        num_hidden_layers=_size(path, values, "num_hidden_layers"),
        vocab_size=_size(path, values, "vocab_size"),
        rope=rope,
        rope_problem=rope_problem,
        eos_token_ids=frozenset().union(*(_token_ids(place) for place in places)),
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


def _rope(values: Mapping[str, Any]) -> tuple[Rope | None, str]:
    try:
        return read_target_rope(values), ""
    except CheckpointError as error:
        return None, str(error)


def _dtype(values: Mapping[str, Any]) -> str | None:
    dtype = values.get("dtype", values.get("torch_dtype"))
    return dtype if isinstance(dtype, str) else None


def _token_ids(values: Mapping[str, Any]) -> frozenset[int]:
    ids = values.get("eos_token_id")
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(token_id for token_id in listed if isinstance(token_id, int))
