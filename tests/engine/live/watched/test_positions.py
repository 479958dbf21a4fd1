"""Acceptance by position with the request as unit, on a real service: all agree with its records.

Counters and the service's own answer exactly, Prometheus' rules up to their extrapolation.
"""

import math

import pytest

from dpace_serve.acceptance.moments import AcceptanceMoments

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ARMS = [("dpace", "champion"), ("dflash", "shadow"), ("dflash", "challenger")]
POSITIONS = range(1, 8)
SURELY_ACCEPTED = 2
"""Up to here every arm accepts some drafts and rejects some; further on it may accept none."""


def moments_at(watched, position, **labels) -> AcceptanceMoments:
    """Of the records: steps of each request that accepted and that drafted the position."""
    pairs = [
        tuple(
            sum(length >= position for length in record[f"per_step_{what}"])
            for what in ("accepted", "drafted")
        )
        for record in watched.counted(**labels)
    ]
    return AcceptanceMoments.from_pairs(pair for pair in pairs if pair[1])


def of(name, position, who) -> str:
    labels = {**who, "position": str(position)}
    return f"{name}{{{', '.join(f'{label}={value!r}' for label, value in labels.items())}}}"


@pytest.fixture(params=ARMS, ids="-".join)
def who(request) -> dict[str, str]:
    return dict(zip(("drafter", "arm"), request.param, strict=True))


def test_the_sums_are_those_of_the_records(watched, who):
    for position in POSITIONS:
        moments = moments_at(watched, position, **who)
        assert moments.requests >= 8
        for name, expected in {
            "requests": moments.requests,
            "accepted_squared": moments.accepted_squared,
            "drafted_squared": moments.steps_squared,
            "accepted_drafted": moments.accepted_steps,
        }.items():
            series = of(f"dpace_position_{name}_total", position, who)
            assert watched.value(series) == expected


def test_the_service_has_the_intervals_of_the_records(watched, who):
    (row,) = [
        row
        for row in watched.acceptance["drafters"]
        if "workload" not in row and who.items() <= row.items()
    ]
    for position in POSITIONS:
        moments = moments_at(watched, position, **who)
        low, high = (row[f"accepted_per_position_{end}"][position - 1] for end in ("low", "high"))
        assert row["accepted_per_position"][position - 1] == moments.rate
        if position <= SURELY_ACCEPTED or 0 < moments.rate < 1:
            assert (low, high) == moments.share_interval(watched.acceptance["confidence"])
            assert 0 <= low < moments.rate < high <= 1
        else:
            assert low is high is None


def test_the_rules_have_the_rates_and_errors_of_the_records(watched, who):
    for position in POSITIONS:
        moments = moments_at(watched, position, **who)
        rate = watched.value(of("dpace:acceptance_overall:ratio1h", position, who))
        assert rate == pytest.approx(moments.rate, rel=1e-9)
        error = of("dpace:acceptance_overall_se:ratio1h", position, who)
        if position > SURELY_ACCEPTED and moments.rate in (0, 1):
            assert watched.ask(error) == []
            continue
        # All sums and n are extrapolated by one factor.
        drafted = watched.value(of("dpace:position_drafted:increase1h", position, who))
        n, scale = moments.requests, drafted / moments.steps
        correction = (n * scale / (n * scale - 1)) / (n / (n - 1)) / scale
        found = watched.value(error)
        expected = moments.tau_standard_error * math.sqrt(correction)
        assert found == pytest.approx(expected, rel=1e-6)
        assert 1 / watched.most_extrapolated <= found / moments.tau_standard_error <= 1
