"""The decode loop against plain greedy decoding, and the replay against the decode loop."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.taps import recorded_taps
from dpace_training.evaluation.decode import Decoded, decode
from dpace_training.evaluation.replay import Rollout, replay

# So few tokens that a random drafter is often right by chance.
VOCAB, MASK, END = 6, 5, 4
LAYER_IDS = (0, 1, 2)


@dataclass(frozen=True)
class Pair:
    target: Qwen3ForCausalLM
    drafter: BlockDrafter
    decoded: dict[tuple[Any, ...], Decoded] = field(default_factory=dict)

    def decode(self, prompt: Tensor, max_tokens: int, end_ids: frozenset[int]) -> Decoded:
        key = (*prompt.tolist(), max_tokens, end_ids)
        if key not in self.decoded:
            self.decoded[key] = decode(
                self.target, self.drafter, prompt, max_tokens=max_tokens, end_ids=end_ids
            )
        return self.decoded[key]

    @torch.no_grad()
    def replay(self, prompt: Tensor, answer: tuple[int, ...], blocks_per_chunk: int = 64):
        tokens = torch.cat((prompt, torch.tensor(answer)))
        with recorded_taps(self.target, LAYER_IDS) as recorded:
            self.target(tokens.unsqueeze(0))
        return replay(
            self.drafter,
            Rollout(tokens, len(prompt), recorded.joined()[0]),
            embedding=self.target.get_input_embeddings().weight,
            head=self.target.get_output_embeddings().weight,
            blocks_per_chunk=blocks_per_chunk,
        )


@pytest.fixture(name="pair", scope="module")
def make_pair() -> Pair:
    torch.manual_seed(8)
    target = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, initializer_range=0.6,
            tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    config = DrafterConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6, rope_theta=10000.0,
        max_position_embeddings=256, vocab_size=VOCAB, block_size=4, mask_token_id=MASK,
        target_layer_ids=LAYER_IDS, num_target_layers=4, target_hidden_size=32,
    )  # fmt: skip
    return Pair(target, BlockDrafter(config).eval())


def prompts(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(4, (3 + i % 5,), generator=generator) for i in range(count)]


@torch.no_grad()
def plain_greedy(target, prompt: Tensor, max_tokens: int, end_ids: frozenset[int]) -> list[int]:
    """One token at a time, everything computed anew."""
    answer: list[int] = []
    while len(answer) < max_tokens and not (answer and answer[-1] in end_ids):
        tokens = torch.cat((prompt, torch.tensor(answer, dtype=torch.int64)))
        answer.append(int(target(tokens.unsqueeze(0)).logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize("end_ids", [frozenset({END}), frozenset()])
def test_drafting_does_not_change_the_greedy_answer(pair, end_ids):
    for prompt in prompts(8):
        found = pair.decode(prompt, 24, end_ids)
        assert list(found.tokens) == plain_greedy(pair.target, prompt, 24, end_ids)
        assert found.finish_reason == ("stop" if found.tokens[-1] in end_ids else "length")


@torch.no_grad()
def test_each_step_drafts_after_the_last_token_from_taps_before_it(pair):
    prompt = prompts(1)[0]
    found = pair.decode(prompt, 24, frozenset())
    tokens = torch.cat((prompt, torch.tensor(found.tokens)))
    with recorded_taps(pair.target, LAYER_IDS) as recorded:
        pair.target(tokens.unsqueeze(0))
    for step in found.steps:
        logits = pair.drafter.draft(
            recorded.joined()[0, : step.anchor],
            int(tokens[step.anchor]),
            pair.target.get_input_embeddings().weight,
            pair.target.get_output_embeddings().weight,
        )
        assert torch.allclose(step.logits, logits, rtol=0, atol=1e-4)
        assert step.drafts == tuple(logits.argmax(dim=-1).tolist())


@pytest.mark.parametrize("max_tokens", [2, 9, 24])
@pytest.mark.parametrize("end_ids", [frozenset({END}), frozenset()])
def test_the_replay_finds_the_steps_of_the_decode_loop(pair, max_tokens, end_ids):
    for prompt in prompts(20):
        decoded = pair.decode(prompt, max_tokens, end_ids)
        expected, found = decoded.settled(), pair.replay(prompt, decoded.tokens)
        assert found.per_step_accepted == expected.per_step_accepted
        assert found.per_step_drafted == expected.per_step_drafted
        assert found.unsettled_drafted == expected.unsettled_drafted
        assert found.unsettled_accepted == 0  # past the end of the text nothing is known
        assert found.is_cut == expected.is_cut
        assert found.emitted_tokens == len(decoded.tokens) - 1


def test_the_prompts_above_cover_every_length_of_acceptance_and_a_cut_end(pair):
    settled = [pair.decode(prompt, 24, frozenset()).settled() for prompt in prompts(20)]
    assert {accepted for steps in settled for accepted in steps.per_step_accepted} == {0, 1, 2, 3}
    assert {steps.is_cut for steps in settled} == {True, False}
    assert any(steps.unsettled_accepted for steps in settled)


def test_the_number_of_blocks_at_a_time_does_not_change_the_replay(pair):
    prompt = prompts(1)[0]
    answer = pair.decode(prompt, 24, frozenset()).tokens
    assert pair.replay(prompt, answer, blocks_per_chunk=5) == pair.replay(prompt, answer)


def test_an_answer_of_one_token_takes_no_step(pair):
    prompt = prompts(1)[0]
    decoded = pair.decode(prompt, 1, frozenset())
    assert decoded.steps == ()
    assert decoded.settled() == pair.replay(prompt, decoded.tokens)
    assert decoded.settled().emitted_tokens == 0


def test_tau_with_its_interval_follows_from_the_steps(pair):
    settled = [pair.decode(prompt, 24, frozenset()).settled() for prompt in prompts(6)]
    moments = AcceptanceMoments.from_pairs(
        (sum(steps.per_step_accepted), len(steps.per_step_accepted)) for steps in settled
    )
    low, high = moments.tau_interval(0.95)
    assert 1 < low < moments.tau < high < 4
