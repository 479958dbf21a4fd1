import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.torch import save

from dpace_serve.drafter.safetensors_header import TensorEntry, read_header
from dpace_serve.errors import CheckpointError

DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
ENTRIES = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=5,
)
# The folder is shared by the examples of one property: each writes its file anew.
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def library_bytes(entries, metadata=None):
    tensors = {name: torch.zeros(shape, dtype=DTYPES[d]) for name, (d, shape) in entries.items()}
    return save(tensors, metadata)


def file_of(raw, tmp_path):
    path = tmp_path / "made.safetensors"
    path.write_bytes(raw)
    return path


def raw_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@PROPERTY
@given(entries=ENTRIES, metadata=st.none() | st.just({"format": "pt"}))
def test_reads_what_the_library_writes(tmp_path, entries, metadata):
    path = file_of(library_bytes(entries, metadata), tmp_path)
    assert read_header(path) == {
        name: TensorEntry(dtype=dtype, shape=tuple(shape))
        for name, (dtype, shape) in entries.items()
    }


@PROPERTY
@given(entries=ENTRIES, data=st.data())
def test_every_shorter_or_longer_copy_is_refused(tmp_path, entries, data):
    raw = library_bytes(entries)
    kept = data.draw(st.integers(0, len(raw) - 1))
    for damaged in (raw[:kept], raw + b"\0"):
        with pytest.raises(CheckpointError, match="damaged safetensors file"):
            read_header(file_of(damaged, tmp_path))


@PROPERTY
@given(entries=ENTRIES, data=st.data())
def test_whatever_is_accepted_the_library_accepts_too(tmp_path, entries, data):
    raw = bytearray(library_bytes(entries))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = read_header(file_of(bytes(raw), tmp_path))
    except CheckpointError:
        return
    try:
        library = dict(deserialize(bytes(raw)))
    except SafetensorError as error:  # pragma: no cover - only when the property is broken
        pytest.fail(f"we read {read}, the library says {error}")
    assert {name: (t["dtype"], tuple(t["shape"])) for name, t in library.items()} == {
        name: (entry.dtype, entry.shape) for name, entry in read.items()
    }


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "0 bytes do not hold its header"),
        (b"\xff" * 8, "8 bytes do not hold its header"),
        (raw_file(b"{"), "not valid JSON"),
        (raw_file(b"[" * 20000), "not valid JSON"),
        (raw_file(b"[]"), "not a JSON object"),
        (raw_file(b" {}"), "not a JSON object"),
        (raw_file({"__metadata__": {"a": 1}}), "metadata"),
        (raw_file({"a": {"dtype": "F32", "shape": [1]}}), "a is not described"),
        (raw_file(b'{"a":{},"a":{}}'), "not valid JSON"),
        (
            raw_file({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
            "unknown number format 'F99'",
        ),
        (
            raw_file({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, b""),
            "has the shape",
        ),
        (
            raw_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
            "another number of bytes",
        ),
        (
            raw_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
            "a overlaps or leaves a gap",
        ),
        (
            raw_file(
                {
                    "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                    "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
                },
                b"123456",
            ),
            "b overlaps or leaves a gap",
        ),
        (
            raw_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"12345"),
            "cut off, 3 of 8 data bytes missing",
        ),
    ],
)
def test_a_damaged_file_is_refused_with_its_reason(tmp_path, raw, reason):
    with pytest.raises(CheckpointError) as caught:
        read_header(file_of(raw, tmp_path))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_clear_line(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
