"""The drafter against a slow reference that computes one block, one head, one query at a time."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpace_serve.drafter.checkpoint import DrafterConfig, tensor_shapes
from dpace_training.drafter.model import BlockDrafter

CONFIG = DrafterConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    max_position_embeddings=64,
    vocab_size=19,
    block_size=4,
    mask_token_id=18,
    target_layer_ids=(0, 2, 3),
    num_target_layers=5,
    target_hidden_size=24,
)
TAPS_SIZE = 3 * 24


@pytest.fixture(name="drafter")
def make_drafter() -> BlockDrafter:
    """A drafter with all weights random, norms too."""
    torch.manual_seed(3)
    drafter = BlockDrafter(CONFIG).double()
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + (parameter.ndim == 1))
    return drafter


@pytest.fixture(name="inputs")
def make_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Taps, block embeddings and anchors of two documents with three blocks each."""
    generator = torch.Generator().manual_seed(4)
    taps = torch.randn(2, 12, TAPS_SIZE, generator=generator, dtype=torch.float64)
    blocks = torch.randn(2, 3, 4, 24, generator=generator, dtype=torch.float64)
    return taps, blocks, torch.tensor([[1, 4, 9], [2, 3, 12]])


def slow_rms_norm(row: Tensor, weight: Tensor) -> Tensor:
    return row / math.sqrt(float((row * row).mean()) + CONFIG.rms_norm_eps) * weight


def slow_rotation(head: Tensor, position: int) -> Tensor:
    """Complex rotation of the pairs (i, i + half)."""
    half = len(head) // 2
    turned = head.clone()
    for i in range(half):
        angle = position * CONFIG.rope_theta ** (-2 * i / len(head))
        turned[i] = head[i] * math.cos(angle) - head[i + half] * math.sin(angle)
        turned[i + half] = head[i + half] * math.cos(angle) + head[i] * math.sin(angle)
    return turned


def slow_block(weights: dict[str, Tensor], taps: Tensor, block: Tensor, anchor: int) -> Tensor:
    """Last hidden states of one block: taps before the anchor and the block are all it gets."""
    context = [
        slow_rms_norm(weights["fc.weight"] @ taps[t], weights["hidden_norm.weight"])
        for t in range(anchor)
    ]
    rows = list(block)
    for layer in range(CONFIG.num_hidden_layers):
        part = {
            name.removeprefix(f"layers.{layer}."): weight
            for name, weight in weights.items()
            if name.startswith(f"layers.{layer}.")
        }
        normed = [slow_rms_norm(row, part["input_layernorm.weight"]) for row in rows]
        sources = context + normed
        mixed = [
            slow_attention(part, normed[i], anchor + i, sources) for i in range(CONFIG.block_size)
        ]
        o_proj = part["self_attn.o_proj.weight"]
        rows = [row + o_proj @ heads for row, heads in zip(rows, mixed, strict=True)]
        for i, row in enumerate(rows):
            x = slow_rms_norm(row, part["post_attention_layernorm.weight"])
            gate = functional.silu(part["mlp.gate_proj.weight"] @ x)
            rows[i] = row + part["mlp.down_proj.weight"] @ (gate * (part["mlp.up_proj.weight"] @ x))
    return torch.stack([slow_rms_norm(row, weights["norm.weight"]) for row in rows])


def slow_attention(
    part: dict[str, Tensor], row: Tensor, position: int, sources: list[Tensor]
) -> Tensor:
    """All heads of one query; source t stands at position t."""
    heads = []
    for head in range(CONFIG.num_attention_heads):
        kv_head = head // (CONFIG.num_attention_heads // CONFIG.num_key_value_heads)
        kv_rows = slice(kv_head * 8, kv_head * 8 + 8)
        query = (part["self_attn.q_proj.weight"] @ row)[head * 8 : head * 8 + 8]
        query = slow_rotation(slow_rms_norm(query, part["self_attn.q_norm.weight"]), position)
        scores, values = [], []
        for t, source in enumerate(sources):
            key = (part["self_attn.k_proj.weight"] @ source)[kv_rows]
            key = slow_rotation(slow_rms_norm(key, part["self_attn.k_norm.weight"]), t)
            scores.append(float(query @ key) / math.sqrt(8))
            values.append((part["self_attn.v_proj.weight"] @ source)[kv_rows])
        total = sum(math.exp(score) for score in scores)
        mixed = (math.exp(s) / total * v for s, v in zip(scores, values, strict=True))
        heads.append(sum(mixed))
    return torch.cat(heads)


def test_parameters_are_exactly_the_tensors_of_a_checkpoint(drafter):
    found = {name: tuple(tensor.shape) for name, tensor in drafter.state_dict().items()}
    assert found == tensor_shapes(CONFIG)


def test_biases_are_there_where_the_checkpoint_has_them():
    config = replace(CONFIG, attention_bias=True)
    found = {
        name: tuple(tensor.shape) for name, tensor in BlockDrafter(config).state_dict().items()
    }
    assert found == tensor_shapes(config)


