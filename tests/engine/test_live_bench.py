"""Small versions of the measurements of live drafters: what must hold does."""

import pytest
from rich.console import Console

from dpace_serve.demo.live_bench import broken_promises, measure_cost
from dpace_serve.demo.plan import bundled_models, serve_command
from dpace_serve.demo.shadow_truth import TruthSettings, measure_truth
from dpace_serve.demo.swap_figures import swap_figures
from dpace_serve.demo.swap_load import SwapSettings, measure_swaps
from dpace_serve.demo.truth_figures import truth_figures

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.bench]


@pytest.mark.timeout(900)
def test_swaps_under_load_fail_no_request_change_no_token_and_leak_nothing():
    settings = SwapSettings(
        prompts_per_workload=2, swaps=12, warm_up_swaps=8, idle_swaps=4, streams=8, max_num_seqs=8,
        control_seconds=5,
    )  # fmt: skip
    run = measure_swaps(
        bundled_models(), settings, command=serve_command, progress_console=Console(stderr=True)
    )
    figures = swap_figures(run)
    assert broken_promises(figures) == [], run.loaded.failures
    assert figures.num_control_different == 0
    assert figures.num_swaps == 12
    assert [swap.name for swap in run.idle] == ["dflash", "dpace-1", "dpace-2", "dpace"]
    assert figures.num_requests > 20
    # A gap of a stream spans the time in which the engine steps for nobody.
    assert figures.gaps_loading.longest_ms >= 1e3 * figures.load_seconds.low


@pytest.mark.timeout(900)
def test_a_shadow_and_its_drafter_alone_are_recorded_for_the_same_prompts():
    settings = TruthSettings(prompts_per_workload=2, samples=2)
    runs = measure_truth(
        bundled_models(), settings, command=serve_command, progress_console=Console(stderr=True)
    )
    assert [(run.drafter, run.champion, run.temperature) for run in runs] == [
        ("dpace", "dflash", 0.0),
        ("dpace", "dflash", 1.0),
        ("dflash", "dpace", 0.0),
        ("dflash", "dpace", 1.0),
    ]
    for run in runs:
        assert run.num_different == 0
        assert len(run.prompts) + run.num_left_out == 16
        for prompt in run.prompts:
            assert {record.drafter for record in (*prompt.shadow, *prompt.alone)} == {run.drafter}
            assert len(prompt.shadow) <= (2 if run.temperature else 1)
        figures = truth_figures(run, confidence=0.95)
        assert figures.ratio.ratio == pytest.approx(figures.shadow.tau / figures.alone.tau)
        # Far apart they would mean that one of the two is not what it says.
        assert 0.7 < figures.ratio.ratio < 1.4


@pytest.mark.timeout(900)
def test_the_cost_of_a_shadow_comes_from_an_engine_process_of_its_own():
    rows = measure_cost(bundled_models(), rounds=1)
    assert [(row["batch_size"], row["shadow_share"]) for row in rows] == [
        (batch_size, share) for batch_size in (1, 4, 16) for share in (1.0, 0.5)
    ]
    assert all(row["num_steps"] > 10 for row in rows)
