"""Windows, rotations and biases against references that go through one pair, one key at a time."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpace_serve.drafter.checkpoint import DrafterConfig, tensor_shapes
from dpace_serve.drafter.rope import RopeScaling
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.rotary import RotaryPositions, rotary_frequencies, rotate

PLAIN = DrafterConfig(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-6, rope_theta=100.0,
    max_position_embeddings=64, vocab_size=19, block_size=4, mask_token_id=18,
    target_layer_ids=(0, 2), num_target_layers=5, target_hidden_size=24,
)  # fmt: skip
LLAMA3 = RopeScaling(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = RopeScaling("yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0)
VARIANTS = {
    "window, both directions": replace(PLAIN, sliding=SlidingAttention(5, (0, 1))),
    "window, causal": replace(PLAIN, sliding=SlidingAttention(5, (0, 1), is_causal=True)),
    "window as long as the block": replace(PLAIN, sliding=SlidingAttention(4, (0, 1))),
    "window in one layer": replace(PLAIN, sliding=SlidingAttention(5, (1,), is_causal=True)),
    "half of each head rotates": replace(PLAIN, partial_rotary_factor=0.5),
    "linear": replace(PLAIN, rope_scaling=RopeScaling("linear", factor=4.0)),
    "llama3": replace(PLAIN, rope_scaling=LLAMA3),
    "yarn": replace(PLAIN, rope_scaling=YARN),
    "yarn on a quarter": replace(PLAIN, rope_scaling=YARN, partial_rotary_factor=0.25),
    "biases": replace(PLAIN, attention_bias=True),
}
ANCHORS = torch.tensor([[1, 4, 9], [2, 7, 12]])


def slow_angle_per_position(config: DrafterConfig, pair: int) -> float:
    """Published formulas, for one pair of dimensions."""
    size = int(config.head_dim * config.partial_rotary_factor)
    plain = config.rope_theta ** (-2 * pair / size)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.rope_type == "linear":
        return plain / scaling.factor
    original = scaling.original_max_position_embeddings
    if scaling.rope_type == "llama3":
        turns = original * plain / (2 * math.pi)
        if turns > scaling.high_freq_factor:
            return plain
        if turns < scaling.low_freq_factor:
            return plain / scaling.factor
        share = (turns - scaling.low_freq_factor) / (
            scaling.high_freq_factor - scaling.low_freq_factor
        )
        return share * plain + (1 - share) * plain / scaling.factor

    def dimension(turns: float) -> float:
        length = math.log(original / (turns * 2 * math.pi))
        return size * length / (2 * math.log(config.rope_theta))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow or 1)), size - 1)
    share = min(max((pair - low) / (high - low), 0), 1)
    return plain * (1 - share) + plain / scaling.factor * share


def slow_scale(config: DrafterConfig) -> float:
    scaling = config.rope_scaling
    is_yarn = scaling is not None and scaling.rope_type == "yarn"
    return 0.1 * math.log(scaling.factor) + 1 if is_yarn else 1.0


def slow_rotation(config: DrafterConfig, head: Tensor, position: int) -> Tensor:
    half = int(config.head_dim * config.partial_rotary_factor) // 2
    turned = head.clone()
    for i in range(half):
        angle = position * slow_angle_per_position(config, i)
        cosine, sine = (f(angle) * slow_scale(config) for f in (math.cos, math.sin))
        turned[i] = head[i] * cosine - head[i + half] * sine
        turned[i + half] = head[i + half] * cosine + head[i] * sine
    return turned


def sees(config: DrafterConfig, layer: int, query: int, key: int) -> bool:
    """Whether position `query` of a block sees position `key` of its context or itself."""
    if config.sliding is None or layer not in config.sliding.layers:
        return True
    if query - key >= config.sliding.window:
        return False
    return key <= query or not config.sliding.is_causal


def slow_norm(row: Tensor, weight: Tensor) -> Tensor:
    return row / math.sqrt(float((row * row).mean()) + PLAIN.rms_norm_eps) * weight


def slow_block(config, weights, taps, block, anchor) -> Tensor:
    context = [
        slow_norm(weights["fc.weight"] @ taps[t], weights["hidden_norm.weight"])
        for t in range(anchor)
    ]
    rows = list(block)
    for layer in range(config.num_hidden_layers):
        prefix = f"layers.{layer}."
        part = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        normed = [slow_norm(row, part["input_layernorm.weight"]) for row in rows]
        mixed = [
            slow_attention(config, layer, part, anchor + i, context + normed)
            for i in range(config.block_size)
        ]
        rows = [
            row + linear(part, "self_attn.o_proj", heads)
            for row, heads in zip(rows, mixed, strict=True)
        ]
        for i, row in enumerate(rows):
            x = slow_norm(row, part["post_attention_layernorm.weight"])
            gate = functional.silu(part["mlp.gate_proj.weight"] @ x)
            rows[i] = row + part["mlp.down_proj.weight"] @ (gate * (part["mlp.up_proj.weight"] @ x))
    return torch.stack([slow_norm(row, weights["norm.weight"]) for row in rows])


def linear(part, name, row):
    return part[f"{name}.weight"] @ row + part.get(f"{name}.bias", 0)


def slow_attention(config, layer, part, position, sources) -> Tensor:
    size, heads = config.head_dim, []
    for head in range(config.num_attention_heads):
        kv_head = head // (config.num_attention_heads // config.num_key_value_heads)
        query = linear(part, "self_attn.q_proj", sources[position])[head * size :][:size]
        query = slow_norm(query, part["self_attn.q_norm.weight"])
        query = slow_rotation(config, query, position)
        weights, values = [], []
        for t, source in enumerate(sources):
            if not sees(config, layer, position, t):
                continue
            key = linear(part, "self_attn.k_proj", source)[kv_head * size :][:size]
            key = slow_rotation(config, slow_norm(key, part["self_attn.k_norm.weight"]), t)
            weights.append(math.exp(float(query @ key) / math.sqrt(size)))
            values.append(linear(part, "self_attn.v_proj", source)[kv_head * size :][:size])
        total = sum(weights)
        heads.append(sum(w / total * v for w, v in zip(weights, values, strict=True)))
    return torch.cat(heads)


def random_drafter(config: DrafterConfig) -> BlockDrafter:
    torch.manual_seed(3)
    drafter = BlockDrafter(config).double()
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + (parameter.ndim == 1))
    return drafter


def random_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    taps = torch.randn(2, 12, 48, generator=generator, dtype=torch.float64)
    return taps, torch.randn(2, 3, 4, 24, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_variant_equals_its_slow_reference(name):
    config = VARIANTS[name]
    drafter, (taps, blocks) = random_drafter(config), random_inputs()
    found = drafter(taps, blocks, ANCHORS)
    for document in range(2):
        for block in range(3):
            expected = slow_block(
                config,
                drafter.state_dict(),
                taps[document],
                blocks[document, block],
                int(ANCHORS[document, block]),
            )
            assert torch.allclose(found[document, block], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "biases"])
@torch.no_grad()
def test_a_variant_differs_from_the_plain_drafter(name):
    taps, blocks = random_inputs()
    plain, variant = (random_drafter(config) for config in (PLAIN, VARIANTS[name]))
    difference = plain(taps, blocks, ANCHORS) - variant(taps, blocks, ANCHORS)
    assert difference.abs().max() > 1e-2


@torch.no_grad()
def test_a_window_longer_than_the_text_hides_nothing():
    taps, blocks = random_inputs()
    wide = replace(PLAIN, sliding=SlidingAttention(100, (0, 1)))
    plain = random_drafter(PLAIN)(taps, blocks, ANCHORS)
    assert torch.equal(random_drafter(wide)(taps, blocks, ANCHORS), plain)


@torch.no_grad()
def test_a_window_of_five_shows_the_anchor_four_tokens_of_context():
    config = replace(PLAIN, num_hidden_layers=1, sliding=SlidingAttention(5, (0,)))
    drafter, (taps, blocks) = random_drafter(config), random_inputs()
    before = drafter(taps, blocks, ANCHORS)[0, 2]  # anchor 9 sees itself and 5, 6, 7, 8
    for position, seen_by in ((4, 0), (5, 1), (6, 2), (8, 4)):
        changed = taps.clone()
        changed[0, position] += 1
        is_changed = (drafter(changed, blocks, ANCHORS)[0, 2] - before).abs().amax(-1) > 1e-9
        assert is_changed.tolist() == [index < seen_by for index in range(4)]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_of_a_variant_gets_a_gradient_and_a_name_of_the_layout(name):
    drafter, (taps, blocks) = random_drafter(VARIANTS[name]), random_inputs()
    shapes = {key: tuple(tensor.shape) for key, tensor in drafter.state_dict().items()}
    assert shapes == tensor_shapes(VARIANTS[name])
    drafter(taps, blocks, ANCHORS)[:, :, 1:].square().sum().backward()
    for key, parameter in drafter.named_parameters():
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", ["linear", "llama3", "yarn", "yarn on a quarter"])
def test_frequencies_follow_the_published_formulas(name):
    frequencies, scale = rotary_frequencies(VARIANTS[name])
    expected = [slow_angle_per_position(VARIANTS[name], i) for i in range(len(frequencies))]
    assert frequencies.tolist() == pytest.approx(expected, rel=1e-5)
    assert scale == pytest.approx(slow_scale(VARIANTS[name]))


def test_a_cast_of_the_drafter_leaves_its_angles_alone():
    drafter = BlockDrafter(PLAIN)
    before = drafter._rotary.angles(torch.arange(50))
    after = drafter.bfloat16()._rotary.angles(torch.arange(50))
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_dimensions_that_do_not_rotate_stay_as_they_are():
    config = VARIANTS["half of each head rotates"]
    heads = torch.randn(7, 2, 16)
    turned = rotate(heads, *RotaryPositions(config).angles(torch.arange(7)))
    assert torch.equal(turned[..., 8:], heads[..., 8:])
    assert not torch.allclose(turned[1:, :, :8], heads[1:, :, :8])
