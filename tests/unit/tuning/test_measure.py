"""The measurement and the verification against an engine of known speed."""

import pytest

from dpace_serve.acceptance.cost import length_ranges
from dpace_serve.errors import ConfigError
from dpace_serve.tuning.measure import PromptOrder, in_turn, measure_lengths, warm_up
from dpace_serve.tuning.verify import verify_schedule

LENGTHS = (0, 3, 7)
BATCH_SIZES = (1, 4, 16)


@pytest.fixture
def order():
    return PromptOrder(10, seed=0)


@pytest.fixture
def measured(engine, order, config):
    return measure_lengths(engine, LENGTHS, BATCH_SIZES, order, config, lambda: None)


def test_what_the_engine_does_is_what_is_measured(measured):
    off, three, seven = measured
    assert (off.tau, three.tau, seven.tau) == (1.0, 2.5, 3.0)
    assert seven.step_seconds == {
        1: pytest.approx((0.018,) * 3),
        4: pytest.approx((0.042,) * 3),
        16: pytest.approx((0.138,) * 3),
    }
    assert three.goodput(4) == pytest.approx(4 * 2.5 / 0.026)


def test_the_schedule_follows_from_it(measured):
    # Goodput per request at batch 1: 1 / 11, 2.5 / 14, 3 / 18 ms; at 16: 1 / 26, 2.5 / 74, 3 / 138.
    ranges = length_ranges(measured, max_tie_loss=0.0)
    assert ranges[0][2] == 3
    # 2.5 / (10 + 4 b) falls below 1 / (10 + b) from b = 15 / 1.5 = 10 on.
    assert ranges == ((1, 9, 3), (10, 16, 0))


def test_every_length_takes_the_same_prompts_in_each_round(engine, measured, config):
    asked = {}
    for call in engine.calls:
        asked.setdefault((call.batch_size, call.places), []).append(call.ranges[0][2])
    assert all(sorted(lengths) == list(LENGTHS) for lengths in asked.values())
    assert len(engine.calls) == config.rounds * len(BATCH_SIZES) * len(LENGTHS)


def test_every_length_is_asked_first_in_some_round(engine, measured):
    firsts = {
        calls[0].ranges[0][2]
        for start in range(0, len(engine.calls), len(LENGTHS))
        if (calls := engine.calls[start : start + len(LENGTHS)])
    }
    assert firsts == set(LENGTHS)


def test_a_prompt_is_one_unit_however_often_it_is_asked(measured):
    # 3 rounds of 4 + 8 + 32 prompts over 10 different ones.
    for length in measured:
        assert len(length.pairs) == 10
        assert sum(steps for _, steps in length.pairs) == 10 * 3 * (4 + 8 + 32)


def test_large_batches_take_more_prompts(engine, measured):
    assert {call.batch_size: len(call.places) for call in engine.calls} == {1: 4, 4: 8, 16: 32}


def test_answers_that_never_fill_the_batch_are_one_clear_line(engine, order, config):
    engine.num_full_steps = 2
    with pytest.raises(ConfigError, match="needs 3 steps with 1 requests and no prompt, got 2"):
        measure_lengths(engine, LENGTHS, BATCH_SIZES, order, config, lambda: None)


def test_each_length_is_warmed_up(engine, order, config):
    warm_up(engine, LENGTHS, order, config)
    assert [call.ranges for call in engine.calls] == [((1, 1, length),) for length in LENGTHS]


def test_rounds_take_the_next_prompts_and_begin_again_at_the_end(order):
    taken = [place for number in range(5) for place in order.places(4, round_number=number)]
    assert sorted(taken) == sorted(list(range(10)) * 2)
    assert taken[:10] == taken[10:]
    assert taken[:10] != list(range(10))


def test_the_turn_moves_on_by_one_each_round():
    assert [list(in_turn((0, 3, 7), number)) for number in range(4)] == [
        [0, 3, 7], [3, 7, 0], [7, 0, 3], [0, 3, 7],
    ]  # fmt: skip


def test_a_schedule_is_compared_with_the_best_fixed_length(engine, order, config):
    verified = verify_schedule(
        engine, ((1, 9, 3), (10, 16, 0)), LENGTHS, BATCH_SIZES, order, config, lambda: None
    )
    assert [batch.best_fixed for batch in verified] == [3, 3, 0]
    assert [batch.ratio for batch in verified] == pytest.approx([1, 1, 1])
    assert verified[0].fixed == pytest.approx({0: 1 / 0.011, 3: 2.5 / 0.014, 7: 3 / 0.018})


def test_a_bad_schedule_is_seen_to_be_slow(engine, order, config):
    (verified,) = verify_schedule(
        engine, ((1, 16, 7),), LENGTHS, (16,), order, config, lambda: None
    )
    assert verified.best_fixed == 0
    # 3 tokens in 138 ms against 1 in 26 ms.
    assert verified.ratio == pytest.approx(3 / 138 * 26)
    assert (verified.low, verified.high) == pytest.approx((verified.ratio, verified.ratio))
