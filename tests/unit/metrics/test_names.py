"""The list of metrics: complete, well named, and with closed labels."""

import re

import pytest

from dpace_serve.metrics import names
from dpace_serve.metrics.names import METRICS, MetricSpec


def test_every_specification_is_in_the_list_once():
    defined = [value for value in vars(names).values() if isinstance(value, MetricSpec)]
    assert sorted(METRICS, key=lambda spec: spec.name) == sorted(defined, key=lambda s: s.name)
    assert len({spec.name for spec in METRICS}) == len(METRICS)


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_names_and_labels_are_plain_and_counters_end_in_total(spec):
    assert re.fullmatch(r"dpace_[a-z_]+", spec.name)
    assert all(re.fullmatch(r"[a-z_]+", label) for label in spec.labels)
    assert spec.name.endswith("_total") == (spec.type == "counter")
    assert spec.help.endswith(".")


def test_the_help_of_a_metric_by_position_says_where_positions_start_and_what_divides():
    by_position = [spec for spec in METRICS if "position" in spec.labels]
    assert len(by_position) == 6
    assert all("Positions count from 1." in spec.help for spec in by_position)
    assert "dpace_drafted_tokens_total" in names.ACCEPTED_TOKENS.help
    assert "denominator" in names.DRAFTED_TOKENS.help
