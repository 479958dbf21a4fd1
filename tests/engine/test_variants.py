"""Drafters of other shapes on targets of other families: the engine drafts what the model drafts.

Targets and drafters have random weights, so acceptance is low; the drafts must be equal all the
same.
"""

from collections import defaultdict
from dataclasses import replace

import pytest

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.rope import RopeScaling
from dpace_serve.drafter.sliding import SlidingAttention

pytestmark = [pytest.mark.engine, pytest.mark.slow]

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB, END = 64, 5, 2, 1, 32, 96, 95
MAX_POSITIONS = 256
MAX_TOKENS = 40
NUM_PROMPTS = 6
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PLAIN = DrafterConfig(
    hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=HEAD_DIM, rms_norm_eps=1e-6, rope_theta=500.0,
    max_position_embeddings=MAX_POSITIONS, vocab_size=VOCAB, block_size=4, mask_token_id=94,
    target_layer_ids=(0, 1, 3), num_target_layers=LAYERS, target_hidden_size=HIDDEN,
)  # fmt: skip
VARIANTS = {
    "llama3 rotation": ("llama", replace(PLAIN, rope_scaling=RopeScaling(**LLAMA3))),
    "windows, both directions": ("llama", replace(PLAIN, sliding=SlidingAttention(6, (0, 1)))),
    "windows, causal": ("qwen3", replace(PLAIN, sliding=SlidingAttention(6, (0, 1), True))),
    "yarn on half of each head, biases": (
        "qwen3",
        replace(
            PLAIN,
            rope_scaling=RopeScaling("yarn", factor=4.0, original_max_position_embeddings=64),
            partial_rotary_factor=0.5,
            attention_bias=True,
        ),
    ),
    "linear rotation": ("qwen3", replace(PLAIN, rope_scaling=RopeScaling("linear", factor=4.0))),
}


def random_target(family: str, folder):
    """An untied target with lively answers, and a drafter's worth of hidden states."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes = {
        "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCAB, "max_position_embeddings": MAX_POSITIONS, "bos_token_id": None,
        "eos_token_id": END, "tie_word_embeddings": False,
    }  # fmt: skip
    torch.manual_seed(5)
    if family == "llama":
        rope = {**LLAMA3, "rope_theta": 10000.0}
        model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2.5)  # livelier than the usual start: answers differ by prompt
    model.save_pretrained(folder)
    return model.eval()


def random_tensors(config: DrafterConfig):
    import torch

    from dpace_serve.drafter.checkpoint import tensor_shapes

    generator = torch.Generator().manual_seed(6)
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) == 2 else 0.2)
        + (len(shape) == 1 and not name.endswith("bias"))
        for name, shape in tensor_shapes(config).items()
    }


@pytest.fixture(scope="module")
def proposals_of(engine_environment, observing):
    """Draft with a new engine; returns answers and each request's proposals in order."""
    return lambda *arguments: _proposals(observing, *arguments)


def _proposals(observing, model_folder, speculative_config, prompts):
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(model_folder),
        dtype="float32",
        max_model_len=MAX_POSITIONS,
        max_num_seqs=4,
        enforce_eager=True,
        skip_tokenizer_init=True,
        seed=0,
        speculative_config={"draft_sample_method": "greedy", **speculative_config},
    )
    kept = defaultdict(list)

    def keep(step):
        for row, request_id in enumerate(step.request_ids):
            kept[request_id.split("-")[0]].append(
                (int(step.anchors[row]), step.draft_tokens[row], step.logits[row])
            )

    with observing(engine, keep):
        finished = engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            SamplingParams(temperature=0, max_tokens=MAX_TOKENS, detokenize=False),
            use_tqdm=False,
        )
    found = [(list(o.outputs[0].token_ids), kept[o.request_id]) for o in finished]
    engine.llm_engine.engine_core.shutdown()
    return found


def _speculation(folder, config: DrafterConfig):
    return {
        "method": "dflash",
        "model": str(folder),
        "num_speculative_tokens": config.num_draft_tokens,
    }


def _prompts():
    import torch

    generator = torch.Generator().manual_seed(7)
    return [
        torch.randint(90, (3 + 30 * i,), generator=generator).tolist() for i in range(NUM_PROMPTS)
    ]


def _require_equal(found, target, drafter, prompts):
    import torch

    from dpace_training.evaluation.decode import decode

    num_steps = 0
    for (tokens, proposals), prompt in zip(found, prompts, strict=True):
        decoded = decode(
            target, drafter, torch.tensor(prompt), max_tokens=MAX_TOKENS, end_ids=frozenset({END})
        )
        assert tokens == list(decoded.tokens)
        assert len(proposals) >= len(decoded.steps)
        for (anchor, drafts, logits), step in zip(proposals, decoded.steps, strict=False):
            assert anchor == decoded.tokens[step.anchor - len(prompt)]
            assert tuple(drafts.tolist()) == step.drafts
            torch.testing.assert_close(logits, step.logits, rtol=1e-3, atol=1e-3)
            num_steps += 1
    assert num_steps >= 100


@pytest.mark.parametrize("name", VARIANTS)
def test_drafts_of_a_variant_are_equal(name, tmp_path, proposals_of):
    from dpace_serve.drafter import checkpoint
    from dpace_training.evaluation.compare import load_drafter

    family, config = VARIANTS[name]
    target = random_target(family, tmp_path / "target")
    checkpoint.write(tmp_path / "drafter", config, random_tensors(config))
    found = proposals_of(
        tmp_path / "target", _speculation(tmp_path / "drafter", config), _prompts()
    )
    _require_equal(found, target, load_drafter(tmp_path / "drafter"), _prompts())


@pytest.mark.parametrize("is_named_alone", [False, True])
def test_drafts_of_a_folder_in_the_speculators_layout_are_equal(
    tmp_path, proposals_of, is_named_alone
):
    from dpace_serve.drafter import checkpoint
    from dpace_serve.drafter.exchange import export
    from dpace_training.evaluation.compare import load_drafter

    folder = tmp_path / "target"
    target = random_target("qwen3", folder)
    checkpoint.write(tmp_path / "drafter", PLAIN, random_tensors(PLAIN))
    exported = tmp_path / "exported"
    export(tmp_path / "drafter", exported, layout="speculators", target=folder)
    if is_named_alone:  # the folder itself names its target and its number of drafts
        found = proposals_of(exported, {}, _prompts())
    else:
        found = proposals_of(folder, _speculation(exported, PLAIN), _prompts())
    _require_equal(found, target, load_drafter(tmp_path / "drafter"), _prompts())
