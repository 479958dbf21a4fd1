"""Position specialists against references that go through one position at a time."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpace_serve.drafter.checkpoint import DrafterConfig, tensor_shapes
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_serve.drafter.specialists import Specialists
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.specialists import PositionGroups

PLAIN = DrafterConfig(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-6, rope_theta=100.0,
    max_position_embeddings=64, vocab_size=19, block_size=6, mask_token_id=18,
    target_layer_ids=(0, 2), num_target_layers=5, target_hidden_size=24,
)  # fmt: skip
# Five draft positions: groups of 2 and of 3 do not divide them, one of 5 is all of them.
KINDS = {
    "low rank, 1": Specialists("low_rank", 1, 3),
    "low rank, 2": Specialists("low_rank", 2, 3),
    "low rank, 5": Specialists("low_rank", 5, 3),
    "last layer, 1": Specialists("last_layer", 1),
    "last layer, 2": Specialists("last_layer", 2),
    "last layer, 3": Specialists("last_layer", 3),
    "last layer, 5": Specialists("last_layer", 5),
}
ANCHORS = torch.tensor([[1, 4, 9], [2, 7, 12]])


def config_of(name: str, **changes) -> DrafterConfig:
    return replace(PLAIN, specialists=KINDS[name], **changes)


def fresh(config: DrafterConfig, seed: int = 3) -> BlockDrafter:
    torch.manual_seed(seed)
    return BlockDrafter(config).double()


def random_drafter(config: DrafterConfig) -> BlockDrafter:
    """All weights random, those of each group its own."""
    drafter = fresh(config)
    with torch.no_grad():
        for name, parameter in drafter.named_parameters():
            noise = torch.randn_like(parameter) * 0.4
            parameter.copy_(noise + (1 if "norm" in name else 0))
    return drafter


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    taps = torch.randn(2, 12, 48, generator=generator, dtype=torch.float64)
    blocks = torch.randn(2, 3, 6, 24, generator=generator, dtype=torch.float64)
    return taps, blocks, ANCHORS


def group(index: int, size: int) -> int:
    """Index 0 is the anchor; 1..size are the first group, and so on."""
    return 0 if index == 0 else (index - 1) // size


def norm(row: Tensor, weight: Tensor) -> Tensor:
    return row / math.sqrt(float((row * row).mean()) + PLAIN.rms_norm_eps) * weight


def turn(head: Tensor, position: int) -> Tensor:
    turned = head.clone()
    for i in range(8):
        angle = position * PLAIN.rope_theta ** (-i / 8)
        turned[i] = head[i] * math.cos(angle) - head[i + 8] * math.sin(angle)
        turned[i + 8] = head[i + 8] * math.cos(angle) + head[i] * math.sin(angle)
    return turned


def heads(row: Tensor) -> list[Tensor]:
    return [row[start : start + 16] for start in range(0, len(row), 16)]


class SlowDrafter:
    """One block at a time, one position at a time, each with the weights of its own group."""

    def __init__(self, config: DrafterConfig, weights: dict[str, Tensor]) -> None:
        self.config, self.weights = config, weights

    def weight(self, layer: int, index: int, name: str) -> Tensor | float:
        """A weight of a layer for this index of the block; context has no index, and needs none."""
        specialists = self.config.specialists
        stacked = self.weights.get(f"specialists.{name}")
        if layer == 1 and specialists.kind == "last_layer" and stacked is not None:
            return stacked[group(index, specialists.group_size)]
        return self.weights.get(f"layers.{layer}.{name}", 0.0)

    def linear(self, layer: int, index: int, name: str, row: Tensor) -> Tensor:
        mapped = self.weight(layer, index, f"{name}.weight") @ row
        return mapped + self.weight(layer, index, f"{name}.bias")

    def sees(self, layer: int, query: int, key: int) -> bool:
        sliding = self.config.sliding
        if sliding is None or layer not in sliding.layers:
            return True
        return query - key < sliding.window and (key <= query or not sliding.is_causal)

    def attention(self, layer: int, index: int, anchor: int, sources: list[Tensor]) -> Tensor:
        query_row = self.linear(layer, index, "self_attn.q_proj", sources[anchor + index])
        mixed = []
        for head, query in enumerate(heads(query_row)):
            normed = norm(query, self.weight(layer, index, "self_attn.q_norm.weight"))
            turned = turn(normed, anchor + index)
            scores, values = [], []
            for t, source in enumerate(sources):
                if self.sees(layer, anchor + index, t):
                    key = heads(self.linear(layer, 0, "self_attn.k_proj", source))[head // 2]
                    key = turn(norm(key, self.weight(layer, 0, "self_attn.k_norm.weight")), t)
                    scores.append(math.exp(float(turned @ key) / 4))
                    values.append(heads(self.linear(layer, 0, "self_attn.v_proj", source)))
            total = sum(scores)
            mixed.append(sum(s / total * v[head // 2] for s, v in zip(scores, values, strict=True)))
        return self.linear(layer, index, "self_attn.o_proj", torch.cat(mixed))

    def block(self, taps: Tensor, block: Tensor, anchor: int) -> Tensor:
        context = [
            norm(self.weights["fc.weight"] @ taps[t], self.weights["hidden_norm.weight"])
            for t in range(anchor)
        ]
        rows = list(block)
        for layer in range(2):
            normed = [
                norm(row, self.weight(layer, i, "input_layernorm.weight"))
                for i, row in enumerate(rows)
            ]
            rows = [
                row + self.attention(layer, i, anchor, context + normed)
                for i, row in enumerate(rows)
            ]
            for i, row in enumerate(rows):
                x = norm(row, self.weight(layer, i, "post_attention_layernorm.weight"))
                gate = functional.silu(self.linear(layer, i, "mlp.gate_proj", x))
                x = gate * self.linear(layer, i, "mlp.up_proj", x)
                rows[i] = row + self.linear(layer, i, "mlp.down_proj", x)
        outputs = [norm(row, self.weights["norm.weight"]) for row in rows]
        specialists = self.config.specialists
        if specialists.kind == "low_rank":
            for i in range(1, 6):
                own = group(i, specialists.group_size)
                narrow = self.weights["specialists.adapter_in.weight"][own] @ outputs[i]
                change = self.weights["specialists.adapter_out.weight"][own] @ narrow
                outputs[i] = outputs[i] + change
        return torch.stack(outputs)


VARIANTS = {
    **{name: config_of(name) for name in KINDS},
    "last layer, biases": config_of("last layer, 2", attention_bias=True),
    "last layer, window": config_of("last layer, 2", sliding=SlidingAttention(7, (0, 1))),
    "last layer, causal window": config_of(
        "last layer, 2", sliding=SlidingAttention(7, (1,), is_causal=True)
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_all_groups_at_once_equal_one_position_at_a_time(name):
    drafter, (taps, blocks, anchors) = random_drafter(VARIANTS[name]), inputs()
    found = drafter(taps, blocks, anchors)
    slow = SlowDrafter(VARIANTS[name], drafter.state_dict())
    for document, block in ((0, 0), (0, 2), (1, 1)):
        anchor = int(anchors[document, block])
        expected = slow.block(taps[document], blocks[document, block], anchor)
        # The angles are worked out in float32. The anchor's own output is never used.
        assert torch.allclose(found[document, block, 1:], expected[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("group_size", "expected"),
    [
        (1, [[1, 11], [2, 12], [3, 13], [4, 14], [5, 15]]),
        (2, [[1, 2, 11, 12], [3, 4, 13, 14], [5, 0, 15, 0]]),
        (3, [[1, 2, 3, 11, 12, 13], [4, 5, 0, 14, 15, 0]]),
        (5, [[1, 2, 3, 4, 5, 11, 12, 13, 14, 15]]),
    ],
)
def test_positions_of_two_blocks_are_sorted_by_group_and_put_back(group_size, expected):
    groups = PositionGroups(5, len(expected), group_size)
    drafts = torch.tensor([[[1, 2, 3, 4, 5], [11, 12, 13, 14, 15]]]).unsqueeze(-1).float()
    rows = groups.split(drafts)
    assert rows.squeeze(-1).tolist() == expected
    assert torch.equal(groups.join(rows, drafts.shape[:2]), drafts)


@torch.no_grad()
def test_an_adapter_of_rank_1_by_hand():
    drafter = fresh(config_of("low rank, 2"))
    specialists = drafter.specialists
    specialists.adapter_in.weight.zero_()
    specialists.adapter_out.weight.zero_()
    specialists.adapter_in.weight[1, 0, :2] = torch.tensor([1.0, 2.0])
    specialists.adapter_out.weight[1, :3, 0] = torch.tensor([3.0, 4.0, -1.0])
    hidden = torch.ones(1, 1, 6, 24, dtype=torch.float64)
    change = (specialists(hidden) - hidden)[0, 0]
    # 1 * 1 + 2 * 1 = 3, then times 3, 4 and -1; the second group has positions 3 and 4.
    own = [9.0, 12.0, -3.0] + [0.0] * 21
    none = [0.0] * 24
    assert change.tolist() == [none, none, none, own, own, none]


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_fresh_drafter_drafts_what_a_plain_one_of_the_same_seed_drafts(name):
    plain, own = fresh(replace(VARIANTS[name], specialists=None)), fresh(VARIANTS[name])
    assert torch.allclose(
        own(*inputs())[:, :, 1:], plain(*inputs())[:, :, 1:], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_exactly_the_tensors_of_a_checkpoint(name):
    found = {key: tuple(t.shape) for key, t in fresh(VARIANTS[name]).state_dict().items()}
    assert found == tensor_shapes(VARIANTS[name])


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_the_context_is_read_as_by_a_plain_drafter(name):
    taps = inputs()[0]
    plain, own = fresh(PLAIN).read_context(taps), fresh(config_of(name)).read_context(taps)
    for (plain_keys, plain_values), (keys, values) in zip(plain, own, strict=True):
        assert torch.equal(keys, plain_keys)
        assert torch.equal(values, plain_values)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_the_order_of_blocks_does_not_matter(name):
    drafter, (taps, blocks, anchors) = random_drafter(config_of(name)), inputs()
    order = torch.tensor([2, 0, 1])
    expected = drafter(taps, blocks, anchors)[:, order]
    found = drafter(taps, blocks[:, order], anchors[:, order])
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_no_blocks_give_no_hidden_states(name):
    taps, blocks, anchors = inputs()
    drafter = random_drafter(config_of(name))
    assert drafter(taps, blocks[:, :0], anchors[:, :0]).shape == (2, 0, 6, 24)


def own_gradients(drafter: BlockDrafter) -> dict[str, list[bool]]:
    """For each stack of the specialists, which groups got a gradient."""
    return {
        key.removeprefix("specialists."): [bool(part.abs().max() > 0) for part in parameter.grad]
        for key, parameter in drafter.named_parameters()
        if key.startswith("specialists.")
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_of_every_group_gets_a_gradient(name):
    drafter = random_drafter(VARIANTS[name])
    drafter(*inputs())[:, :, 1:].square().sum().backward()
    for key, parameter in drafter.named_parameters():
        assert parameter.grad.abs().max() > 0, key
    assert all(all(groups) for groups in own_gradients(drafter).values())


@pytest.mark.parametrize(("position", "reached"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)])
@pytest.mark.parametrize("name", ["low rank, 2", "last layer, 2"])
def test_the_loss_of_a_position_trains_the_specialist_of_its_group_alone(name, position, reached):
    drafter = random_drafter(config_of(name))
    drafter(*inputs())[:, :, position].square().sum().backward()
    found = own_gradients(drafter)
    # Every token's key and value stand behind the input norm of its own group.
    assert found.pop("input_layernorm.weight", [True] * 3) == [True] * 3
    alone = [index == reached for index in range(3)]
    assert found
    assert all(groups == alone for groups in found.values())


@torch.no_grad()
def test_torchs_attention_gives_the_same():
    drafter = random_drafter(config_of("last layer, 2"))
    expected = drafter(*inputs())
    drafter.attention = "sdpa"
    assert torch.allclose(drafter(*inputs()), expected, rtol=1e-9, atol=1e-9)


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        drafter = random_drafter(config_of("last layer, 2"))
        drafter.recompute_layers = recompute
        drafter(*inputs())[:, :, 1:].square().sum().backward()
        gradients.append({key: p.grad for key, p in drafter.named_parameters()})
    for key, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][key], rtol=1e-12, atol=1e-12), key
