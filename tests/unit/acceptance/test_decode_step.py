"""Which steps are timed: decoding ones that directly follow another, by the engine's own clock."""

import random

import pytest

from dpace_serve.acceptance.decode_step import DecodeStep, EngineStep, StepClock


def step(*gaps, first=0, tokens=5, finished=0, running=None):
    continuing = len(gaps) + first - finished
    return EngineStep(gaps, first, tokens, finished, continuing if running is None else running)


def prompt(requests=1):
    return step(first=requests, tokens=requests)


def timed(*steps):
    clock = StepClock()
    return [clock.time(one) for one in steps]


def test_a_decoding_step_takes_the_time_since_the_tokens_before_it():
    assert timed(prompt(3), step(0.2, 0.2, 0.2, tokens=7)) == [None, DecodeStep(0.2, 3, 7)]


def test_a_step_in_which_a_request_ends_is_timed_with_it():
    first, second = timed(prompt(2), step(0.2, 0.2, finished=1), step(0.1))[1:]
    assert (first.batch_size, second.batch_size) == (2, 1)


def test_the_last_step_of_all_is_timed():
    assert timed(prompt(), step(0.2, finished=1))[1] == DecodeStep(0.2, 1, 5)


@pytest.mark.parametrize(
    ("mixed", "why"),
    [
        (step(0.2, first=1), "a prompt ended in it"),
        (step(0.2, running=2), "it read a part of a prompt, or a request waited"),
        (step(0.2, 0.9), "a request was read again after it had been preempted"),
        (step(0.0, 0.0), "no time passed"),
        (step(-0.1, -0.1), "a clock went back"),
        (step(), "nobody got tokens"),
    ],
)
def test_a_step_that_did_more_than_decode_is_left_out(mixed, why):
    assert timed(prompt(2), mixed)[1] is None, why


def test_the_step_after_a_mixed_one_is_timed():
    assert timed(prompt(), step(0.5, first=1), step(0.2, 0.2))[2] == DecodeStep(0.2, 2, 5)


def test_the_first_step_after_an_idle_engine_is_left_out():
    # All requests of the step before ended, so this gap began before it.
    assert timed(prompt(), step(0.2, finished=1, running=0), step(9.0))[2] is None


def test_a_step_after_an_empty_one_is_left_out():
    empty = EngineStep((), 0, 0, 0, 1)
    assert timed(prompt(), empty, step(0.4))[2] is None


def test_the_first_step_that_is_ever_seen_is_left_out():
    assert timed(step(0.2)) == [None]


def test_against_an_engine_that_knows_what_each_step_did():
    """A slow reference: an engine with a clock, prompts in pieces, ends and idle times."""
    random.seed(3)
    for _ in range(200):
        assert_matches_reference()


def assert_matches_reference():
    clock, now, last = StepClock(), 0.0, {}
    waiting_parts, names, has_previous = {}, iter(range(10**6)), False
    for _ in range(30):
        if not last and not waiting_parts:
            now += 100.0
            has_previous = False
        if random.random() < 0.3 or not (last or waiting_parts):
            waiting_parts[next(names)] = random.randint(1, 3)
        seconds = random.uniform(0.1, 1.0)
        now += seconds
        first, is_mixed = [], bool(waiting_parts)
        for name in list(waiting_parts):
            waiting_parts[name] -= 1
            if not waiting_parts[name]:
                first.append(name)
                del waiting_parts[name]
        gaps = [now - before for before in last.values()]
        last = dict.fromkeys([*last, *first], now)
        ended = [name for name in last if random.random() < 0.2]
        for name in ended:
            del last[name]
        running = len(last) + len(waiting_parts)
        found = clock.time(EngineStep(gaps, len(first), 2 * len(gaps), len(ended), running))
        should_be_timed = bool(gaps) and not is_mixed and has_previous
        assert (found is not None) == should_be_timed
        if found is not None:
            assert found.seconds == pytest.approx(seconds)
            assert (found.batch_size, found.num_tokens) == (len(gaps), 2 * len(gaps))
        has_previous = bool(last)
