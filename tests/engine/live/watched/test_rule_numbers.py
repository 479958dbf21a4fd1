"""Every recording rule on a real service has the numbers of its records."""

import pytest

from tests.engine.live.watched.comparing import require
from tests.engine.live.watched.expected_rules import RULES

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_every_recording_rule_has_numbers_to_be_compared_with(watched):
    recorded = {rule["name"] for rule in watched.rules if rule["type"] == "recording"}
    assert recorded == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_the_numbers_of_the_records(request, name):
    expected = RULES[name]
    require(request.getfixturevalue(expected.fixture), name, expected)


def test_increase_in_a_rule_is_hardly_above_the_count(watched, watched_split):
    # Else the bound on counts would let anything pass.
    assert 1 < watched.most_extrapolated < 1.1
    assert 1 < watched_split.most_extrapolated < 1.2
