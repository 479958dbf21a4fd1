"""Reads the header of a safetensors file: names, formats and shapes, without any framework.

The file is `header length (8 bytes, little endian) | JSON header | tensor data`. The data must be
covered exactly: no hole, no overlap, no byte missing at the end. So a cut-off copy is found
without reading the weights.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpace_serve.errors import CheckpointError
from dpace_serve.outside_text import MAX_HEADER_BYTES, open_file

_MAX_SIZE = 2**63 - 1
_MAX_DIMENSIONS = 8  # a product of many huge sizes would take minutes
_LENGTH_BYTES = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Number format (in safetensors' words, such as BF16) and shape of one stored tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Names, formats and shapes of the tensors in one file.

    Raises:
        CheckpointError: If the file cannot be read, is cut off or contradicts itself.
    """
    try:
        with open_file(path) as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            data_bytes = file_bytes - _LENGTH_BYTES - length
            if file_bytes < _LENGTH_BYTES or data_bytes < 0:
                raise _damaged(path, f"{file_bytes} bytes do not hold its header")
            if length > MAX_HEADER_BYTES:
                raise _damaged(path, f"its header has more than {MAX_HEADER_BYTES:,} bytes")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"{path}: weights cannot be read ({error.strerror}). Check the file."
        ) from None
    header = _parse(path, raw)
    spans = []
    entries = {}
    for name, described in header.items():
        if name == "__metadata__":
            _check_metadata(path, described)
            continue
        entries[name], begin, end = _entry(path, name, described)
        spans.append((begin, end, name))
    _check_cover(path, spans, data_bytes)
    return entries


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not valid JSON") from None
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        raise _damaged(path, "its header is not a JSON object")
    return header


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    collected = dict(pairs)
    if len(collected) < len(pairs):
        raise ValueError("a key stands twice")
    return collected


def _check_metadata(path: Path, metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "its metadata is not a set of texts")


def _entry(path: Path, name: str, described: object) -> tuple[TensorEntry, int, int]:
    if not isinstance(described, dict) or described.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _damaged(path, f"{name} has the unknown number format {dtype!r:.80}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(path, f"{name} has the shape {shape!r:.80} and the offsets {offsets!r:.80}")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * _BITS[dtype]:
        raise _damaged(path, f"{name} needs another number of bytes than its {end - begin}")
    return TensorEntry(dtype=dtype, shape=tuple(shape)), begin, end


def _are_sizes(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= _MAX_DIMENSIONS
        and all(type(value) is int and 0 <= value <= _MAX_SIZE for value in values)
    )


def _check_cover(path: Path, spans: list[tuple[int, int, str]], data_bytes: int) -> None:
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise _damaged(path, f"{name} overlaps or leaves a gap at byte {position} of the data")
        position = end
    if position > data_bytes:
        raise _damaged(path, f"cut off, {position - data_bytes} of {position} data bytes missing")
    if position < data_bytes:
        raise _damaged(path, f"{data_bytes - position} bytes too many at its end")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged safetensors file: {what}. Copy or export it again.")
