from dataclasses import replace

import pytest
from rich.console import Console

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_training.evaluation.all_anchors import LeadingRuns
from dpace_training.evaluation.held_out import ArmAcceptance
from dpace_training.evaluation.report import evaluation_result, evaluation_table, position_bars


def arm(name, accepted_by_prompt):
    counts = [
        AcceptanceCounts.from_steps(accepted, [3] * len(accepted), 3, sum(accepted) + len(accepted))
        for accepted in accepted_by_prompt
    ]
    return ArmAcceptance(
        name=name,
        workloads=tuple("json" if index % 2 else "csv" for index in range(len(counts))),
        pairs=tuple((count.accepted_total, count.steps) for count in counts),
        counts=tuple(counts),
    )


def greedy_result(arms):
    return evaluation_result("tiny", 4, arms, temperature=0.0, seed=0, dtype="float32")


DFLASH = arm("dflash", [[0, 1], [1, 0], [2, 0], [1, 1]])
DPACE = arm("dpace", [[3, 1], [1, 1], [2, 2], [1, 1]])


def test_the_result_has_the_numbers_of_each_drafter():
    result = greedy_result([DFLASH, DPACE])
    first, second = result["arms"]
    assert (result["block_size"], result["temperature"], result["prompts"]) == (4, 0.0, 4)
    assert first["tau"] == 1 + 6 / 8
    assert first["accepted_per_position"] == [5 / 8, 1 / 8, 0.0]
    assert first["steps"] == 8
    assert second["tau"] == 1 + 12 / 8
    assert second["tau_low"] < second["tau"] < second["tau_high"]


def test_workloads_are_told_apart():
    (only,) = greedy_result([DPACE])["arms"]
    assert only["workloads"]["csv"]["tau"] == 1 + 8 / 4
    assert only["workloads"]["json"]["tau"] == 1 + 4 / 4
    assert only["workloads"]["json"]["accepted_per_position"] == [1.0, 0.0, 0.0]


def test_a_pair_compares_the_later_drafter_with_the_earlier_one():
    (pair,) = greedy_result([DFLASH, DPACE])["paired"]
    assert (pair["a"], pair["b"]) == ("dpace", "dflash")
    assert pair["tau_ratio"] == pytest.approx(2.5 / 1.75, abs=1e-6)
    assert pair["low"] < pair["tau_ratio"] < pair["high"]
    # Parts of the prompts in tau: dflash (1, 1, 2, 2) - 0.75 * 2 over 2, dpace (4, 2, 4, 2) - 3
    # over 2; their differences (0.75, -0.25, 0.25, -0.75) have SE sqrt(1.25 / 12).
    assert pair["tau_difference"] == 2.5 - 1.75
    reach = 1.959964 * (1.25 / 12) ** 0.5
    assert pair["difference_low"] == pytest.approx(0.75 - reach, abs=1e-5)
    assert pair["difference_high"] == pytest.approx(0.75 + reach, abs=1e-5)


def test_three_drafters_make_three_pairs():
    result = greedy_result([arm("uniform", [[0, 0]] * 4), DFLASH, DPACE])
    pairs = [(pair["a"], pair["b"]) for pair in result["paired"]]
    assert pairs == [("dflash", "uniform"), ("dpace", "uniform"), ("dpace", "dflash")]


def test_a_number_that_does_not_exist_is_null():
    (only,) = greedy_result([arm("dpace", [[1, 2]])])["arms"]
    assert only["tau"] == 2.5
    assert only["tau_low"] is None
    (empty,) = greedy_result([arm("dpace", [[], []])])["arms"]
    assert empty["tau"] is None
    assert empty["accepted_per_position"] == [None, None, None]


def test_the_table_says_it_for_people():
    console = Console(record=True, width=80)
    console.print(evaluation_table(greedy_result([DFLASH, DPACE])))
    text = console.export_text()
    assert "tau of dpace / dflash: 1.43" in text
    assert "tau of dpace - dflash: 0.75 (0.12 .. 1.38)" in text
    assert "1.75" in text
    assert "62 12  0" in text


def test_a_bar_grows_with_the_share_of_accepted_drafts():
    assert position_bars([1.0, 0.5, 0.0, None]) == "█▄  "


def with_runs(drafter, by_prompt):
    """Leading runs 0..3 after anchors that all have a whole block behind them."""
    runs = tuple(LeadingRuns.of(runs, [3] * len(runs), 3) for runs in by_prompt)
    return replace(drafter, leading_runs=runs)


def test_drafts_at_all_anchors_are_a_second_number_beside_tau():
    first = with_runs(DFLASH, [[0, 1], [0], [3, 2], [1]])
    second = with_runs(DPACE, [[3, 1], [1], [3, 2], [1]])
    result = greedy_result([first, second])
    record = result["arms"][0]["all_anchors"]
    assert result["arms"][0]["tau"] == 1 + 6 / 8  # as without them
    assert record["mean_leading_run"] == pytest.approx(1 + 7 / 6, abs=1e-6)
    assert record["low"] < record["mean_leading_run"] < record["high"]
    assert record["conditional_per_position"] == pytest.approx([4 / 6, 2 / 4, 1 / 2], abs=1e-6)
    assert record["whole_blocks_right"] == pytest.approx(1 / 6, abs=1e-6)
    assert record["anchors"] == 6
    assert result["arms"][0]["workloads"]["csv"]["all_anchors"]["anchors"] == 4
    ratio = result["paired"][0]["all_anchors"]
    assert ratio["ratio"] == pytest.approx((1 + 11 / 6) / (1 + 7 / 6), abs=1e-6)
    console = Console(record=True, width=120)
    console.print(evaluation_table(result))
    text = " ".join(console.export_text().split())
    assert "all alike (not tau)" in text
    assert "right after right 67 50 50 %, whole 17 %" in text


def test_sampled_answers_are_named_with_their_seed_and_number_format():
    result = evaluation_result("tiny", 4, [DFLASH], temperature=1.0, seed=7, dtype="bfloat16")
    assert (result["temperature"], result["seed"], result["dtype"]) == (1, 7, "bfloat16")
    console = Console(record=True, width=80)
    console.print(evaluation_table(result))
    assert "temperature 1, seed 7, bfloat16" in console.export_text()
