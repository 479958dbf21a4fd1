"""Replays of sampled answers, in the mean over all answers, against the sampling itself.

Four tokens make so few answers that every one can be replayed and weighed with its probability;
the reference walks the tree of what an engine may do, with the target's exact probabilities.
"""

import itertools
import math

import pytest
import torch

from dpace_training.drafter.taps import recorded_taps
from dpace_training.evaluation.rollouts import Rollout

TOKENS, LENGTH = 6, 4
LAYER_IDS = (0, 1, 2)


@pytest.fixture(name="probabilities", scope="module")
@torch.no_grad()
def make_probabilities(pair):
    """The target's distribution after the prompt and each start of an answer."""
    starts = [s for size in range(LENGTH) for s in itertools.product(range(TOKENS), repeat=size)]
    found = {}
    for start in starts:
        logits = pair.target(torch.tensor([[1, 2, 3, *start]])).logits[0, -1]
        found[start] = logits.double().softmax(dim=-1).tolist()
    return found


def expected_steps(answer, probabilities, drafts):
    """Mean (accepted, steps) of verifying one-hot drafts from a known start of the answer on.

    A draft is accepted with the target's probability of it; else the token is drawn from the
    target's distribution without the draft. All drafts accepted: a bonus token is drawn.
    """
    if len(answer) >= LENGTH:
        return 0.0, 0.0
    accepted = steps = 0.0

    def settle(chance, token_ids):
        nonlocal accepted, steps
        later_accepted, later_steps = expected_steps(token_ids, probabilities, drafts)
        accepted += chance * later_accepted
        steps += chance * later_steps

    def verify(known, block, chance):
        nonlocal accepted
        if len(known) == LENGTH:  # the limit cuts what follows
            return
        distribution = probabilities[known]
        for token in range(TOKENS):
            if block and token == block[0]:
                accepted += chance * distribution[token]
                verify((*known, token), block[1:], chance * distribution[token])
            else:
                settle(chance * distribution[token], (*known, token))

    steps += 1
    verify(answer, drafts[answer], 1.0)
    return accepted, steps


def test_the_mean_over_sampled_answers_is_what_an_engine_expects(pair, probabilities):
    prompt = [1, 2, 3]
    answers = list(itertools.product(range(TOKENS), repeat=LENGTH))
    with torch.no_grad(), recorded_taps(pair.target, LAYER_IDS) as recorded:
        token_ids = torch.tensor([[*prompt, *answer] for answer in answers])
        pair.target(token_ids)
    rollouts = [
        Rollout(ids, len(prompt), taps)
        for ids, taps in zip(token_ids, recorded.joined(), strict=True)
    ]
    drafts = {}
    for rollout, answer in zip(rollouts, answers, strict=True):
        for size in range(1, LENGTH):
            if answer[:size] not in drafts:
                logits = pair.drafter.draft(
                    rollout.taps[: 3 + size - 1],
                    answer[size - 1],
                    pair.weights["embedding"],
                    pair.weights["head"],
                )
                drafts[answer[:size]] = tuple(logits.argmax(dim=-1).tolist())
    accepted = steps = 0.0
    for answer, replayed in zip(answers, pair.replay(rollouts), strict=True):
        chance = math.prod(probabilities[answer[:i]][answer[i]] for i in range(LENGTH))
        accepted += chance * sum(replayed.per_step_accepted)
        steps += chance * len(replayed.per_step_accepted)
    first = [
        (chance, expected_steps((token,), probabilities, drafts))
        for token, chance in enumerate(probabilities[()])
    ]
    assert accepted == pytest.approx(sum(c * found[0] for c, found in first), abs=1e-6)
    assert steps == pytest.approx(sum(c * found[1] for c, found in first), abs=1e-6)
    assert 0.1 < accepted < 2.9  # the chance to be wrong is real
