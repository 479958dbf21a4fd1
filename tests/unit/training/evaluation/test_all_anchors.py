import pytest
import torch

from dpace_training.evaluation import all_anchors
from dpace_training.evaluation.all_anchors import LeadingRuns, leading_runs
from dpace_training.evaluation.rollouts import batches_by_length

PROMPT_SIZES = slice(0, 6)


@pytest.fixture
def answered(pair, prompts):
    return [
        pair.rollout(prompt, pair.decode(prompt, 24, frozenset({4})).tokens)
        for prompt in prompts[PROMPT_SIZES]
    ]


@torch.no_grad()
def slow_runs(pair, rollout):
    """One block at a time through the drafter's plain `draft`, one comparison at a time."""
    tokens = rollout.token_ids.tolist()
    runs, compared = [], []
    for anchor in range(rollout.num_prompt_tokens, len(tokens) - 1):
        logits = pair.drafter.draft(
            rollout.taps[:anchor], tokens[anchor], pair.weights["embedding"], pair.weights["head"]
        )
        drafts = logits.argmax(dim=-1).tolist()
        answer = tokens[anchor + 1 : anchor + 1 + len(drafts)]
        run = 0
        while run < len(answer) and drafts[run] == answer[run]:
            run += 1
        runs.append(run)
        compared.append(len(answer))
    return runs, compared


def run_all(pair, rollouts):
    return leading_runs(pair.drafter, rollouts, **pair.weights, advance=lambda finished: None)


def test_every_token_but_the_last_is_an_anchor(pair, answered):
    for rollout, found in zip(answered, run_all(pair, answered), strict=True):
        assert found == LeadingRuns.of(*slow_runs(pair, rollout), num_draft_tokens=3)
        assert found.anchors == len(rollout.token_ids) - rollout.num_prompt_tokens - 1


def test_the_number_of_anchors_at_a_time_changes_nothing(pair, answered, monkeypatch):
    together = run_all(pair, answered)
    monkeypatch.setattr(all_anchors, "SCORES_AT_ONCE", 1)
    assert run_all(pair, answered) == together


def test_an_answer_of_one_token_has_no_anchor(pair, prompts):
    (found,) = run_all(pair, [pair.rollout(prompts[0], (2,))])
    assert found == LeadingRuns(0, (0, 0, 0), (0, 0, 0), 0, 0)


def test_positions_are_counted_where_they_were_reached():
    # Runs 3, 1 and 0 of whole blocks; a run of 1 where the answer ends after one draft.
    found = LeadingRuns.of([3, 1, 0, 1], [3, 3, 3, 1], num_draft_tokens=3)
    assert found.anchors == 4
    assert found.reached == (4, 2, 1)  # the cut block never compared position 2
    assert found.right == (3, 1, 1)
    assert (found.whole_blocks, found.whole_blocks_right) == (3, 1)
    assert found.pair == (5, 4)
    assert found + found == LeadingRuns(8, (8, 4, 2), (6, 2, 2), 6, 2)


def test_batches_hold_neighbours_in_length_and_every_sequence_once():
    batches = batches_by_length(
        [5, 9, 1, 8, 5], fits=lambda rows, longest, shortest: rows * longest <= 16
    )
    assert list(batches) == [[1], [3, 0], [4, 2]]


def test_a_batch_may_ask_for_little_padding():
    batches = batches_by_length(
        [5, 9, 1, 8, 5], fits=lambda rows, longest, shortest: shortest >= 0.8 * longest
    )
    assert list(batches) == [[1, 3], [0, 4], [2]]
