"""Finds the files that hold a drafter's weights: one safetensors file, or shards with an index."""

from pathlib import Path
from typing import Any

from dpace_serve.drafter.safetensors_header import TensorEntry, read_header
from dpace_serve.errors import CheckpointError
from dpace_serve.outside_text import MAX_JSON_BYTES, parse_json, read_text

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
# vLLM would load it in place of the target's embedding of the mask token.
_MASK_EMBEDDING = "mask_embedding.pt"


def find_weight_files(folder: Path) -> list[Path]:
    """The weight files of a drafter, in the order of their names.

    Raises:
        CheckpointError: If there is none, one is missing, one too many, or only pickled ones.
    """
    names = _expected_names(folder)
    present = {path.name for path in folder.glob("*.safetensors")}
    if not present:
        raise _no_weights(folder)
    missing = sorted(names - present)
    if missing:
        raise CheckpointError(
            f"{folder}: the weight file {missing[0]} is missing. Copy or export the drafter again."
        )
    stray = sorted(present - names)
    if stray:
        raise CheckpointError(
            f"{folder}: {stray[0]} does not belong to the drafter's weights, but an engine may load"
            " it as well. Move it out of the folder."
        )
    if (folder / _MASK_EMBEDDING).exists():
        raise CheckpointError(
            f"{folder}: {_MASK_EMBEDDING} is not supported: the mask token takes its embedding"
            " from the target. Give a drafter trained so."
        )
    return [folder / name for name in sorted(names)]


def read_entries(folder: Path) -> dict[str, TensorEntry]:
    """Names, formats and shapes of all tensors of a drafter, from all its files.

    Raises:
        CheckpointError: If a file is missing or damaged, or the index and the files disagree.
    """
    entries: dict[str, TensorEntry] = {}
    found_in: dict[str, str] = {}
    for path in find_weight_files(folder):
        for name, entry in read_header(path).items():
            if name in entries:
                raise CheckpointError(
                    f"{folder}: {name} must be stored once, found in {found_in[name]} and"
                    f" {path.name}. Export the drafter again."
                )
            entries[name] = entry
            found_in[name] = path.name
    if (folder / INDEX_FILE).exists():
        _check_index(folder, found_in)
    return entries


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: If the file is missing, unreadable or holds something else.
    """
    try:
        values = parse_json(read_text(path, max_bytes=max_bytes))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file does not exist. Check the folder.") from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}). Check the path."
        ) from None
    except ValueError:
        raise CheckpointError(f"{path}: not valid JSON. Copy or export it again.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must hold a JSON object. Copy or export it again.")
    return values


def _expected_names(folder: Path) -> set[str]:
    if not (folder / INDEX_FILE).exists():
        return {SINGLE_FILE}
    return set(_weight_map(folder).values())


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / INDEX_FILE
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path}: weight_map must name the file of each tensor. Export again."
        )
    for name in weight_map.values():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or Path(name).suffix != (".safetensors")
        ):
            raise CheckpointError(
                f"{path}: weight_map must name safetensors files of this folder, got {name!r}."
                " Export the drafter again."
            )
    return weight_map


def _check_index(folder: Path, found_in: dict[str, str]) -> None:
    weight_map = _weight_map(folder)
    for name in sorted(weight_map.keys() | found_in.keys()):
        if weight_map.get(name) != found_in.get(name):
            raise CheckpointError(
                f"{folder / INDEX_FILE}: {name} must be where the index says"
                f" ({weight_map.get(name, 'nowhere')}), found in {found_in.get(name, 'no file')}."
                " Export the drafter again."
            )


def _no_weights(folder: Path) -> CheckpointError:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES)
    if pickled:
        return CheckpointError(
            f"{folder}: weights must be safetensors, found only {pickled[0]}, a pickle that could"
            " run code when opened. Convert it where you trust it."
        )
    return CheckpointError(
        f"{folder}: no weights, {SINGLE_FILE} is missing. Give the folder of an exported drafter."
    )
