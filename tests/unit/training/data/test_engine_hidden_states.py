"""What is made of the engine's export; the engine is a fake that exports what the target says."""

import pytest
import torch
from safetensors.torch import save_file

from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.vllm_engine.offline import OfflineEngine
from dpace_training.config import OfflineEngineConfig
from dpace_training.data import engine_hidden_states
from dpace_training.data.engine_hidden_states import EngineReader
from dpace_training.data.feature_cache import TransformersReader, cache_features
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.drafter.taps import recorded_taps

LAYER_IDS = (4, 1)


def document(length, document_id=0):
    token_ids = tuple((7 * index + document_id) % 250 for index in range(length))
    mask = tuple(index >= length // 2 for index in range(length))
    return TokenizedConversation(token_ids, mask, "other", document_id)


DOCUMENTS = [document(length, index) for index, length in enumerate((9, 4, 12))]


@pytest.fixture
def engine(target, monkeypatch):
    """Class of a fake engine: writes the files of vLLM's export, then changed by `spoil`."""

    class FakeEngine(OfflineEngine):
        spoil = staticmethod(lambda tensors: tensors)

        def __init__(self, settings):
            self.settings = settings
            FakeEngine.started.append(settings)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def export_hidden_states(self, documents):
            return [self.export(number, ids) for number, ids in enumerate(documents)]

        @torch.no_grad()
        def export(self, number, ids):
            layer_ids = self.settings.export.layer_ids
            with recorded_taps(target.model, layer_ids) as recorded:
                target.model(torch.tensor([ids]))
            states = [recorded.outputs[layer_id][0] for layer_id in layer_ids]
            tensors = {"hidden_states": torch.stack(states, 1), "token_ids": torch.tensor(ids)}
            path = self.settings.export.folder / f"{number}.safetensors"
            path.with_name(f"{path.name}.lock").touch()
            if (tensors := FakeEngine.spoil(tensors)) is not None:
                save_file(tensors, path)
            return path

    FakeEngine.started = []
    monkeypatch.setattr(engine_hidden_states, "OfflineEngine", FakeEngine)
    return FakeEngine


def reader(target, folder, *, layer_ids=LAYER_IDS, max_tokens=12, batch_size=2):
    return EngineReader(
        target,
        layer_ids,
        OfflineEngineConfig(),
        max_tokens=max_tokens,
        batch_size=batch_size,
        scratch=folder,
    )


@pytest.mark.usefixtures("engine")
def test_features_are_those_of_the_target_in_this_process(target, tmp_path):
    here = TransformersReader(target, LAYER_IDS, batch_size=1)
    with reader(target, tmp_path) as engines:
        found = engines.read(DOCUMENTS, with_final=True)
    for feature, expected in zip(found, here.read(DOCUMENTS, with_final=True), strict=True):
        assert torch.equal(feature.taps, expected.taps)
        assert torch.equal(feature.next_token, expected.next_token)
        assert torch.equal(feature.final, expected.final)
    assert list(tmp_path.iterdir()) == []


def test_the_engine_exports_sorted_layers_and_the_last_one(target, tmp_path, engine):
    with reader(target, tmp_path) as engines:
        engines.read(DOCUMENTS, with_final=False)
    (settings,) = engine.started
    assert settings.export.layer_ids == (1, 4, 5)
    assert settings.max_model_len == 12 + 2
    assert settings.dtype == "float32"


def test_a_cut_run_goes_on_and_a_complete_one_starts_no_engine(target, tmp_path, engine):
    def cache():
        with reader(target, tmp_path) as engines:
            cache_features(
                target, DOCUMENTS, LAYER_IDS, tmp_path / "h", batch_size=2, reader=engines
            )

    cache()
    cache()
    assert len(engine.started) == 1
    (tmp_path / "h" / "shard-00000000.safetensors").unlink()
    cache()
    assert len(engine.started) == 2


@pytest.mark.usefixtures("engine")
def test_a_cache_says_which_backend_filled_it(target, tmp_path):
    with reader(target, tmp_path) as engines:
        cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2, reader=engines)
    with pytest.raises(ConfigError, match="made with another backend"):
        cache_features(target, DOCUMENTS, LAYER_IDS, tmp_path, batch_size=2)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tensors: None, "did not export the hidden states of document 0"),
        (lambda tensors: tensors | {"token_ids": tensors["token_ids"] + 1}, "for another text"),
        (
            lambda tensors: tensors | {"hidden_states": tensors["hidden_states"][:-1].clone()},
            "for another text",
        ),
        (
            lambda tensors: tensors | {"hidden_states": tensors["hidden_states"] * float("nan")},
            "are not all finite",
        ),
    ],
)
def test_a_wrong_export_is_one_clear_line(target, tmp_path, engine, spoil, reason):
    engine.spoil = staticmethod(spoil)
    with reader(target, tmp_path) as engines, pytest.raises(EngineError, match=reason):
        engines.read(DOCUMENTS, with_final=False)


def test_documents_need_two_positions_more_than_tokens(target, tmp_path):
    reader(target, tmp_path, max_tokens=510)
    with pytest.raises(ConfigError, match=r"at most 510 tokens .* got one of 511"):
        reader(target, tmp_path, max_tokens=511)


def test_a_layer_that_does_not_exist_is_an_error(target, tmp_path):
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.5, got \[1, 6\]"):
        reader(target, tmp_path, layer_ids=(1, 6))
