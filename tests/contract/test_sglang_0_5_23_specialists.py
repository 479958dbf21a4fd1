"""What position specialists rely on inside SGLang 0.5.23; make test-sglang runs it."""

import importlib
import inspect
import re
import warnings

import pytest

from dpace_serve.demo import bundle
from dpace_serve.drafter.config_keys import SPECIALIST_ARCHITECTURE
from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.sglang_engine import model_registry, server, start_checks
from tests.engine.specialist_drafters import KINDS, make

pytestmark = [pytest.mark.sglang]


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """SGLang warns of all that a CPU lacks while it is imported, and only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("sglang.srt.models.registry", "sglang.srt.speculative.dflash_worker_v2"):
            importlib.import_module(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A drafter with specialists."""
    return make(tmp_path_factory.mktemp("drafter") / "adapted", KINDS["low_rank-2"])


@pytest.fixture
def registered(monkeypatch):
    """SGLang's models, as they were again after the test."""
    from sglang.srt.models.registry import ModelRegistry

    models = dict(ModelRegistry.models)
    models.pop(SPECIALIST_ARCHITECTURE, None)
    monkeypatch.setattr(ModelRegistry, "models", models)
    return models


def parameters(function):
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def test_sglang_0_5_23_finds_our_model_by_its_architecture(registered):
    from sglang.srt.models.registry import ModelRegistry

    from dpace_serve.sglang_engine.specialist_model import SpecialistDraftModel

    # Without it SGLang looks for a model of transformers, and serves that if it can.
    assert model_registry.not_registered() == [SPECIALIST_ARCHITECTURE]
    model_registry.register()
    model_registry.register()
    found = ModelRegistry.resolve_model_cls([SPECIALIST_ARCHITECTURE])
    assert found == (SpecialistDraftModel, SPECIALIST_ARCHITECTURE)
    assert model_registry.not_registered() == []


def test_another_model_of_this_architecture_is_refused(registered):
    registered[SPECIALIST_ARCHITECTURE] = str
    with pytest.raises(EngineError, match="must be ours, got <class 'str'>"):
        model_registry.register()
    assert model_registry.not_registered() == [SPECIALIST_ARCHITECTURE]


def test_sglang_0_5_23_model_has_the_methods_that_ours_replaces():
    from sglang.srt.models.dflash import DFlashDecoderLayer, DFlashDraftModel

    from dpace_serve.sglang_engine.specialist_model import SpecialistDraftModel, SpecialistLayer

    for name in ("__init__", "forward", "load_weights", "set_block_size"):
        replaced = getattr(DFlashDraftModel, name)
        assert parameters(getattr(SpecialistDraftModel, name)) == parameters(replaced)
    assert parameters(SpecialistLayer.forward) == parameters(DFlashDecoderLayer.forward)
    source = inspect.getsource(DFlashDraftModel.forward)
    assert "hidden_states, residual = layer(" in source
    assert "hidden_states, _ = self.norm(hidden_states, residual)" in source
    # Weights that are not fused are found under their own names.
    loading = inspect.getsource(DFlashDraftModel.load_weights)
    assert "if resolved_name is None:\n                    continue" in loading


def test_sglang_0_5_23_drafts_rows_that_are_whole_blocks_one_after_another():
    from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2

    source = inspect.getsource(DFlashWorkerV2)
    assert "block_ids = self._draft_block_ids_buf[:bs]" in source
    assert "(new_cap, block_size), dtype=torch.long" in source
    assert "input_ids=block_ids.flatten()" in source
    assert "self.draft_model.set_block_size(self.block_size)" in source


def test_sglang_0_5_23_reads_of_a_layer_what_ours_has():
    from sglang.srt.models.dflash import DFlashAttention, DFlashDraftModel
    from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2

    from dpace_serve.sglang_engine.specialist_model import SharedAttention, SpecialistLayer

    writing = inspect.getsource(DFlashWorkerV2._append_target_hidden_sequential)
    read = set(re.findall(r"\battn\.([a-z]\w*)", writing))
    assert read == {
        "apply_k_norm", "apply_k_rope", "attn", "forward_prepare_npu", "head_dim", "kv_proj_only",
        "num_kv_heads", "v_scale",
    }  # fmt: skip
    asked = set(re.findall(r"\blayer\.(\w+)", inspect.getsource(DFlashDraftModel.set_block_size)))
    assert asked == {"attention_conv", "mlp_conv"}
    assert all(hasattr(SpecialistLayer, name) for name in asked)
    for name in ("kv_proj_only", "apply_k_norm", "apply_k_rope"):
        ours, theirs = getattr(SharedAttention, name), getattr(DFlashAttention, name)
        assert parameters(ours) == parameters(theirs)


def test_sglang_0_5_23_leaves_its_fused_projection_out_where_a_model_says_so():
    from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2

    source = inspect.getsource(DFlashWorkerV2._init_fused_kv_helper)
    assert 'getattr(self.draft_model, "supports_fused_context_kv", True)' in source


def test_sglang_0_5_23_quantizes_a_drafter_as_its_target_unless_told_otherwise():
    from sglang.srt.arg_groups import serving_hook

    source = inspect.getsource(serving_hook)
    assert "speculative_draft_model_quantization=cfg.quantization" in source
    assert f'cfg.quantization == "{start_checks.UNQUANTIZED}"' in source


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--tp-size=2"], "need --tp-size 1"),
        (["--tensor-parallel-size", "2"], "need --tp-size 1"),
        (["--speculative-draft-model-quantization=fp8"], "got quantization fp8"),
        (["--quantization=fp8"], "got quantization fp8"),
        ([], None),
        (["--quantization=fp8", "--speculative-draft-model-quantization=unquant"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_start_that_would_divide_or_quantize_them_is_refused(folder, given, said):
    config = ServeConfig(
        engine="sglang",
        target=str(bundle.target_folder()),
        drafter=folder,
        engine_args=("--device=cpu", *given),
    )
    ours = server.our_arguments(config, 7)
    if said is None:
        assert server._server_arguments(config, ours).tp_size == 1
        return
    with pytest.raises(ConfigError, match=said):
        server._server_arguments(config, ours)
