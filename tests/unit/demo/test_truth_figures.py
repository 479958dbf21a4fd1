"""Acceptance in a shadow and alone, from scripted records."""

import pytest

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.demo.shadow_truth import PromptRecords, TruthRun
from dpace_serve.demo.truth_figures import truth_figures


def record(arm, *accepted):
    return RequestAcceptance(
        request_id="cmpl-1",
        drafter="dflash",
        revision="0" * 12,
        arm=arm,
        workload="code",
        per_step_accepted=accepted,
        per_step_drafted=(3,) * len(accepted),
        emitted_tokens=0 if arm == "shadow" else sum(accepted) + len(accepted),
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
    )


@pytest.fixture
def figures():
    prompts = (
        PromptRecords((record("shadow", 0, 1),), (record("challenger", 1),)),
        PromptRecords(
            (record("shadow", 3), record("shadow", 2)),
            (record("challenger", 3), record("challenger", 2, 0)),
        ),
    )
    run = TruthRun("dflash", "dpace", 1.0, 3, prompts, num_left_out=1, num_different=0)
    return truth_figures(run, confidence=0.95)


def test_tau_is_that_of_all_steps(figures):
    assert figures.shadow.steps == 4
    assert figures.shadow.tau == pytest.approx(1 + 6 / 4)
    assert figures.alone.tau == pytest.approx(1 + 6 / 4)
    assert figures.ratio.ratio == pytest.approx(1.0)


def test_rates_count_the_steps_that_reached_a_position(figures):
    assert figures.shadow.rates == pytest.approx((3 / 4, 2 / 4, 1 / 4))
    assert figures.alone.rates == pytest.approx((3 / 4, 2 / 4, 1 / 4))


def test_samples_of_a_prompt_are_one_unit(figures):
    # Accepted and steps by prompt: in the shadow (1, 2) and (5, 2), mean 1.5 accepted a step.
    # Residuals -2 and 2: SE = sqrt(2 / 1 * 8) / 4 = 1.
    reach = 1.959964
    assert figures.shadow.tau_low == pytest.approx(2.5 - reach, abs=1e-5)
    assert figures.shadow.tau_high == pytest.approx(2.5 + reach, abs=1e-5)
    assert figures.ratio.low < 1 < figures.ratio.high


def test_the_bias_is_the_shadows_tau_over_the_other():
    prompts = (
        PromptRecords((record("shadow", 0),), (record("challenger", 2),)),
        PromptRecords((record("shadow", 2),), (record("challenger", 2),)),
    )
    run = TruthRun("dflash", "dpace", 0.0, 3, prompts, num_left_out=0, num_different=0)
    assert truth_figures(run, confidence=0.95).ratio.ratio == pytest.approx(2 / 3)
