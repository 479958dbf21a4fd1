"""Which drafters an engine hosts, and when they can be compared."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.vllm_engine.hosted_checkpoints import (
    additional_config,
    hosted_folders,
    require_comparable,
)


def config(additional, method="greedy", verification="standard"):
    speculation = SimpleNamespace(draft_sample_method=method, rejection_sample_method=verification)
    return SimpleNamespace(additional_config=additional, speculative_config=speculation)


def test_the_folders_come_back_in_their_order():
    given = [Path("/b"), Path("/a"), Path("/b")]
    assert hosted_folders(config({"theirs": 1, **additional_config(given)})) == given
    assert hosted_folders(config({"theirs": 1})) == []


def test_one_token_drafts_and_standard_verification_can_be_compared():
    require_comparable(config({}))


@pytest.mark.parametrize(
    ("method", "verification"),
    [("probabilistic", "standard"), ("greedy", "block"), ("greedy", "synthetic")],
)
def test_where_a_match_is_not_an_acceptance_several_drafters_are_refused(method, verification):
    with pytest.raises(ConfigError, match=f"got {method} and {verification}"):
        require_comparable(config({}, method, verification))
