"""What a tuning run measures, and which mistakes it names."""

import pytest

from dpace_serve.config import load_config
from dpace_serve.errors import ConfigError
from dpace_serve.tuning.config import TuneConfig, spread_lengths

GIVEN = ("serve.target=t", "serve.drafter=d", "prompts=p")


def config(*overrides):
    return load_config(TuneConfig, None, [*GIVEN, *overrides])


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, (0, 1)),
        (4, (0, 1, 2, 3, 4)),
        (5, (0, 1, 2, 3, 4, 5)),
        (7, (0, 1, 3, 4, 6, 7)),
        (15, (0, 3, 6, 9, 12, 15)),
    ],
)
def test_lengths_spread_from_none_to_the_full_block(most, expected):
    assert spread_lengths(most) == expected
    assert config().lengths_up_to(most) == expected


def test_given_lengths_are_taken_as_they_are():
    assert config("draft_lengths=[1,5]").lengths_up_to(7) == (1, 5)


def test_default_batch_sizes_end_where_the_engine_does():
    assert config().batch_sizes_up_to(256) == (1, 2, 4, 8, 16)
    assert config().batch_sizes_up_to(8) == (1, 2, 4, 8)
    assert config().verify_batch_sizes_up_to(8) == (1, 4)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("draft_lengths=[0,3,3]", "draft_lengths must rise strictly"),
        ("draft_lengths=[3]", "draft_lengths"),
        ("draft_lengths=[-1,3]", "draft_lengths"),
        ("batch_sizes=[2,4]", "batch_sizes must start at 1"),
        ("batch_sizes=[]", "batch_sizes"),
        ("rounds=1", "rounds"),
        ("serve.drafter=null", "serve.drafter is not set"),
        ("serve.block_schedule=f.json", "serve.block_schedule must not be set"),
        ("serve.prot=1", "unknown key serve.prot"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(override, named):
    with pytest.raises(ConfigError, match=named) as refused:
        config(override)
    assert "\n" not in str(refused.value)


def test_a_length_beyond_what_is_served_is_refused():
    with pytest.raises(ConfigError, match="up to 7, which is what is served, got 9"):
        config("draft_lengths=[0,9]").lengths_up_to(7)


def test_a_batch_size_beyond_the_engines_is_refused():
    with pytest.raises(ConfigError, match=r"batch_sizes may go up to 8, .* got 16"):
        config("batch_sizes=[1,16]").batch_sizes_up_to(8)
    with pytest.raises(ConfigError, match=r"verify_batch_sizes may go up to 8, .* got 16"):
        config("verify_batch_sizes=[16]").verify_batch_sizes_up_to(8)