@torch.no_grad()
def test_all_blocks_at_once_equal_one_block_one_head_one_query_at_a_time(drafter, inputs):
    taps, blocks, anchors = inputs
    found = drafter(taps, blocks, anchors)
    for document in range(2):
        for block in range(3):
            expected = slow_block(
                drafter.state_dict(),
                taps[document],
                blocks[document, block],
                int(anchors[document, block]),
            )
            assert torch.allclose(found[document, block], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_block_sees_the_context_strictly_before_its_anchor(drafter, inputs):
    taps, blocks, anchors = inputs
    before = drafter(taps, blocks, anchors)
    later = taps.clone()
    later[0, 4:] += 1.0
    changed = drafter(later, blocks, anchors)
    assert torch.equal(changed[0, :2], before[0, :2])  # anchors 1 and 4
    assert not torch.allclose(changed[0, 2], before[0, 2])  # anchor 9
    earlier = taps.clone()
    earlier[0, 3] += 1.0
    changed = drafter(earlier, blocks, anchors)
    assert torch.equal(changed[0, 0], before[0, 0])
    assert not torch.allclose(changed[0, 1], before[0, 1])


@torch.no_grad()
def test_blocks_and_documents_do_not_see_each_other(drafter, inputs):
    taps, blocks, anchors = inputs
    before = drafter(taps, blocks, anchors)
    changed_blocks = blocks.clone()
    changed_blocks[0, 1] += 1.0
    changed = drafter(taps, changed_blocks, anchors)
    is_other = torch.ones(2, 3, dtype=torch.bool)
    is_other[0, 1] = False
    assert torch.equal(changed[is_other], before[is_other])
    assert not torch.allclose(changed[0, 1], before[0, 1])


@torch.no_grad()
def test_inside_a_block_every_position_sees_the_last_one(drafter, inputs):
    taps, blocks, anchors = inputs
    changed_blocks = blocks.clone()
    changed_blocks[0, 0, 3] += 1.0
    change = drafter(taps, changed_blocks, anchors) - drafter(taps, blocks, anchors)
    assert (change[0, 0].abs().amax(dim=-1) > 1e-6).all()


def test_nan_in_padding_changes_neither_outputs_nor_gradients(drafter, inputs):
    taps, blocks, anchors = inputs
    padded = torch.cat((taps, torch.full((2, 5, TAPS_SIZE), math.nan)), dim=1)
    padded[0, 9:] = math.nan  # the last anchor of document 1 is at 9
    results = []
    for given in (taps, padded):
        drafter.zero_grad()
        hidden = drafter(given, blocks, anchors)
        hidden.square().sum().backward()
        results.append((hidden.detach(), drafter.fc.weight.grad.clone()))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-10, atol=1e-12)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_a_dropped_block_is_finite_and_leaves_the_others_alone(drafter, inputs):
    taps, blocks, anchors = inputs
    before = drafter(taps, blocks, anchors)
    with_dropped = drafter(
        taps,
        torch.cat((blocks, torch.zeros(2, 1, 4, 24)), dim=1),
        torch.cat((anchors, torch.zeros(2, 1, dtype=torch.int64)), dim=1),
    )
    assert torch.isfinite(with_dropped).all()
    assert torch.allclose(with_dropped[:, :3], before, rtol=1e-10, atol=1e-12)


def test_every_weight_gets_a_gradient(drafter, inputs):
    drafter(*inputs)[:, :, 1:].square().sum().backward()
    for name, parameter in drafter.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_no_blocks_give_no_hidden_states(drafter, inputs):
    taps, blocks, anchors = inputs
    assert drafter(taps, blocks[:, :0], anchors[:, :0]).shape == (2, 0, 4, 24)


@torch.no_grad()
def test_taps_in_half_precision_are_read_in_the_drafters_own(drafter, inputs):
    taps, blocks, anchors = inputs
    half = taps.bfloat16()
    assert torch.equal(drafter(half, blocks, anchors), drafter(half.double(), blocks, anchors))


@torch.no_grad()
def test_a_block_starts_with_its_anchor_token_and_goes_on_with_masks(drafter):
    embedding = torch.randn(19, 24, dtype=torch.float64)
    blocks = drafter.embed_blocks(torch.tensor([[5, 7]]), embedding)
    mask = embedding[18]
    assert torch.equal(blocks[0, 1], torch.stack((embedding[7], mask, mask, mask)))


@torch.no_grad()
def test_one_draft_equals_the_same_block_among_others(drafter, inputs):
    taps, _, anchors = inputs
    embedding = torch.randn(19, 24, dtype=torch.float64)
    head = torch.randn(19, 24, dtype=torch.float64)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    hidden = drafter(taps, drafter.embed_blocks(tokens, embedding), anchors)
    logits = drafter.draft(taps[0, :4], 2, embedding, head)
    assert torch.allclose(logits, hidden[0, 1, 1:] @ head.T, rtol=1e-9, atol=1e-9)
