"""Position weights against hand-computed vectors and the identities that tie them together."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.predictions import Agreement, BlockPredictions, TargetDistributions
from dpace_training.losses.weighting import (
    dpace_weights,
    exp_decay_weights,
    position_weights,
    uniform_weights,
)

V1 = (0.8, 0.5, 0.25, 0.1)
NO_HOLE = (True, True, True, True)
HOLE_AT_2 = (True, False, True, True)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def mask(*values: bool) -> Tensor:
    return torch.tensor([values])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return torch.allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("variant", "supervised", "expected"),
    [
        ("full", NO_HOLE, (2.22890625, 1.32890625, 0.65390625, 0.23203125)),
        ("cumulative_only", NO_HOLE, (0.9, 0.675, 0.421875, 0.23203125)),
        ("continuation_only", NO_HOLE, (2.4765625, 1.96875, 1.55, 1.0)),
        ("full", HOLE_AT_2, (1.771875, 0.0, 0.871875, 0.309375)),
        ("cumulative_only", HOLE_AT_2, (0.9, 0.0, 0.5625, 0.309375)),
        ("continuation_only", HOLE_AT_2, (1.96875, 0.0, 1.55, 1.0)),
    ],
)
def test_dpace_weights_are_those_computed_by_hand(variant, supervised, expected):
    found = dpace_weights(row(*V1), mask(*supervised), alpha=0.5, variant=variant)
    assert close(found, row(*expected))


def test_dpace_at_alpha_one_is_a_ladder_whatever_the_confidence():
    found = dpace_weights(row(*V1), mask(*NO_HOLE), alpha=1.0, variant="full")
    assert close(found, row(4, 3, 2, 1))


def test_dpace_at_alpha_zero_is_the_gradient_of_expected_acceptance_by_log_confidence():
    found = dpace_weights(row(*V1), mask(*NO_HOLE), alpha=0.0, variant="full")
    # C = .8, .4, .1, .01 and S = 1.31
    assert close(found, row(1.31, 0.51, 0.11, 0.01))


def test_dpace_weights_of_a_block_of_sixteen_are_those_computed_by_hand():
    found = dpace_weights(
        torch.full((1, 15), 0.5, dtype=torch.float64),
        torch.ones(1, 15, dtype=torch.bool),
        alpha=0.5,
        variant="full",
    )
    expected = row(
        2.959909617, 2.209909617, 1.647409617, 1.225534617, 0.909128367, 0.6718236795,
        0.4938451638, 0.3603612771, 0.2602483621, 0.1851636758, 0.1288501611, 0.0866150251,
        0.054938673, 0.031181409, 0.013363461,
    )  # fmt: skip
    assert close(found, expected, 1e-9)
    assert found.sum().item() == pytest.approx(11.238282722421, abs=1e-11)


def test_dpace_weight_of_a_single_position_is_its_smoothed_confidence():
    found = dpace_weights(row(0.4), mask(True), alpha=0.5, variant="full")
    assert close(found, row(0.7))


def test_a_certain_miss_at_alpha_zero_gives_zero_weights_not_nan():
    found = dpace_weights(row(0.5, 0.0, 0.5), mask(True, True, True), alpha=0.0, variant="full")
    assert close(found, row(0.5, 0.0, 0.0))


@pytest.mark.parametrize("gamma", [4.0, 7.0, 10.0])
def test_decay_falls_by_the_same_factor_at_every_position(gamma):
    found = exp_decay_weights(row(*V1), mask(*NO_HOLE), gamma=gamma)
    assert close(found, row(1, math.exp(-1 / gamma), math.exp(-2 / gamma), math.exp(-3 / gamma)))


@pytest.mark.parametrize(
    ("gamma", "total"), [(4.0, 2.857697995525), (7.0, 3.269794250357), (10.0, 3.464386391796)]
)
def test_decay_weights_sum_to_the_hand_computed_total(gamma, total):
    found = exp_decay_weights(row(*V1), mask(*NO_HOLE), gamma=gamma)
    assert found.sum().item() == pytest.approx(total, abs=1e-11)


def test_a_hole_does_not_shift_the_decay():
    found = exp_decay_weights(row(*V1), mask(*HOLE_AT_2), gamma=7.0)
    assert close(found, row(1, 0, math.exp(-2 / 7), math.exp(-3 / 7)))


def test_uniform_weights_count_every_supervised_position_once():
    assert close(uniform_weights(row(*V1), mask(*HOLE_AT_2)), row(1, 0, 1, 1))


def test_a_nan_confidence_at_an_unsupervised_position_stays_out_of_the_weights():
    poisoned = row(0.8, math.nan, 0.25, 0.1)
    found = dpace_weights(poisoned, mask(*HOLE_AT_2), alpha=0.5, variant="full")
    assert close(found, row(1.771875, 0.0, 0.871875, 0.309375))


def predictions(
    confidences=V1, *, supervised=NO_HOLE, right=None, overlap=None, target_of_draft=None
) -> BlockPredictions:
    """One block; `right` tells where the drafter's most likely token is the label."""
    agreement = None
    if overlap is not None or target_of_draft is not None:
        # Two tokens, the first is drafted. Where the target is sure of it, the overlap is the
        # drafter's own probability.
        draft = row(*(overlap or confidences)).squeeze(0)
        target = row(*(target_of_draft or [1.0] * len(confidences))).squeeze(0)
        drafted = torch.zeros(len(confidences), dtype=torch.long)
        agreement = Agreement(
            draft_logits=torch.stack((draft, 1 - draft), dim=-1).log().requires_grad_(),
            labels=drafted,
            label_loss=-draft.log(),
            target=TargetDistributions(
                logits=torch.stack((target, 1 - target), dim=-1).log(),
                rows=torch.arange(len(confidences)),
            ),
            most_likely=drafted,
            supervised=torch.ones(1, len(confidences), dtype=torch.bool),
        )
    return BlockPredictions(
        cross_entropy=-row(*confidences).log().requires_grad_(),
        is_right=mask(*(right or NO_HOLE)),
        supervised=mask(*supervised),
        agreement=agreement,
    )


