import math

import pytest

from dpace_training.study.orderings import ordering_rows


def arm(name, taus):
    return {"name": name, "sets": {"in_domain_greedy": {"tau_by_seed": taus}, "elsewhere": {}}}


def row(better, worse):
    result = {"arms": [arm("dpace", better), arm("dflash", worse)]}
    (line,) = (line for line in ordering_rows(result).splitlines() if "dpace > dflash" in line)
    return line


def test_an_order_that_every_seed_shows_alike_is_clear():
    # Ratios 1.10, 1.12, 1.11; Student's t with 2 degrees of freedom reaches 4.303 deviations.
    logs = [math.log(ratio) for ratio in (1.10, 1.12, 1.11)]
    mean = sum(logs) / 3
    deviation = math.sqrt(sum((log - mean) ** 2 for log in logs) / 2)
    reach = 4.30265 * deviation / math.sqrt(3)
    low, high = (f"{math.exp(mean + side * reach):.3f}" for side in (-1, 1))
    expected = f"| clearly: 1.110 [{low}, {high}] | arXiv 2605.18810 |"
    assert row([2.2, 2.24, 2.22], [2.0, 2.0, 2.0]).endswith(expected)


@pytest.mark.parametrize(
    ("better", "verdict"), [([2.6, 1.9, 2.2], "in the mean: "), ([1.9, 1.9, 2.0], "no: 0.9")]
)
def test_an_order_that_chance_may_have_made_and_a_reversed_one_are_told_apart(better, verdict):
    assert f"| {verdict}" in row(better, [2.0, 2.0, 2.0])


def test_orders_of_arms_that_were_not_trained_are_left_out():
    assert "uniform" not in ordering_rows({"arms": [arm("dpace", [2.0]), arm("dflash", [1.9])]})
