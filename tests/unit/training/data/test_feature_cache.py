import copy
import dataclasses
import logging
import threading
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dpace_serve.errors import ConfigError
from dpace_training.data import feature_cache, shard_files
from dpace_training.data.feature_cache import cache_features
from dpace_training.data.hidden_states import RecomputedFeatures
from dpace_training.data.tokenize import TokenizedConversation

LAYER_IDS = (1, 3)


def document(length, document_id=0):
    token_ids = tuple((7 * index + document_id) % 250 for index in range(length))
    mask = tuple(index >= length // 2 for index in range(length))
    return TokenizedConversation(token_ids, mask, "other", document_id)


DOCUMENTS = [document(length, index) for index, length in enumerate((9, 4, 12, 6, 5))]


TOKEN_BYTES = 3 * 32 * 2  # two taps and the final state, each 32 wide, in bfloat16


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 13 tokens: documents 0 and 1, then 2, then 3 and 4."""
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 13 * TOKEN_BYTES)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "key.json")


class CountingReader(feature_cache.TransformersReader):
    """Says which documents it read, and stops before the one that it is told to stop at."""

    def __init__(self, target, *, stop_at=None):
        super().__init__(target, LAYER_IDS, batch_size=1)
        self.read_ids, self._stop_at = [], stop_at

    def read(self, documents, *, with_final):
        ids = [document.document_id for document in documents]
        if self._stop_at in ids:
            raise KeyboardInterrupt
        self.read_ids += ids
        return super().read(documents, with_final=with_final)


@pytest.mark.usefixtures("small_shards")
def test_the_cache_gives_what_recomputing_gives_in_bfloat16(target, tmp_path):
    cached = cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    fresh = RecomputedFeatures(target, DOCUMENTS, LAYER_IDS)
    for index in range(5):
        (from_disk,), (computed,) = cached.of([index]), fresh.of([index])
        assert from_disk.taps.dtype == torch.bfloat16
        torch.testing.assert_close(from_disk.taps.float(), computed.taps, atol=1e-4, rtol=2**-8)
        assert torch.equal(from_disk.next_token, computed.next_token)


@pytest.mark.usefixtures("small_shards")
def test_a_cut_run_goes_on_with_the_next_shard(target, tmp_path):
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    last, first = tmp_path / "shard-00000003.safetensors", tmp_path / "shard-00000000.safetensors"
    made, content = first.stat().st_mtime_ns, last.read_bytes()
    last.unlink()
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    assert first.stat().st_mtime_ns == made
    assert last.read_bytes() == content


def test_a_cache_of_something_else_is_refused(target, tmp_path):
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    with pytest.raises(ConfigError, match="made with another layer_ids"):
        cache_features(target, DOCUMENTS, (0, 2), tmp_path, batch_size=2)
    with pytest.raises(ConfigError, match="made with another documents"):
        cache_features(target, DOCUMENTS[:-1], LAYER_IDS, tmp_path, batch_size=2)
    retrained = dataclasses.replace(target, revision="0123456789ab")
    with pytest.raises(ConfigError, match="made with another target"):
        cache_features(retrained, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)


@pytest.mark.usefixtures("small_shards")
def test_final_states_join_a_cache_that_lacks_them(target, tmp_path):
    without = cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    assert without.of([0])[0].final is None
    first = tmp_path / "shard-00000000.safetensors"
    content = first.read_bytes()
    cached = cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2, with_final=True)
    assert first.read_bytes() == content
    fresh = RecomputedFeatures(target, DOCUMENTS, LAYER_IDS, with_final=True)
    for index in range(5):
        (from_disk,), (computed,) = cached.of([index]), fresh.of([index])
        torch.testing.assert_close(from_disk.final.float(), computed.final, atol=1e-4, rtol=2**-8)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("num_bytes", [0, 5, 600])
def test_a_shard_that_was_cut_is_made_again_and_said(target, tmp_path, caplog, num_bytes):
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    cut = tmp_path / "shard-00000002.safetensors"
    content = cut.read_bytes()
    cut.write_bytes(content[:num_bytes])
    with caplog.at_level(logging.WARNING, logger="dpace_training"):
        cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    assert cut.read_bytes() == content
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{cut} is damaged (")
    assert "\n" not in said


@pytest.mark.usefixtures("small_shards")
def test_a_shard_without_one_of_its_tensors_is_made_again(target, tmp_path):
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2, with_final=True)
    final = tmp_path / "final-00000000.safetensors"
    content = final.read_bytes()
    save_file({"other": torch.zeros(1)}, final)
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2, with_final=True)
    assert final.read_bytes() == content


def test_a_full_disk_is_one_clear_line(target, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(shard_files, "save_file", full)
    with pytest.raises(ConfigError, match=r"shard-0+.safetensors: cannot be written .* space"):
        cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


@pytest.mark.usefixtures("small_shards")
def test_runs_that_share_a_folder_read_each_shard_once(target, tmp_path):
    read, barrier = [], threading.Barrier(3)

    class Reader(feature_cache.TransformersReader):
        def read(self, documents, *, with_final):
            read.append(documents[0].document_id)
            return super().read(documents, with_final=with_final)

    def fill():
        barrier.wait()
        reader = Reader(target, LAYER_IDS, batch_size=2)
        cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2, reader=reader)

    threads = [threading.Thread(target=fill) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [0, 2, 3]


@pytest.mark.usefixtures("small_shards")
def test_a_shard_holds_up_to_its_bytes(target, tmp_path):
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    places = ("00000000", "00000002", "00000003")
    assert names(tmp_path) == [f"shard-{place}.safetensors" for place in places]


def test_a_document_larger_than_a_shard_has_one_of_its_own(target, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 11 * TOKEN_BYTES)
    cached = cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    # Lengths 9 | 4 | 12 | 6 and 5.
    places = ("00000000", "00000001", "00000002", "00000003")
    assert names(tmp_path) == [f"shard-{place}.safetensors" for place in places]
    assert [len(feature.taps) for feature in cached.of(range(5))] == [9, 4, 12, 6, 5]


@pytest.mark.parametrize("num_tokens", [1, 9, 13, 20, 27])
def test_order_and_contents_do_not_depend_on_the_shards(target, tmp_path, monkeypatch, num_tokens):
    def features(folder):
        cached = cache_features(
            target, DOCUMENTS, LAYER_IDS, tmp_path / folder, batch_size=1, with_final=True
        )
        return cached.of([4, 0, 3, 1, 2])

    whole = features("one")
    assert names(tmp_path / "one") == ["final-00000000.safetensors", "shard-00000000.safetensors"]
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", num_tokens * TOKEN_BYTES)
    for feature, expected in zip(features("many"), whole, strict=True):
        assert torch.equal(feature.taps, expected.taps)
        assert torch.equal(feature.next_token, expected.next_token)
        assert torch.equal(feature.final, expected.final)
    assert len(names(tmp_path / "many")) > 2


@pytest.mark.parametrize("batch_size", [1, 3])
def test_features_held_while_the_cache_is_filled_are_bounded(
    target, tmp_path, monkeypatch, batch_size
):
    lengths = [(7 * index) % 13 + 2 for index in range(40)]
    documents = [document(length, index) for index, length in enumerate(lengths)]
    bound = 30 * TOKEN_BYTES
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", bound)
    # In the format of the cache, where a cast copies nothing.
    target = dataclasses.replace(target, model=copy.deepcopy(target.model).bfloat16())
    held = peak = 0

    def forget(num_bytes):
        nonlocal held
        held -= num_bytes

    def counted(states):
        nonlocal held, peak
        # The whole storage: a view of a batch would keep its padding alive.
        num_bytes = states.untyped_storage().nbytes()
        held += num_bytes
        peak = max(peak, held)
        weakref.finalize(states, forget, num_bytes)

    class Reader(feature_cache.TransformersReader):
        def read(self, documents, *, with_final):
            found = super().read(documents, with_final=with_final)
            for feature in found:
                counted(feature.taps)
                counted(feature.final)
            return found

    reader = Reader(target, LAYER_IDS, batch_size=batch_size)
    cache_features(
        target,
        documents,
        LAYER_IDS,
        tmp_path,
        batch_size=batch_size,
        with_final=True,
        reader=reader,
    )
    assert bound / 2 < peak <= bound
    assert held == 0


@pytest.mark.usefixtures("small_shards")
def test_a_run_that_was_killed_inside_a_shard_reads_no_written_document_again(target, tmp_path):
    cached = partial(cache_features, target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        cached(reader=CountingReader(target, stop_at=4))
    assert names(tmp_path) == ["shard-00000000.safetensors", "shard-00000002.safetensors"]
    # What kill -9 leaves behind while a shard is being written.
    (tmp_path / "shard-00000003.tmp").write_bytes(b"half of it")
    resumed = CountingReader(target)
    found = cached(reader=resumed).of(range(5))
    assert resumed.read_ids == [3, 4]
    assert not (tmp_path / "shard-00000003.tmp").exists()
    fresh = RecomputedFeatures(target, DOCUMENTS, LAYER_IDS)
    for index, feature in enumerate(found):
        (computed,) = fresh.of([index])
        torch.testing.assert_close(feature.taps.float(), computed.taps, atol=1e-4, rtol=2**-8)


def test_shards_keep_their_size_under_another_bound(target, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 27 * TOKEN_BYTES)
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)  # 9 4 12 | 6 5
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 13 * TOKEN_BYTES)
    reader = CountingReader(target)
    cached = partial(cache_features, target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    cached(reader=reader)
    assert reader.read_ids == []
    # One that is made again has the new size, and what follows it in no file is read too.
    (tmp_path / "shard-00000000.safetensors").unlink()
    found = cached(reader=reader, with_final=True)
    assert reader.read_ids == [0, 1, 2, 3, 4]
    assert [len(feature.final) for feature in found.of(range(5))] == [9, 4, 12, 6, 5]
    places = ("00000000", "00000002", "00000003")
    assert names(tmp_path) == [
        f"{kind}-{place}.safetensors" for kind in ("final", "shard") for place in places
    ]


def test_final_states_of_other_documents_are_not_taken(target, tmp_path, monkeypatch, caplog):
    cached = partial(cache_features, target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=1)
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 27 * TOKEN_BYTES)
    expected = cached(with_final=True).of(range(5))
    # The final states of documents 0 to 2 stay beside a shard of documents 0 and 1.
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 13 * TOKEN_BYTES)
    (tmp_path / "shard-00000000.safetensors").unlink()
    cached()
    assert caplog.text == ""
    found = cached(with_final=True).of(range(5))
    assert "final-00000000.safetensors is damaged (it holds other documents)" in caplog.text
    for feature, wanted in zip(found, expected, strict=True):
        assert torch.equal(feature.final, wanted.final)


def test_a_cache_of_numbered_shards_is_read_on(target, tmp_path, monkeypatch):
    """Versions that cut shards by documents numbered them, 512 documents each."""
    monkeypatch.setattr(shard_files, "OLD_SHARD_DOCUMENTS", 2)
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 27 * TOKEN_BYTES)
    cached = partial(cache_features, target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=1)
    reader = CountingReader(target)
    written = reader.read(DOCUMENTS, with_final=True)
    for number, part in enumerate((written[:2], written[2:4])):
        path = tmp_path / f"shard-{number:05d}.safetensors"
        shard_files.write_shard(path, [f.taps for f in part], [f.next_token for f in part])
    reader = CountingReader(target)
    found = cached(reader=reader).of(range(5))
    assert reader.read_ids == [4]
    for feature, expected in zip(found, written, strict=True):
        assert torch.equal(feature.taps, expected.taps)
    found = cached(with_final=True).of(range(5))
    for feature, expected in zip(found, written, strict=True):
        assert torch.equal(feature.final, expected.final)


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_goes_while_it_is_read_is_one_clear_line(target, tmp_path):
    cached = cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)
    (tmp_path / "shard-00000002.safetensors").unlink()
    cached.of([0, 4])
    with pytest.raises(ConfigError, match=r"shard-00000002.safetensors: cannot be read \([^\n]+$"):
        cached.of([2])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mappings")
@pytest.mark.usefixtures("small_shards")
def test_a_cache_maps_a_file_no_longer_than_its_features_are_used(target, tmp_path):
    def is_mapped():
        return str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8")

    cached = cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2, with_final=True)
    assert not is_mapped()
    found = cached.of(range(5))
    assert is_mapped()
    del found
    assert not is_mapped()
