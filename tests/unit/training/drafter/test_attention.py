"""All implementations of attention against each other, and their masks cell by cell."""

import random

import pytest
import torch

from dpace_training.drafter.attention import ATTENTIONS
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.one_sequence import FlexAttention, visible_keys
from dpace_training.drafter.sight import Sight
from tests.unit.training.drafter.test_variants import VARIANTS

WITHOUT_FUSION = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
MASKS = {
    "full": {},
    "window": {"window": 6},
    "causal window": {"window": 6, "is_causal": True},
    "packed": {"is_packed": True},
    "packed causal window": {"is_packed": True, "window": 6, "is_causal": True},
}
NAMES = ("queries", "context_keys", "context_values", "block_keys", "block_values")


def random_sight(seed, *, is_packed=False, window=None, is_causal=False):
    rng = random.Random(seed)
    documents, blocks, num_tokens = rng.randint(1, 3), rng.randint(1, 6), rng.randint(1, 40)
    block_size = rng.randint(2, 6)
    anchors = [[rng.randint(0, num_tokens) for _ in range(blocks)] for _ in range(documents)]
    starts = [[rng.randint(0, anchor) if is_packed else 0 for anchor in row] for row in anchors]
    return Sight(
        torch.tensor(anchors), torch.tensor(starts), num_tokens, block_size, window, is_causal
    )


def random_inputs(seed, sight):
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    (documents, blocks), head_dim = sight.anchors.shape, rng.choice([4, 16])
    kv_heads = rng.randint(1, 2)
    in_blocks = (documents, blocks, sight.block_size)
    shapes = {
        "queries": (*in_blocks, kv_heads * rng.randint(1, 3), head_dim),
        "context_keys": (documents, sight.num_tokens, kv_heads, head_dim),
        "context_values": (documents, sight.num_tokens, kv_heads, head_dim),
        "block_keys": (*in_blocks, kv_heads, head_dim),
        "block_values": (*in_blocks, kv_heads, head_dim),
    }
    return [torch.randn(shapes[name], generator=generator) for name in NAMES]


def output_and_gradients(name, sight, inputs):
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = ATTENTIONS[name](sight)(*inputs)
    torch.autograd.backward((output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum())
    return [output.detach(), *(tensor.grad for tensor in inputs)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("seed", range(3))
def test_the_mask_of_the_reference_is_the_rule_cell_by_cell(mask, seed):
    sight = random_sight(seed, **MASKS[mask])
    visible = visible_keys(sight)
    for document, anchors in enumerate(sight.anchors.tolist()):
        for block, anchor in enumerate(anchors):
            start = int(sight.starts[document, block])
            for offset in range(sight.block_size):
                seen = set()
                for token in range(start, anchor):
                    distance = anchor + offset - token
                    if sight.window is None or distance < sight.window:
                        seen.add(token)
                for other in range(sight.block_size):
                    if not (sight.is_causal and other > offset):
                        seen.add(sight.num_tokens + block * sight.block_size + other)
                row = visible[document, block * sight.block_size + offset]
                assert set(row.nonzero().flatten().tolist()) == seen


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("seed", range(6))
def test_two_parts_give_output_and_gradients_of_the_reference(mask, seed):
    sight = random_sight(seed, **MASKS[mask])
    inputs = random_inputs(seed, sight)
    ours = output_and_gradients("two_part", sight, inputs)
    expected = output_and_gradients("sdpa", sight, inputs)
    for name, found, wanted in zip(("output", *NAMES), ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=f"{name} differs")


@WITHOUT_FUSION
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("seed", range(2))
def test_flex_attention_gives_the_output_of_the_reference(mask, seed):
    sight = random_sight(seed, **MASKS[mask])
    inputs = random_inputs(seed, sight)
    with torch.no_grad():
        found, wanted = (ATTENTIONS[name](sight)(*inputs) for name in ("flex", "sdpa"))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", [{}, {"window": 129}], ids=["full", "window"])
def test_flex_attention_computes_only_tiles_in_which_something_is_seen(mask):
    # 64 blocks of 8 tokens are 4 tiles of queries; 512 context tokens are 4 tiles of keys.
    anchors = torch.arange(64).unsqueeze(0) * 8
    sight = Sight(anchors, torch.zeros_like(anchors), 512, 8, **mask)
    tiles = FlexAttention(sight).mask.to_dense()[0, 0]
    seen = visible_keys(sight)[0].view(4, 128, 8, 128).any(dim=3).any(dim=1)
    assert torch.equal(tiles.bool(), seen)
    context = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    if "window" in mask:  # the first of a tile's queries reaches 128 back: to the tile before
        context[2][0] = context[3][0] = context[3][1] = 0
    assert tiles[:, :4].tolist() == context
    assert tiles[:, 4:].tolist() == torch.eye(4).tolist()  # no other tile's blocks


@WITHOUT_FUSION
@pytest.mark.parametrize("name", VARIANTS)
def test_drafters_answer_the_same_under_every_attention(name):
    torch.manual_seed(0)
    drafter = BlockDrafter(VARIANTS[name])
    generator = torch.Generator().manual_seed(1)
    taps = torch.randn(2, 12, 2 * 24, generator=generator)
    blocks = torch.randn(2, 3, 4, 24, generator=generator)
    anchors, starts = torch.tensor([[1, 4, 9], [2, 7, 12]]), torch.tensor([[0, 0, 5], [0, 7, 7]])
    answers = {}
    for attention in ATTENTIONS:
        drafter.attention = attention
        with torch.no_grad():
            answers[attention] = drafter(taps, blocks, anchors, starts)
    for attention in ("two_part", "flex"):
        torch.testing.assert_close(answers[attention], answers["sdpa"], rtol=1e-5, atol=1e-5)