OBJECTIVES = [
    {"weighting": "uniform"},
    {"weighting": "exp_decay"},
    {"weighting": "dpace"},
    {"weighting": "dpace", "confidence": "overlap", "labels": "soft"},
    {"weighting": "reach", "labels": "soft"},
    {"recipe": "left_to_right"},
    {"recipe": "auf"},
]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_weight_carries_a_gradient(objective):
    weights = position_weights(predictions(overlap=V1), LossConfig(**objective))
    assert not weights.requires_grad


def test_the_table_passes_the_settings_on():
    two = predictions((0.5, 0.5), supervised=(True, True), right=(True, True))
    loss = LossConfig(weighting="exp_decay", gamma=4.0)
    assert close(position_weights(two, loss), row(1, math.exp(-0.25)))
    loss = LossConfig(weighting="dpace", alpha=1.0, variant="cumulative_only")
    assert close(position_weights(predictions(), loss), row(1, 1, 1, 1))


def test_dpace_reads_the_overlap_where_it_is_told_to():
    loss = LossConfig(weighting="dpace", confidence="overlap", labels="soft")
    found = position_weights(predictions((0.3,) * 4, overlap=V1), loss)
    assert close(found, row(2.22890625, 1.32890625, 0.65390625, 0.23203125))


# Which drafts are right, and then: support, position of the first error.
LEADING_RUNS = [
    ((True, True, False, True), (1, 1, 1, 0), 3),
    ((True, True, True, True), (1, 1, 1, 1), None),
    ((False, True, True, True), (1, 0, 0, 0), 1),
    ((True, False, True, False), (1, 1, 0, 0), 2),
]


@pytest.mark.parametrize(("right", "support", "error"), LEADING_RUNS)
def test_accept_until_fail_trains_on_what_decoding_settles(right, support, error):
    assert close(
        position_weights(predictions(right=right), LossConfig(recipe="auf")), row(*support)
    )


@pytest.mark.parametrize(("right", "support", "error"), LEADING_RUNS)
def test_the_bonus_falls_on_the_first_error_alone(right, support, error):
    found = position_weights(predictions(right=right), LossConfig(recipe="first_error"))
    assert close(found, row(*(1.3 if k == error else 1.0 for k in (1, 2, 3, 4))))


