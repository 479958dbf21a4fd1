"""A target and a drafter of random weights in the sizes of a public pair.

The drafter is as large as DFlash's for a target of four billion parameters
(z-lab/Qwen3-4B-DFlash-b16: five layers, blocks of 16). The target is as wide, and otherwise as
small as it can be: it takes no part in what is measured of the drafter.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint

HIDDEN, HEAD_DIM = 2560, 128
NUM_TAPS = 5
SCALE = 0.02
"""Standard deviation of the weights."""


def write_target(folder: Path) -> Path:
    """A target with the tokenizer of the bundled one."""
    source = bundle.target_folder()
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))
    config = Qwen3Config.from_pretrained(source)
    config.hidden_size, config.head_dim = HIDDEN, HEAD_DIM
    config.num_hidden_layers = NUM_TAPS + 1
    config.layer_types = config.layer_types[: config.num_hidden_layers]
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_drafter(folder: Path) -> Path:
    """A plain drafter for this target."""
    config = replace(
        checkpoint.read_config(bundle.drafter_folder("dpace")),
        hidden_size=HIDDEN,
        target_hidden_size=HIDDEN,
        intermediate_size=9728,
        num_hidden_layers=5,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=HEAD_DIM,
        block_size=16,
        num_target_layers=NUM_TAPS + 1,
        target_layer_ids=tuple(range(NUM_TAPS)),
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (SCALE * torch.randn(shape, generator=generator)).to(torch.bfloat16)
        for name, shape in checkpoint.tensor_shapes(config).items()
    }
    checkpoint.write(folder, config, tensors)
    return folder
