"""The decode loop against plain greedy decoding, and the replay against the decode loop."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_training.drafter.taps import recorded_taps
from dpace_training.evaluation import rollouts

END = 4
LAYER_IDS = (0, 1, 2)


@torch.no_grad()
def plain_greedy(target, prompt: Tensor, max_tokens: int, end_ids: frozenset[int]) -> list[int]:
    """One token at a time, everything computed anew."""
    answer: list[int] = []
    while len(answer) < max_tokens and not (answer and answer[-1] in end_ids):
        tokens = torch.cat((prompt, torch.tensor(answer, dtype=torch.int64)))
        answer.append(int(target(tokens.unsqueeze(0)).logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize("end_ids", [frozenset({END}), frozenset()])
def test_drafting_does_not_change_the_greedy_answer(pair, end_ids, prompts):
    for prompt in prompts[:8]:
        found = pair.decode(prompt, 24, end_ids)
        assert list(found.tokens) == plain_greedy(pair.target, prompt, 24, end_ids)
        assert found.finish_reason == ("stop" if found.tokens[-1] in end_ids else "length")


@torch.no_grad()
def test_each_step_drafts_after_the_last_token_from_taps_before_it(pair, prompts):
    prompt = prompts[0]
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
def test_the_replay_finds_the_steps_of_the_decode_loop(pair, max_tokens, end_ids, prompts):
    answered = [(prompt, pair.decode(prompt, max_tokens, end_ids)) for prompt in prompts]
    # All in one batch: of different lengths, and done after different numbers of rounds.
    replayed = pair.replay([pair.rollout(prompt, decoded.tokens) for prompt, decoded in answered])
    for (_, decoded), found in zip(answered, replayed, strict=True):
        expected = decoded.settled()
        assert found.per_step_accepted == expected.per_step_accepted
        assert found.per_step_drafted == expected.per_step_drafted
        assert found.unsettled_drafted == expected.unsettled_drafted
        assert found.unsettled_accepted == 0  # past the end of the text nothing is known
        assert found.is_cut == expected.is_cut
        assert found.emitted_tokens == len(decoded.tokens) - 1


def test_the_prompts_above_cover_every_length_of_acceptance_and_a_cut_end(pair, prompts):
    settled = [pair.decode(prompt, 24, frozenset()).settled() for prompt in prompts]
    assert {accepted for steps in settled for accepted in steps.per_step_accepted} == {0, 1, 2, 3}
    assert {steps.is_cut for steps in settled} == {True, False}
    assert any(steps.unsettled_accepted for steps in settled)


def test_the_batch_a_rollout_is_in_does_not_change_its_replay(pair, monkeypatch, prompts):
    answers = [(prompt, pair.decode(prompt, 24, frozenset({END})).tokens) for prompt in prompts[:9]]
    answered = [pair.rollout(prompt, answer) for prompt, answer in answers]
    together = pair.replay(answered)
    assert together == [pair.replay([rollout])[0] for rollout in answered]
    # Three rows of logits, and rollouts of 27 tokens together, at a time.
    monkeypatch.setattr(rollouts, "LOGITS_AT_ONCE", 3 * len(pair.weights["head"]))
    monkeypatch.setattr(rollouts, "PADDED_TOKENS_AT_ONCE", 2 * 27)
    assert pair.replay(answered) == together


def test_nothing_behind_an_answer_changes_its_replay(pair, prompts):
    prompt = prompts[0]
    rollout = pair.rollout(prompt, pair.decode(prompt, 24, frozenset()).tokens)
    steps = pair.replay([rollout])
    unknown_last = replace(rollout, taps=rollout.taps.clone())
    unknown_last.taps[-1] = torch.nan
    without_last = replace(rollout, taps=rollout.taps[:-1])
    assert pair.replay([unknown_last]) == pair.replay([without_last]) == steps


def test_an_answer_of_one_token_takes_no_step(pair, prompts):
    prompt = prompts[0]
    decoded = pair.decode(prompt, 1, frozenset())
    assert decoded.steps == ()
    assert [decoded.settled()] == pair.replay([pair.rollout(prompt, decoded.tokens)])
    assert decoded.settled().emitted_tokens == 0


def test_tau_with_its_interval_follows_from_the_steps(pair, prompts):
    settled = [pair.decode(prompt, 24, frozenset()).settled() for prompt in prompts[:6]]
    moments = AcceptanceMoments.from_pairs(
        (sum(steps.per_step_accepted), len(steps.per_step_accepted)) for steps in settled
    )
    low, high = moments.tau_interval(0.95)
    assert 1 < low < moments.tau < high < 4