def test_a_hole_is_neither_an_error_nor_the_end_of_the_support():
    block = predictions(right=(True, False, False, True), supervised=HOLE_AT_2)
    assert close(position_weights(block, LossConfig(recipe="auf")), row(1, 0, 1, 0))
    found = position_weights(block, LossConfig(recipe="first_error"))
    assert close(found, row(1, 0, 1.3, 1))


def test_the_support_cuts_any_weighting():
    loss = LossConfig(recipe="dpace", support="until_first_error")
    found = position_weights(predictions(right=(True, False, True, True)), loss)
    assert close(found, row(2.22890625, 1.32890625, 0, 0))


def test_reach_is_the_chance_that_all_drafts_before_are_accepted():
    loss = LossConfig(weighting="reach", labels="soft")
    whole = predictions((0.1,) * 4, target_of_draft=V1)
    assert close(position_weights(whole, loss), row(1, 0.8, 0.4, 0.1))
    holed = predictions((0.1,) * 4, target_of_draft=V1, supervised=HOLE_AT_2)
    assert close(position_weights(holed, loss), row(1, 0, 0.8, 0.2))


@st.composite
def blocks(draw):
    """One block of random confidences and a random mask with something to learn from."""
    num_draft_tokens = draw(st.integers(1, 15))
    confidences = draw(
        st.lists(st.floats(0.01, 0.99), min_size=num_draft_tokens, max_size=num_draft_tokens)
    )
    supervised = draw(
        st.lists(st.booleans(), min_size=num_draft_tokens, max_size=num_draft_tokens).filter(any)
    )
    return row(*confidences), mask(*supervised)


alphas = st.floats(0.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(blocks(), alphas)
def test_dpace_is_cumulative_confidence_times_continuation_value(block, alpha):
    full, cumulative, continuation = (
        dpace_weights(*block, alpha=alpha, variant=variant)
        for variant in ("full", "cumulative_only", "continuation_only")
    )
    assert close(full, cumulative * continuation, 1e-9)


@settings(max_examples=60, deadline=None)
@given(blocks(), alphas)
def test_dpace_falls_by_the_cumulative_confidence_from_one_supervised_position_to_the_next(
    block, alpha
):
    _, supervised = block
    weights = dpace_weights(*block, alpha=alpha, variant="full")[supervised]
    cumulative = dpace_weights(*block, alpha=alpha, variant="cumulative_only")[supervised]
    assert close(weights[:-1] - weights[1:], cumulative[:-1], 1e-9)
    assert weights[0].item() == pytest.approx(cumulative.sum().item(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(blocks(), alphas)
def test_a_dpace_weight_is_at_most_the_number_of_positions_that_hang_on_it(block, alpha):
    _, supervised = block
    weights = dpace_weights(*block, alpha=alpha, variant="full")[supervised]
    remaining = torch.arange(len(weights), 0, -1)
    assert (weights >= 0).all()
    assert (weights <= remaining + 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(blocks(), alphas)
def test_without_holes_a_dpace_weight_is_at_least_what_smoothing_alone_gives(block, alpha):
    confidences, _ = block
    whole = torch.ones(confidences.shape, dtype=torch.bool)
    weights = dpace_weights(confidences, whole, alpha=alpha, variant="full")[0]
    powers = [alpha**k for k in range(1, len(weights) + 1)]
    floors = torch.tensor([sum(powers[k:]) for k in range(len(weights))], dtype=torch.float64)
    assert (weights >= floors - 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(blocks(), alphas, st.data())
def test_more_confidence_anywhere_never_lowers_a_dpace_weight(block, alpha, data):
    confidences, supervised = block
    place = data.draw(st.integers(0, confidences.shape[1] - 1))
    raised = confidences.clone()
    raised[0, place] += 0.01
    before = dpace_weights(confidences, supervised, alpha=alpha, variant="full")
    after = dpace_weights(raised, supervised, alpha=alpha, variant="full")
    assert (after >= before - 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_at_alpha_one_without_holes_the_variants_are_ladder_and_uniform(block):
    confidences, _ = block
    whole = torch.ones(confidences.shape, dtype=torch.bool)
    full, cumulative, continuation = (
        dpace_weights(confidences, whole, alpha=1.0, variant=variant)
        for variant in ("full", "cumulative_only", "continuation_only")
    )
    assert close(cumulative, uniform_weights(confidences, whole))
    assert close(continuation, full)
