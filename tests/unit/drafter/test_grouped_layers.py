"""What adapters and replicated layers make of rows: by hand, and for every row in turn."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, silu

from dpace_serve.drafter.draft_groups import DraftGroups
from dpace_serve.drafter.grouped_layers import GroupedLayer, LayerSizes, LowRankAdapters
from dpace_serve.drafter.specialists import Specialists


def adapters_of(groups, adapter_in, adapter_out):
    adapters = LowRankAdapters(groups, adapter_in.shape[2])
    adapters.load("adapter_in.weight", adapter_in)
    adapters.load("adapter_out.weight", adapter_out)
    return adapters


def test_rows_of_two_groups_by_hand():
    groups = DraftGroups(Specialists("low_rank", 1, 1), longest=2, shortest=2)
    adapter_in = torch.tensor([[[1.0, 2.0]], [[0.0, 3.0]]])
    adapter_out = torch.tensor([[[1.0], [0.0]], [[10.0], [20.0]]])
    adapters = adapters_of(groups, adapter_in, adapter_out)
    hidden = torch.ones(4, 2)
    adapted = torch.tensor([-1, 0, 1, -1])
    # Anchors stay; position 1 adds (1 + 2) * [1, 0], position 2 adds 3 * [10, 20].
    expected = [[1.0, 1.0], [4.0, 1.0], [31.0, 61.0], [1.0, 1.0]]
    assert adapters(hidden, groups.shares(adapted)).tolist() == expected
    assert adapters.row_by_row(hidden, adapted).tolist() == expected


@pytest.mark.parametrize("group_size", [1, 2, 7])
def test_both_ways_are_the_product_of_every_row_with_its_adapter(group_size):
    generator = torch.Generator().manual_seed(group_size)
    groups = DraftGroups(Specialists("low_rank", group_size, 3), longest=7, shortest=1)
    shape = (groups.num_groups, 3, 16)
    adapter_in = torch.randn(shape, generator=generator)
    adapter_out = torch.randn(shape, generator=generator).transpose(1, 2)
    adapters = adapters_of(groups, adapter_in, adapter_out)
    hidden = torch.randn(24, 16, generator=generator)
    for num_draft_tokens in (1, 4, 7):
        expected = hidden.clone()
        for row in range(24):
            position = row % (1 + num_draft_tokens)
            if position:
                group = (position - 1) // group_size
                expected[row] += adapter_out[group] @ (adapter_in[group] @ hidden[row])
        adapted = groups.adapted_groups(num_draft_tokens, num_rows=24, device=hidden.device)
        torch.testing.assert_close(adapters(hidden, groups.shares(adapted)), expected)
        torch.testing.assert_close(adapters.row_by_row(hidden, adapted), expected)


SIZES = LayerSizes(hidden=6, queries=8, head_dim=4, intermediate=10, eps=1e-5, has_bias=True)
NUM_ROWS, NUM_PADDED = 24, 3


def layer_weights(num_groups, generator):
    shapes = {
        "input_layernorm.weight": (6,),
        "post_attention_layernorm.weight": (6,),
        "self_attn.q_norm.weight": (4,),
        "self_attn.q_proj.weight": (8, 6),
        "self_attn.q_proj.bias": (8,),
        "self_attn.o_proj.weight": (6, 8),
        "self_attn.o_proj.bias": (6,),
        "mlp.gate_proj.weight": (10, 6),
        "mlp.up_proj.weight": (10, 6),
        "mlp.down_proj.weight": (6, 10),
    }
    return {
        name: torch.randn(num_groups, *shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def normed(values, weight):
    return values / (values.square().mean(-1, keepdim=True) + SIZES.eps).sqrt() * weight


@pytest.mark.parametrize("num_draft_tokens", [1, 2, 5, 7])
@pytest.mark.parametrize("group_size", [1, 2, 3, 7])
def test_a_layer_is_for_every_row_that_of_its_group(group_size, num_draft_tokens):
    """Biases included, and whatever padded rows hold."""
    generator = torch.Generator().manual_seed(group_size)
    groups = DraftGroups(Specialists("last_layer", group_size), longest=7, shortest=1)
    layer = GroupedLayer(groups, SIZES, nn.Module()).double()
    weights = layer_weights(groups.num_groups, generator)
    for name, weight in weights.items():
        layer.load(name, weight)
    padding = torch.full((NUM_PADDED, 8), torch.nan, dtype=torch.float64)
    residual = torch.randn(NUM_ROWS, 6, generator=generator, dtype=torch.float64)
    attended = torch.randn(NUM_ROWS, 8, generator=generator, dtype=torch.float64)

    num_rows = NUM_ROWS + NUM_PADDED
    num_places = groups.rows_per_group(num_rows)
    table = groups.table(
        num_draft_tokens, num_rows=num_rows, num_places=num_places, device=residual.device
    )
    places = groups.places(table, num_rows)
    padded = torch.cat([residual, padding[:, :6]])
    for_keys, queries = layer.before_attention(padded, places)
    mapped, before = layer.after_attention(padded, torch.cat([attended, padding]), places)

    for row in range(NUM_ROWS):
        position = row % (1 + num_draft_tokens)
        group = max(position - 1, 0) // group_size
        own = {name: weight[group] for name, weight in weights.items()}
        expected = normed(residual[row], own["input_layernorm.weight"])
        torch.testing.assert_close(for_keys[row], expected)
        if position == 0:
            continue
        heads = linear(expected, own["self_attn.q_proj.weight"], own["self_attn.q_proj.bias"])
        by_head = normed(heads.view(2, 4), own["self_attn.q_norm.weight"])
        torch.testing.assert_close(queries[row], by_head.flatten())
        added = linear(attended[row], own["self_attn.o_proj.weight"], own["self_attn.o_proj.bias"])
        torch.testing.assert_close(before[row], residual[row] + added)
        inner = normed(before[row], own["post_attention_layernorm.weight"])
        gate, up = (linear(inner, own[f"mlp.{name}_proj.weight"]) for name in ("gate", "up"))
        expected = linear(silu(gate) * up, own["mlp.down_proj.weight"])
        torch.testing.assert_close(mapped[row], expected)
