import dataclasses
import logging
import threading

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


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_cache, "DOCUMENTS_PER_SHARD", 2)


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
    last, first = tmp_path / "shard-00002.safetensors", tmp_path / "shard-00000.safetensors"
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
    first = tmp_path / "shard-00000.safetensors"
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
    cut = tmp_path / "shard-00001.safetensors"
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
    final = tmp_path / "final-00000.safetensors"
    content = final.read_bytes()
    save_file({"other": torch.zeros(1)}, final)
    cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2, with_final=True)
    assert final.read_bytes() == content


def test_a_full_disk_is_one_clear_line(target, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(shard_files, "save_file", full)
    with pytest.raises(ConfigError, match=r"shard-00000.safetensors: cannot be written .* space"):
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
    assert read == [0, 2, 4]
