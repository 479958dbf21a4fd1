"""Tiny drafters and targets, written with torch and json alone: not with the code under test."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCAB = 64, 96, 4, 2, 32, 2, 320

CONFIG: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "attention_bias": False,
    "block_size": 8,
    "dflash_config": {"mask_token_id": 3, "target_layer_ids": [1, 5]},
    "dtype": "bfloat16",
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "layer_types": ["full_attention"] * LAYERS,
    "max_position_embeddings": 512,
    "model_type": "qwen3",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "num_target_layers": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "vocab_size": VOCAB,
}


def spelled_out_shapes() -> dict[str, tuple[int, ...]]:
    """The z-lab layout of the drafter above, written down line by line."""
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (64, 128),
        "hidden_norm.weight": (64,),
        "norm.weight": (64,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"layers.{layer}.input_layernorm.weight": (64,),
            f"layers.{layer}.post_attention_layernorm.weight": (64,),
            f"layers.{layer}.self_attn.q_proj.weight": (128, 64),
            f"layers.{layer}.self_attn.k_proj.weight": (64, 64),
            f"layers.{layer}.self_attn.v_proj.weight": (64, 64),
            f"layers.{layer}.self_attn.o_proj.weight": (64, 128),
            f"layers.{layer}.self_attn.q_norm.weight": (32,),
            f"layers.{layer}.self_attn.k_norm.weight": (32,),
            f"layers.{layer}.mlp.gate_proj.weight": (96, 64),
            f"layers.{layer}.mlp.up_proj.weight": (96, 64),
            f"layers.{layer}.mlp.down_proj.weight": (64, 96),
        }
    return shapes


def random_tensors(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in spelled_out_shapes().items()
    }


class DrafterFolder:
    """A drafter on disk that a test may damage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.set_config()
        self.save(random_tensors())

    def set_config(self, **changes: Any) -> None:
        """Write the configuration with changes; `...` removes a key."""
        values = {k: v for k, v in {**CONFIG, **changes}.items() if v is not ...}
        (self.path / "config.json").write_text(json.dumps(values))

    def set_dflash(self, **changes: Any) -> None:
        group = {**CONFIG["dflash_config"], **changes}
        self.set_config(dflash_config={k: v for k, v in group.items() if v is not ...})

    def save(self, tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> None:
        save_file(tensors, self.path / name, metadata={"format": "pt"})

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"


class TargetFolder:
    """A target's configuration and tokenizer, without weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.set_config()
        vocabulary = {"<|end|>": 0, "<|pad|>": 1, "<|turn|>": 2, "<|mask|>": 3, "a": 4, "b": 5}
        added = [
            {"id": number, "content": text, "special": True}
            for text, number in vocabulary.items()
            if number < 4
        ]
        tokenizer = {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": added}
        (path / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.set_template(
            "{% for message in messages %}<|turn|>{{ message['content'] }}{% endfor %}"
        )

    def set_template(self, text: str) -> None:
        (self.path / "chat_template.jinja").write_text(text)

    def set_config(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "model_type": "qwen3",
            "hidden_size": HIDDEN,
            "num_hidden_layers": 8,
            "vocab_size": VOCAB,
            "eos_token_id": 0,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        }
        (self.path / "config.json").write_text(json.dumps({**values, **changes}))


class SpeculatorsFolder:
    """The drafter of the other tests as speculators writes it."""

    def __init__(self, path, layer_config, tensors):
        self.path, self.layer_config, self.tensors = path, layer_config, tensors
        path.mkdir()
        self.set_config()
        self.save()

    def set_config(self, layers=None, **changes):
        values = {
            "architectures": ["DFlashSpeculator"],
            "aux_hidden_state_layer_ids": [2, 6],  # ids 1 and 5, counted from 1
            "block_size": 8,
            "draft_vocab_size": VOCAB,
            "dtype": "bfloat16",
            "mask_token_id": 3,
            "model_type": "speculator_model",
            "projector_type": "dflash",
            "sample_from_anchor": False,
            "shift_label": False,
            "auf": False,
            "sliding_window_non_causal": False,
            "speculators_config": {
                "algorithm": "dflash",
                "default_proposal_method": "greedy",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 7}],
                "verifier": {"name_or_path": "a/b", "architectures": ["Qwen3ForCausalLM"]},
            },
            "speculators_model_type": "dflash",
            "speculators_version": "0.9.0",
            "target_hidden_size": None,
            "transformer_layer_config": {**self.layer_config, **(layers or {})},
            **changes,
        }
        values = {key: value for key, value in values.items() if value is not ...}
        (self.path / "config.json").write_text(json.dumps(values))

    def save(self, **more):
        save_file({**self.tensors, **more}, self.path / "model.safetensors")


@pytest.fixture
def drafter(tmp_path: Path) -> DrafterFolder:
    return DrafterFolder(tmp_path / "drafter")


@pytest.fixture
def target(tmp_path: Path) -> TargetFolder:
    return TargetFolder(tmp_path / "target")


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return random_tensors()


@pytest.fixture
def shapes() -> dict[str, tuple[int, ...]]:
    return spelled_out_shapes()


@pytest.fixture
def config_values() -> dict[str, Any]:
    """A fresh copy of the configuration, free to be changed."""
    copied: dict[str, Any] = json.loads(json.dumps(CONFIG))
    return copied


@pytest.fixture
def speculators(tmp_path: Path, config_values: dict[str, Any], tensors) -> SpeculatorsFolder:
    for key in ("architectures", "block_size", "dflash_config", "dtype", "num_target_layers"):
        del config_values[key]
    return SpeculatorsFolder(tmp_path / "speculators", config_values, tensors)


@pytest.fixture
def embedding() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(VOCAB, HIDDEN, generator=generator).bfloat16()


@pytest.fixture
def tied_target(target: TargetFolder, embedding: torch.Tensor) -> Path:
    target.set_config(architectures=["Qwen3ForCausalLM"])
    save_file({"model.embed_tokens.weight": embedding}, target.path / "model.safetensors")
    return target.path
