"""What our model of position specialists relies on in SGLang 0.5.23; make test-sglang runs it."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from dpace_serve.drafter.config_keys import SPECIALIST_ARCHITECTURE
from dpace_serve.errors import ConfigError, EngineError

pytestmark = [pytest.mark.sglang]

# In a fresh process, as a scheduler begins.
RESOLVE = f"""
import sys
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.models.registry import ModelRegistry
found, name = ModelRegistry.resolve_model_cls(["{SPECIALIST_ARCHITECTURE}"])
sys.stdout.write(found.__module__ + " " + name)
"""


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """SGLang warns of all that a CPU lacks while it is imported, and only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("sglang.srt.speculative.dflash_worker_v2")


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_sglang_0_5_23_finds_our_model_by_its_architecture_once_plugins_are_loaded():
    found = subprocess.run(
        [sys.executable, "-c", RESOLVE],
        env=os.environ | {"SGLANG_PLUGINS": "dpace"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(
        f"dpace_serve.sglang_engine.specialist_model {SPECIALIST_ARCHITECTURE}"
    )


def test_another_model_under_our_architecture_is_an_error(monkeypatch):
    from sglang.srt.models.registry import ModelRegistry

    from dpace_serve.sglang_engine import model_registry

    monkeypatch.setitem(ModelRegistry.models, SPECIALIST_ARCHITECTURE, object)
    with pytest.raises(EngineError, match=f"{SPECIALIST_ARCHITECTURE} must be ours"):
        model_registry.register()
    assert model_registry.not_registered() == [SPECIALIST_ARCHITECTURE]


def test_sglang_0_5_23_model_has_the_functions_that_ours_replaces():
    from sglang.srt.models.dflash import DFlashDraftModel

    from dpace_serve.sglang_engine.specialist_model import SpecialistDraftModel

    for name in ("__init__", "forward", "load_weights", "set_block_size"):
        assert parameters(getattr(DFlashDraftModel, name)) == parameters(
            getattr(SpecialistDraftModel, name)
        )


def test_sglang_0_5_23_calls_the_last_layer_as_it_is_called_here():
    from sglang.srt.models.dflash import DFlashDecoderLayer, DFlashDraftModel

    from dpace_serve.sglang_engine.specialist_model import SpecialistLayer

    assert parameters(DFlashDecoderLayer.forward) == parameters(SpecialistLayer.forward)
    source = inspect.getsource(DFlashDraftModel.forward)
    assert "positions, hidden_states, forward_batch, residual" in source
    assert "hidden_states, _ = self.norm(hidden_states, residual)" in source
    of_layer = re.findall(r"layer\.(\w+)", inspect.getsource(DFlashDraftModel.set_block_size))
    assert set(of_layer) == {"attention_conv", "mlp_conv"}


def test_sglang_0_5_23_reads_of_an_attention_what_the_shared_one_has():
    from sglang.srt.speculative import dflash_worker_v2

    from dpace_serve.sglang_engine.specialist_model import SharedAttention

    worker = dflash_worker_v2.DFlashWorkerV2
    source = inspect.getsource(worker._append_target_hidden_sequential)
    read = set(re.findall(r"\battn\.(\w+)", source))
    assert read - {"attn", "forward_prepare_npu"} == {  # the last is for NPUs alone
        "apply_k_norm", "apply_k_rope", "head_dim", "kv_proj_only", "num_kv_heads", "v_scale",
    }  # fmt: skip
    for name in ("apply_k_norm", "apply_k_rope", "kv_proj_only"):
        plain = importlib.import_module("sglang.srt.models.dflash").DFlashAttention
        assert parameters(getattr(plain, name)) == parameters(getattr(SharedAttention, name))


def test_sglang_0_5_23_leaves_its_fused_projection_out_where_a_model_says_so():
    from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2

    source = inspect.getsource(DFlashWorkerV2._init_fused_kv_helper)
    assert 'getattr(self.draft_model, "supports_fused_context_kv", True)' in source


def test_sglang_0_5_23_drafts_in_blocks_with_the_anchor_first():
    from sglang.srt.speculative import dflash_worker_v2

    source = inspect.getsource(dflash_worker_v2)
    assert "self.draft_model.set_block_size(self.block_size)" in source
    assert source.count("hidden_states.view(bs, self.block_size, -1)[:, 1:, :]") >= 2


def test_blocks_of_another_length_are_an_error():
    from dpace_serve.drafter.draft_groups import DraftGroups
    from dpace_serve.drafter.specialists import Specialists
    from dpace_serve.sglang_engine.specialist_model import SpecialistDraftModel

    model = SimpleNamespace(_groups=DraftGroups(Specialists("low_rank", 2, 4), 7, 7))
    with pytest.raises(ConfigError, match=r"blocks of 8 with SGLang, as in .*, got 4\."):
        SpecialistDraftModel.set_block_size(model, 4)
