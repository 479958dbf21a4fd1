"""Targets of several families, tiny and random: a drafter of each trains, decodes and replays."""

import json

import pytest
import torch
from transformers import (
    GlmConfig,
    GlmForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dpace_serve.config import build_config
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.rope import RopeScaling
from dpace_serve.errors import ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.data.target_model import load_target
from dpace_training.drafter.shape import drafter_config
from dpace_training.drafter.taps import recorded_taps
from dpace_training.evaluation.decode import decode
from dpace_training.evaluation.replay import replay
from dpace_training.evaluation.rollouts import Rollout
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer

SIZES = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "eos_token_id": 257, "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "qwen3 tied": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)
    ),
    "qwen3 untied": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=False)
    ),
    "llama 3": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters={**LLAMA3, "rope_theta": 500.0})
    ),
    "partial rotation": lambda: GlmForCausalLM(GlmConfig(**SIZES, head_dim=16)),
    "no head_dim": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}


@pytest.fixture
def save_target(tmp_path, tokenizer):
    def save(name):
        torch.manual_seed(0)
        model = FAMILIES[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(2.5)
        model.save_pretrained(tmp_path / "target")
        tokenizer.save_pretrained(tmp_path / "target")
        return tmp_path / "target"

    return save


@pytest.fixture
def build(tmp_path, write_jsonl):
    chats = [{"messages": [{"role": "user", "content": f"say {index}"}]} for index in range(4)]
    settings = {
        "target": str(tmp_path / "target"),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 16},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {"epochs": 25, "batch_size": 4, "num_anchors": 8, "learning_rate": 3e-2},
    }

    def config(**drafter):
        values = json.loads(json.dumps(settings))
        values["drafter"] |= drafter
        return build_config(TrainConfig, values, source="the test")

    return config


@torch.no_grad()
def replayed(trainer, model, prompt, answer):
    tokens = torch.cat((prompt, torch.tensor(answer)))
    with recorded_taps(model, trainer.drafter.config.target_layer_ids) as recorded:
        model(tokens.unsqueeze(0))
    (steps,) = replay(
        trainer.drafter,
        [Rollout(tokens, len(prompt), recorded.joined()[0])],
        embedding=trainer.embedding,
        head=trainer.head,
        advance=lambda _: None,
    )
    return steps


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "no head_dim"])
def test_a_drafter_learns_its_target_and_the_replay_finds_the_steps_of_decoding(
    name, save_target, build
):
    save_target(name)
    data = prepare(build())
    trainer = Trainer(build(), data, Ranks())
    first, *_, last = [trainer.train_step().loss for _ in range(trainer.total_steps)]
    assert last < 0.9 * first
    num_accepted = 0
    for document in data.documents:
        prompt = torch.tensor(document.token_ids[: document.loss_mask.index(True)])
        decoded = decode(
            data.target.model,
            trainer.drafter,
            prompt,
            max_tokens=16,
            end_ids=data.target.end_ids,
        )
        found = replayed(trainer, data.target.model, prompt, decoded.tokens)
        assert found.per_step_accepted == decoded.settled().per_step_accepted
        num_accepted += sum(found.per_step_accepted)
    assert num_accepted > 0


def test_a_drafter_takes_the_rotation_and_sizes_of_a_llama(save_target, build):
    target = load_target(save_target("llama 3"), dtype=torch.float32)
    config = drafter_config(build(), target)
    assert config.rope_scaling == RopeScaling(**LLAMA3)
    assert (config.rope_theta, config.partial_rotary_factor) == (500.0, 1.0)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)


def test_a_drafter_takes_the_partial_rotation_of_its_target(save_target, build):
    target = load_target(save_target("partial rotation"), dtype=torch.float32)
    config = drafter_config(build(), target)
    assert (config.partial_rotary_factor, config.rotary_dim) == (0.5, 8)
    plain = drafter_config(build(rope_theta=1e6), target)
    assert (plain.rope_theta, plain.partial_rotary_factor) == (1e6, 1.0)


def test_a_target_without_head_dim_has_hidden_size_over_heads(save_target, build):
    target = load_target(save_target("no head_dim"), dtype=torch.float32)
    assert not hasattr(target.model.config, "head_dim")
    assert drafter_config(build(), target).head_dim == 8
    assert drafter_config(build(head_dim=16), target).head_dim == 16


def test_settings_of_the_drafter_reach_its_checkpoint(save_target, build, tmp_path):
    save_target("qwen3 untied")
    shape = {"sliding_window": 6, "attention_bias": True, "sliding_is_causal": True}
    trainer = Trainer(build(**shape), prepare(build(**shape)), Ranks())
    trainer.train_step()
    checkpoint.write(tmp_path / "written", trainer.drafter.config, trainer.drafter.state_dict())
    written = json.loads((tmp_path / "written" / "config.json").read_text())
    assert written["layer_types"] == ["sliding_attention"]
    assert written["sliding_window"] == 6
    assert written["use_sliding_window"] is True
    assert written["attention_bias"] is True
    assert "causal" not in written["dflash_config"]
    assert "layers.0.self_attn.o_proj.bias" in checkpoint.read_tensors(tmp_path / "written")


def refusal(config, target):
    with pytest.raises(ConfigError) as caught:
        drafter_config(config, target)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("rope", "rule"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "its angles depend on the length of the text"),
        (
            {"full_attention": {"rope_type": "default"}, "sliding_attention": {}},
            "layers of the target rotate differently (full_attention, sliding_attention)",
        ),
        ({"rope_type": "default", "rope_theta": None}, "rope_theta must be given"),
    ],
)
def test_a_rotation_that_cannot_be_taken_over_is_refused_with_a_way_out(
    save_target, build, rope, rule
):
    target = load_target(save_target("qwen3 tied"), dtype=torch.float32)
    target.model.config.rope_parameters = {"rope_theta": 10000.0, **rope}
    text = refusal(build(), target)
    assert rule in text
    assert "Set drafter.rope_theta" in text
    assert drafter_config(build(rope_theta=1e4), target).rope_scaling is None


def test_positions_in_sections_are_plain_positions_for_text(save_target, build):
    target = load_target(save_target("qwen3 tied"), dtype=torch.float32)
    plain = drafter_config(build(), target)
    target.model.config.rope_parameters |= {"mrope_section": [2, 3, 3], "mrope_interleaved": True}
    assert drafter_config(build(), target) == plain


def test_soft_labels_of_a_target_that_caps_its_logits_are_refused(save_target, build):
    target = load_target(save_target("qwen3 tied"), dtype=torch.float32)
    target.model.config.final_logit_softcapping = 30.0
    drafter_config(build(), target)
    values = build().model_dump(mode="json") | {"loss": {"recipe": "lk"}}
    soft = build_config(TrainConfig, values, source="the test")
    assert "this target has final_logit_softcapping" in refusal(soft, target)


def test_layers_with_a_window_need_one(build):
    with pytest.raises(ConfigError, match="sliding_layers need a sliding_window"):
        build(sliding_layers=[0])
