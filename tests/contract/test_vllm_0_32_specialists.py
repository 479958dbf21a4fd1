"""What drafters with position specialists rely on inside vLLM 0.32."""

import inspect
from types import SimpleNamespace

import pytest

from dpace_serve.demo import bundle

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_vllm_0_32_puts_dflash_before_an_architecture_that_does_not_begin_with_it():
    from transformers import Qwen3Config
    from vllm.transformers_utils.configs.eagle import EAGLEConfig

    from dpace_serve.vllm_engine.plugin import SPECIALIST_ARCHITECTURES

    given, renamed = SPECIALIST_ARCHITECTURES
    section = {"kind": "low_rank", "group_size": 2, "rank": 4}
    model = Qwen3Config(architectures=[given], specialists=section, vocab_size=64)
    config = EAGLEConfig(model, method="dflash", model_type="eagle")
    assert config.architectures == [renamed]
    assert config.to_dict()["specialists"] == section


def test_vllm_0_32_finds_the_model_of_both_names_once_the_plugin_is_registered():
    from vllm import ModelRegistry

    from dpace_serve.vllm_engine import plugin

    plugin.register()
    for architecture in plugin.SPECIALIST_ARCHITECTURES:
        found = ModelRegistry.models[architecture]
        assert f"{found.module_name}:{found.class_name}" == plugin.SPECIALIST_MODEL


def test_vllm_0_32_proposer_takes_a_subclass_of_its_model_and_keeps_the_length_it_was_asked_for():
    from vllm.v1.spec_decode.dflash import DFlashProposer
    from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer

    proposing = inspect.getsource(SpecDecodeBaseProposer.propose)
    assert "isinstance(\n                model," in proposing
    assert "DFlashQwen3ForCausalLM," in proposing
    assert "self.num_speculative_tokens = num_speculative_tokens" in proposing
    # Blocks lie one after another, each as long as the drafts asked for and its anchor.
    inputs = inspect.getsource(DFlashProposer.set_inputs_first_pass)
    assert "num_query_per_req = 1 + self.num_speculative_tokens" in inputs
    assert "num_query_total = batch_size * num_query_per_req" in inputs
    assert "self.max_batch_size * (1 + self.num_speculative_tokens)" in inspect.getsource(
        DFlashProposer.__init__
    )


def test_vllm_0_32_model_computes_its_layers_in_turn_and_adds_what_the_last_one_leaves():
    from vllm.model_executor.models.qwen3_dflash import DFlashQwen3DecoderLayer, DFlashQwen3Model

    assert parameters(DFlashQwen3DecoderLayer.forward) == [
        "self", "positions", "hidden_states", "residual"
    ]  # fmt: skip
    source = inspect.getsource(DFlashQwen3Model.forward)
    assert "hidden_states, residual = layer(" in source
    assert "hidden_states, _ = self.norm(hidden_states, residual)" in source


def test_vllm_0_32_reads_of_an_attention_what_the_shared_one_has():
    import re

    from vllm.model_executor.models import qwen3_dflash

    model, outer = qwen3_dflash.DFlashQwen3Model, qwen3_dflash.DFlashQwen3ForCausalLM
    source = "".join(
        inspect.getsource(function)
        for function in (
            model._build_context_kv_buffers,
            model._build_fused_kv_buffers,
            model.precompute_and_store_context_kv,
            outer.get_draft_kv_cache_layer_names,
            outer.get_draft_attn_causal,
        )
    )
    read = set(re.findall(r"(?:\ba|attn0?|self_attn)\.([a-z]\w*)", source))
    assert read - {"impl", "kv_cache", "layer_name"} == {
        "attn", "causal", "head_dim", "k_norm", "kv_size", "num_kv_heads", "q_norm", "q_size",
        "qkv_proj", "rotary_emb",
    }  # fmt: skip
    assert 'getattr(self.layers[0].self_attn, "v_scale", None)' in source


def test_vllm_0_32_projection_takes_no_query_heads_at_all():
    from vllm.model_executor.layers.linear import QKVParallelLinear

    source = inspect.getsource(QKVParallelLinear.__init__)
    assert "self.num_heads = divide(self.total_num_heads, tp_size)" in source
    assert parameters(QKVParallelLinear.__init__)[1:6] == [
        "hidden_size", "head_size", "total_num_heads", "total_num_kv_heads", "bias"
    ]  # fmt: skip


def test_vllm_0_32_keeps_compiled_graphs_by_what_the_drafters_configuration_says():
    from vllm.config import ModelConfig, SpeculativeConfig

    hashed = inspect.getsource(SpeculativeConfig.compute_hash)
    assert "self.draft_model_config.compute_hash()" in hashed
    config = ModelConfig(model=str(bundle.drafter_folder("dpace")))
    before = config.compute_hash()
    config.hf_config.dpace_blocks = [1, 7, 65]
    assert config.compute_hash() != before


def test_vllm_0_32_wraps_a_drafter_for_graphs_in_something_that_can_be_unwrapped():
    from vllm.compilation.breakable_cudagraph import BreakableCUDAGraphWrapper

    assert parameters(BreakableCUDAGraphWrapper.unwrap) == ["self"]


def test_what_vllm_0_32_compiles_on_a_cpu_calls_no_product_for_adapters():
    import torch
    from torch.nn import functional

    from dpace_serve.drafter.draft_groups import DraftGroups
    from dpace_serve.drafter.specialists import Specialists
    from dpace_serve.vllm_engine.specialist_layer import BlockPlan, StepAdapters

    groups = DraftGroups(Specialists("low_rank", 2, 4), longest=3, shortest=3)
    adapters = StepAdapters(BlockPlan(groups, max_tokens=9), hidden_size=16)
    torch.manual_seed(0)
    for weight in adapters.parameters():
        torch.nn.init.normal_(weight)
    adapters.follow(3)
    called = set()

    def keep(graph, _):
        called.update(node.target for node in graph.graph.nodes)
        return graph.forward

    hidden = torch.randn(8, 16)
    compiled = torch.compile(adapters, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(hidden), adapters(hidden))
    assert called
    assert not called & {functional.linear, torch.addmm}


def test_a_model_that_vllm_0_32_would_quantize_is_refused_before_it_is_changed(monkeypatch):
    import torch
    from vllm.model_executor.models.qwen3_dflash import DFlashQwen3Model

    from dpace_serve.errors import ConfigError
    from dpace_serve.vllm_engine.drafter_model import SpecialistDraftModel

    def quantized(model, *, vllm_config, start_layer_id=0, prefix=""):
        torch.nn.Module.__init__(model)
        model.quant_config = SimpleNamespace(get_name=lambda: "fp8")

    monkeypatch.setattr(DFlashQwen3Model, "__init__", quantized)
    with pytest.raises(ConfigError, match="number format, got quantization fp8"):
        SpecialistDraftModel(vllm_config=SimpleNamespace())
