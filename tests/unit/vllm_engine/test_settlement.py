"""The split of a cut step: how the scheduler tells the API process where an answer ended."""

from types import SimpleNamespace

import pytest

from dpace_serve.vllm_engine.settlement import join_cut_step, split_cut_step


def counts(accepted, drafted):
    """The engine's counts of some steps, as the scheduler keeps them."""
    histogram = [0] * 8
    for number in accepted:
        histogram[number] += 1
    return SimpleNamespace(
        histogram=histogram, per_step_accepted=list(accepted), per_step_drafted=list(drafted)
    )


def test_a_cut_step_becomes_what_it_emitted_and_the_rest():
    metrics = counts([2, 5], [7, 7])
    split_cut_step(metrics, num_generated=6, num_emitted=3)
    assert metrics.per_step_accepted == [2, 3, 2]
    assert metrics.per_step_drafted == [7, 3, 4]


def test_a_step_that_lost_only_its_bonus_token_is_cut_too():
    metrics = counts([7], [7])
    split_cut_step(metrics, num_generated=8, num_emitted=7)
    assert metrics.per_step_accepted == [7, 0]
    assert metrics.per_step_drafted == [7, 0]
    assert join_cut_step(metrics) == 7


@pytest.mark.parametrize("num_emitted", [1, 2, 3, 4, 5, 6])
def test_joining_gives_back_the_engines_own_counts(num_emitted):
    metrics = counts([0, 7, 5], [7, 7, 6])
    split_cut_step(metrics, num_generated=6, num_emitted=num_emitted)
    assert join_cut_step(metrics) == num_emitted
    assert metrics.per_step_accepted == [0, 7, 5]
    assert metrics.per_step_drafted == [7, 7, 6]


def test_a_step_that_emitted_everything_stays_whole():
    metrics = counts([3], [7])
    split_cut_step(metrics, num_generated=4, num_emitted=4)
    assert metrics.per_step_accepted == [3]
    assert join_cut_step(metrics) == 4


def test_the_sums_of_a_split_stay_the_engines_own():
    metrics = counts([4, 6], [7, 7])
    split_cut_step(metrics, num_generated=7, num_emitted=2)
    assert sum(metrics.per_step_accepted) == 10
    assert sum(metrics.per_step_drafted) == 14


def test_counts_without_lists_are_left_alone():
    metrics = SimpleNamespace(histogram=[0, 0, 1], per_step_accepted=[], per_step_drafted=[])
    split_cut_step(metrics, num_generated=3, num_emitted=1)
    assert metrics.per_step_accepted == []


def test_a_step_without_drafts_never_touches_the_step_before_it():
    # It generates one token and emits it, while the lists end with an earlier step.
    metrics = counts([5], [7])
    split_cut_step(metrics, num_generated=1, num_emitted=1)
    assert metrics.per_step_accepted == [5]
    assert join_cut_step(metrics) == 6


def test_lists_that_do_not_belong_to_the_histogram_are_refused():
    metrics = counts([1], [7])
    metrics.per_step_accepted += [0, 0]
    with pytest.raises(ValueError, match="1 steps cannot have 3 entries"):
        join_cut_step(metrics)
