"""Compares the answer to a query with the values that are expected of it."""

from typing import Any

import pytest

from tests.engine.live.watched.expected_rules import Expected


def require(watched, expression: str, expected: Expected) -> None:
    """The query has exactly these series, with these values."""
    values = expected.of(watched)
    found = by_labels(watched.ask(expression), expected.labels)
    assert found, "the query is empty"
    assert found.keys() == values.keys()
    if expected.is_count:
        _require_one_factor(found, values, watched.most_extrapolated)
    else:
        assert found == pytest.approx(values, rel=expected.rel, abs=1e-9)


def by_labels(
    series: list[dict[str, Any]], labels: tuple[str, ...]
) -> dict[tuple[str, ...], float]:
    """Values by these labels, which tell all series apart."""
    found = {
        tuple(one["metric"].get(label, "") for label in labels): float(one["value"][1])
        for one in series
    }
    assert len(found) == len(series), f"{labels} do not tell the series apart"
    return found


def _require_one_factor(found, values, most: float) -> None:
    factors = [found[key] / value for key, value in values.items() if value]
    assert all(
        found[key] == pytest.approx(0, abs=1e-9) for key, value in values.items() if not value
    )
    assert factors == pytest.approx([factors[0]] * len(factors) if factors else [], rel=1e-9)
    assert all(1 - 1e-9 <= factor <= most for factor in factors)
