"""Acceptance by position with the request as unit: sums over requests, and intervals from them."""

import math
import random

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.metrics.drafters import MAX_DRAFTERS
from dpace_serve.metrics.exporter import AcceptanceMetrics

DRAFTER = {"drafter": "dpace", "revision": "1"}
SUMS = ("requests", "accepted_squared", "drafted_squared", "accepted_drafted")
Z95 = 1.959964  # from a printed table of the normal distribution


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    metrics = AcceptanceMetrics(
        registry, workloads=["json", "code"], num_draft_tokens=3, method="dflash"
    )
    metrics.add_drafter(*DRAFTER.values(), 4, ["champion", "challenger"])
    return metrics


def request(accepted, drafted, workload="json", arm="champion"):
    return RequestAcceptance(
        request_id="r",
        arm=arm,
        workload=workload,
        per_step_accepted=tuple(accepted),
        per_step_drafted=tuple(drafted),
        emitted_tokens=sum(accepted) + len(accepted),
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
        **DRAFTER,
    )


def scraped(registry, position, **labels):
    where = {**DRAFTER, "arm": "champion", "position": str(position), **labels}
    return tuple(registry.get_sample_value(f"dpace_position_{name}_total", where) for name in SUMS)


def totals(metrics):
    rows = [row for row in metrics.snapshot()["drafters"] if "workload" not in row]
    return {row["arm"]: row for row in rows}


def bounds(row):
    low, high = (row[f"accepted_per_position_{end}"] for end in ("low", "high"))
    return list(zip(low, high, strict=True))


def test_every_sum_starts_at_0(registry, metrics):
    for arm in ("champion", "challenger"):
        found = [scraped(registry, position, arm=arm) for position in (1, 2, 3)]
        assert found == [(0, 0, 0, 0)] * 3
    assert scraped(registry, 4) == scraped(registry, 1, arm="shadow") == (None,) * 4


def test_sums_are_over_all_workloads_and_the_requests_that_drafted_the_position(registry, metrics):
    # Steps that accepted and that drafted each position: (2, 2), (1, 2) and (0, 2).
    metrics.observe(request([2, 1], [3, 3]))
    # (1, 2) at the first; the others were never drafted.
    metrics.observe(request([1, 0], [1, 1], "code"))
    found = [scraped(registry, position) for position in (1, 2, 3)]
    assert found == [(2, 4 + 1, 4 + 4, 4 + 2), (1, 1, 4, 2), (1, 0, 4, 0)]


def test_intervals_of_two_requests_by_hand(metrics):
    metrics.observe(request([3, 1], [3, 3]))
    metrics.observe(request([0, 1], [3, 3], "code"))
    row = totals(metrics)["champion"]
    assert row["accepted_per_position"] == [3 / 4, 1 / 4, 1 / 4]
    # Position 1, 2 of 2 and 1 of 2 steps: sum (a - 3/4 d)^2 = 1/4 + 1/4, so
    # SE = sqrt(2 / 1 * 1/2) / 4 = 1/4; the others are 1 of 2 and 0 of 2, with the same SE.
    (low, high), second, third = bounds(row)
    assert (low, high) == (pytest.approx(0.75 - Z95 / 4, abs=1e-6), 1)  # cut
    assert second == (0, pytest.approx(0.25 + Z95 / 4, abs=1e-6))
    assert third == second


def test_one_request_has_rates_but_no_interval(metrics):
    metrics.observe(request([3, 1, 0, 2], [3, 3, 3, 3]))
    row = totals(metrics)["champion"]
    assert row["accepted_per_position"] == [0.75, 0.5, 0.25]
    assert bounds(row) == [(None, None)] * 3


def test_where_all_or_nothing_was_accepted_no_interval_claims_to_have_no_width(metrics):
    metrics.observe(request([1, 1], [3, 3]))
    metrics.observe(request([2, 1], [3, 3]))
    row = totals(metrics)["champion"]
    assert row["accepted_per_position"] == [1, 0.25, 0]
    first, second, third = bounds(row)
    assert first == third == (None, None)
    assert None not in second


def test_a_workload_has_intervals_of_its_own_requests(metrics):
    for workload in ("json", "code"):
        metrics.observe(request([3, 1], [3, 3], workload))
        metrics.observe(request([0, 1], [3, 3], workload))
    rows = {row.get("workload"): row for row in metrics.snapshot()["drafters"][:4]}
    total, json_bounds = bounds(rows[None]), bounds(rows["json"])
    assert json_bounds == bounds(rows["code"])
    assert total[0][0] > json_bounds[0][0]  # twice the requests
    assert bounds(rows["other"]) == [(None, None)] * 3


def test_a_drafter_that_is_removed_takes_its_sums_along_and_comes_back_at_0(registry, metrics):
    metrics.observe(request([2, 1], [3, 3]))
    for number in range(MAX_DRAFTERS):
        metrics.add_drafter(f"d{number}", "1", 4, ["champion"])
    assert scraped(registry, 1) == scraped(registry, 3, arm="challenger") == (None,) * 4
    metrics.add_drafter(*DRAFTER.values(), 4, ["champion"])
    assert scraped(registry, 1) == (0, 0, 0, 0)


def random_request(generator):
    drafted = [generator.randint(1, 3) for _ in range(generator.randint(1, 20))]
    accepted = [generator.randint(0, length) for length in drafted]
    arm = generator.choice(["champion", "challenger"])
    return request(accepted, drafted, generator.choice(["json", "code", "other"]), arm)


def pairs_at(position, records):
    """Steps that accepted and that drafted a position, of the requests that drafted it."""
    pairs = [
        tuple(
            sum(length >= position for length in lengths)
            for lengths in (record.per_step_accepted, record.per_step_drafted)
        )
        for record in records
    ]
    return [(accepted, drafted) for accepted, drafted in pairs if drafted]


def test_series_and_snapshot_have_exactly_the_sums_of_the_records(registry, metrics):
    generator = random.Random(7)
    records = [random_request(generator) for _ in range(300)]
    for record in records:
        metrics.observe(record)
    for arm, row in totals(metrics).items():
        for position in (1, 2, 3):
            pairs = pairs_at(position, (record for record in records if record.arm == arm))
            n, accepted, drafted = len(pairs), *map(sum, zip(*pairs, strict=True))
            assert scraped(registry, position, arm=arm) == (
                n,
                sum(a * a for a, _ in pairs),
                sum(d * d for _, d in pairs),
                sum(a * d for a, d in pairs),
            )
            rate = accepted / drafted
            assert row["accepted_per_position"][position - 1] == rate
            spread = sum((a - rate * d) ** 2 for a, d in pairs)
            reach = Z95 * math.sqrt(n / (n - 1) * spread) / drafted
            expected = (rate - reach, rate + reach)
            assert bounds(row)[position - 1] == pytest.approx(expected, abs=1e-6)
