"""Rows of Hugging Face datasets, from the hub or from files, with the library `datasets`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from dpace_serve.errors import ConfigError

# A DatasetDict; its class claims names as keys, which the splits of a loaded one are not.
Splits = dict[Any, datasets.Dataset]

SAVED_MARKERS = ("dataset_info.json", "dataset_dict.json")
"""Files in a folder that `save_to_disk` wrote: of one table, and of several splits."""


def dataset_rows(
    path: Path, *, split: str | None, subset: str | None, revision: str | None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows without their empty columns, each with dataset and row number, from 0, as its place.

    No code of a dataset is run: the library has no support for it since version 4.

    Args:
        path: Parquet file, folder of one dataset's files or what `save_to_disk` wrote; a path that
            does not exist is the dataset's name on the hub.
        split: Split to read; may be left out where there is only one.
        subset: Configuration of a dataset of the hub.
        revision: Commit, tag or branch of a dataset of the hub.

    Raises:
        ConfigError: If the dataset cannot be had, or has no such split or subset.
    """
    rows = _load(path, split=split, subset=subset, revision=revision)
    for index, row in enumerate(rows):
        # A table has every column in every row: none there is what a missing key is elsewhere.
        record = {key: value for key, value in row.items() if value is not None}
        yield record, f"{path}, row {index}"


def _load(
    path: Path, *, split: str | None, subset: str | None, revision: str | None
) -> datasets.Dataset:
    datasets.disable_progress_bars()
    try:
        if not path.exists():
            return datasets.load_dataset(
                path.as_posix(), name=subset, split=split, revision=revision
            )
        found = _load_local(path, subset)
    # Missing, unreachable or damaged; an unknown split or subset is a ValueError.
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"{path}: cannot be read as a Hugging Face dataset ({reason}). Check its name, "
            "input.split and input.subset, and that the hub can be reached."
        ) from None
    return found if isinstance(found, datasets.Dataset) else _one_split(found, split, path)


def _load_local(path: Path, subset: str | None) -> datasets.Dataset | Splits:
    if path.is_file():
        return datasets.Dataset.from_parquet(str(path))
    if any((path / name).exists() for name in SAVED_MARKERS):
        return datasets.load_from_disk(str(path))
    return datasets.load_dataset(str(path), name=subset)


def _one_split(found: Splits, split: str | None, path: Path) -> datasets.Dataset:
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise ConfigError(
            f"{path}: input.split must be one of {', '.join(found)}, got {split}. Set it."
        )
    return found[split]
