"""Running requests are found by name, as long as the name is theirs alone."""

from types import SimpleNamespace

import pytest


def params():
    return SimpleNamespace(n=1, extra_args=None, structured_outputs=None, logprob_token_ids=None)


@pytest.fixture
def arrivals(make_bench):
    return make_bench(num_challengers=0).recorder._arrivals


def test_a_request_is_found_until_it_leaves(arrivals):
    request = arrivals.bind("p", params(), "r1")
    arrivals.bind("p", params(), "r2")
    assert arrivals.find("r1") is request
    arrivals.leave(request)
    assert arrivals.find("r1") is None
    assert arrivals.find("r2") is not None


def test_requests_that_were_given_the_same_name_are_not_taken_for_each_other(arrivals):
    first = arrivals.bind("p", params(), "same")
    second = arrivals.bind("p", params(), "same")
    assert arrivals.find("same") is None
    arrivals.leave(first)
    assert arrivals.find("same") is second


def test_whatever_has_left_takes_no_memory(arrivals):
    for number in range(10):
        arrivals.leave(arrivals.bind("p", params(), f"r{number % 3}"))
    assert arrivals._running == {}


def test_a_name_that_is_too_long_to_be_kept_is_found_all_the_same(arrivals):
    request = arrivals.bind("p", params(), "r" * 5000)
    assert len(request.request_id) <= 128
    assert arrivals.find("r" * 5000) is request
    assert arrivals.find("r" * 4999) is None
