"""Summaries of rows, against numbers worked out by hand."""

import random
import statistics
from collections import Counter

import pytest

from dpace_loadtest.goodput import goodput, is_good
from dpace_loadtest.percentiles import Distribution, percentile
from dpace_loadtest.steadiness import steadiness
from dpace_loadtest.summary import summarise
from dpace_loadtest.timeline import timelines
from dpace_loadtest.windows import mean_in_flight, measured_windows, offered

from .made_rows import facts, joined, record, row, slo  # noqa: TID252 - tests have no package


def summary(rows, **of_facts):
    (one,) = summarise([joined(each) for each in rows], facts(**of_facts), {})
    return one


def test_percentiles_lie_between_their_neighbours():
    values = [10.0, 20.0, 40.0, 80.0, 160.0]
    assert percentile(values, 50) == 40.0
    assert percentile(values, 90) == pytest.approx(128.0)  # place 3.6: 80 + 0.6 * 80
    assert percentile(values, 100) == 160.0
    assert percentile([3.0], 99) == 3.0


def test_percentiles_are_those_of_the_standard_library():
    numbers = random.Random(3)
    values = sorted(numbers.expovariate(1) for _ in range(457))
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    for percent in (50, 90, 95, 99):
        assert percentile(values, percent) == pytest.approx(cuts[percent - 1])


def test_what_is_unknown_is_null_and_never_zero():
    nothing = Distribution.of([None, None])
    assert (nothing.count, nothing.mean, nothing.p50, nothing.p99) == (0, None, None, None)
    one = summary([row(outcome="timeout")])
    assert one.total.latency.ttft_from_schedule.p50 is None
    assert one.total.goodput is None
    assert one.total.requests_per_second == 0  # known: none was answered
    assert summary([row(tokens=None)]).total.tokens_per_second is None
    assert summary([row()]).offered is None


def test_latencies_are_of_ok_requests_from_schedule_and_from_send():
    rows = [row(0, lag=0.2, ttft=0.1, seconds=1.1), row(5, outcome="cut", seconds=60)]
    latency = summary(rows).total.latency
    assert latency.ttft_from_schedule.p50 == pytest.approx(0.3)
    assert latency.ttft_from_send.p50 == pytest.approx(0.1)
    assert latency.tpot.p50 == pytest.approx(0.1)  # 1 s for the 10 tokens after the first
    assert latency.end_to_end.p50 == pytest.approx(1.3)
    assert latency.chunk_gap.count == 1


def test_throughput_is_of_the_whole_window_and_workloads_add_up():
    # From the first schedule at 10 to the last end at 14.1.
    rows = [
        row(10.0, tokens=40),
        row(13.0, tokens=20, workload="sql"),
        row(12.0, outcome="refused", seconds=0.01),
    ]
    one = summary([row(0.0, phase="warm_up", tokens=999), *rows])
    assert one.total.window_seconds == pytest.approx(4.1)
    assert one.total.tokens_per_second == pytest.approx(60 / 4.1)
    assert one.total.requests_per_second == pytest.approx(2 / 4.1)
    assert one.total.num_requests == 3
    assert one.total.num_failed == 1
    assert one.total.outcomes == {
        "ok": 2, "refused": 1, "http_error": 0, "timeout": 0, "cut": 0, "unreachable": 0,
    }  # fmt: skip
    by_name = {group.workload: group.tokens_per_second for group in one.workloads}
    assert by_name == {"code": pytest.approx(40 / 4.1), "sql": pytest.approx(20 / 4.1)}


def test_time_between_rounds_is_no_part_of_the_window():
    rows = [row(0.0, round=0), row(2.0, round=0), row(100.0, round=1), row(102.0, round=1)]
    assert summary(rows).total.window_seconds == pytest.approx(2 * 3.1)


def every_second(first, seconds_of, num=41, outcome_of=lambda n: "ok"):
    """One request a second from `first` to 40; those before 0 are the warm-up."""
    return [
        row(
            float(n),
            seconds=seconds_of(n),
            outcome=outcome_of(n),
            phase="measured" if n >= 0 else "warm_up",
        )
        for n in range(first, num)
    ]


def test_offered_and_answered_are_counted_while_load_is_offered():
    # Each takes 2.5 s: while 1 to 40 are offered, those of -2 to 37 end.
    rows = every_second(-3, lambda n: 2.5)
    found = offered(rows, measured_windows(rows))
    assert found.offered_per_second == pytest.approx(1.0)
    assert found.answered_per_second == pytest.approx(1.0)


def test_a_server_half_as_fast_as_its_load_answers_half_of_it():
    # The answer to request n comes at 2 n + 2: until 40 there are those of 0 to 19.
    slow = every_second(-1, lambda n: n + 2.0)
    assert offered(slow, measured_windows(slow)).answered_share == pytest.approx(0.5)


def test_the_time_in_which_a_server_without_a_warm_up_fills_is_not_counted():
    # From 2.5 s on, 3 to 40 are offered, and those of 1 to 37 end.
    rows = every_second(0, lambda n: 2.5)
    found = offered(rows, measured_windows(rows))
    assert found.offered_per_second == pytest.approx(38 / 37.5)
    assert found.answered_per_second == pytest.approx(37 / 37.5)
    never = every_second(0, lambda n: 100.0)
    assert offered(never, measured_windows(never)).answered_share == 0


def test_failures_are_offered_and_not_answered():
    rows = every_second(-1, lambda n: 0.5, outcome_of=lambda n: "ok" if n % 2 else "refused")
    assert offered(rows, measured_windows(rows)).answered_share == pytest.approx(0.5)


def test_a_handful_of_requests_has_no_rate():
    rows = every_second(-1, lambda n: 0.5, num=20)
    assert offered(rows, measured_windows(rows)) is None


def test_later_turns_do_not_stretch_the_time_in_which_load_is_offered():
    rows = [row(0.0), row(4.0), row(9.0, turn=1)]
    window = measured_windows(rows)[0]
    assert window.offered_seconds == 4.0
    assert window.seconds == pytest.approx(10.1)


def test_in_flight_is_the_mean_over_time():
    rows = [row(0.0, seconds=1.0), row(0.5, seconds=1.0, lag=0.25)]
    # One from 0 to 1, the other from 0.75 to 1.75: 1.25 of 1.0 s and 0.75 of the next.
    assert mean_in_flight(rows, 0.0, 1.0) == pytest.approx(1.25)
    assert mean_in_flight(rows, 1.0, 2.0) == pytest.approx(0.75)


def test_a_load_that_settled_is_steady_and_a_queue_that_grows_is_not():
    steady = [row(float(n), seconds=2.0) for n in range(60)]
    found = steadiness(steady, measured_windows(steady))
    assert found.is_steady is True
    assert found.latency_change == pytest.approx(1.0)
    growing = [row(float(n), seconds=1.0 + n) for n in range(60)]
    found = steadiness(growing, measured_windows(growing))
    assert found.is_steady is False
    # Medians of the 30 requests of each half: 15.5 and 45.5 s.
    assert found.latency_change == pytest.approx(45.5 / 15.5)


def test_too_few_requests_say_nothing_of_steadiness():
    rows = [row(float(n)) for n in range(30)]
    assert steadiness(rows, measured_windows(rows)).is_steady is None
    assert steadiness([], {}).is_steady is None


def test_the_generator_is_saturated_by_the_99th_percentile_of_its_lag():
    rows = [row(float(n), lag=0.2 if n >= 95 else 0.0) for n in range(100)]
    assert summary(rows).is_saturated
    assert not summary(rows, saturation_seconds=0.3).is_saturated
    in_time = [row(float(n), lag=9.0, phase="warm_up") for n in range(5)] + [row(9.0)]
    assert not summary(in_time).is_saturated


def test_a_request_is_good_if_it_keeps_every_limit():
    one = row(lag=0.1, ttft=0.1, seconds=1.1)  # TTFT 0.2, TPOT 0.1, end to end 1.2
    assert is_good(one, slo(ttft=0.21, tpot=0.11, end_to_end=1.21))
    assert not is_good(one, slo(ttft=0.19, tpot=0.11, end_to_end=1.21))
    assert not is_good(one, slo(ttft=0.21, tpot=0.09, end_to_end=1.21))
    assert not is_good(one, slo(ttft=0.21, tpot=0.11, end_to_end=1.19))


def test_a_limit_on_what_an_answer_does_not_have():
    assert is_good(row(tokens=1), slo(tpot=0.0001))
    assert not is_good(row(tokens=None), slo(tpot=9.0))
    silent = row(first_token_seconds=None, last_token_seconds=None, tokens=1, seconds=0.5)
    assert is_good(silent, slo(ttft=0.6))
    assert not is_good(silent, slo(ttft=0.4))


def test_goodput_counts_failures_against_it():
    rows = [row(ttft=0.1), row(ttft=0.5), row(outcome="refused"), row(ttft=0.1)]
    good = goodput(rows, slo(ttft=0.2), 10.0)
    assert (good.num_good, good.share, good.per_second) == (2, 0.5, 0.2)
    assert goodput(rows, slo(), 10.0) is None
    assert goodput([], slo(ttft=1.0), 10.0) is None


def test_acceptance_is_of_each_drafter_and_role_by_hand():
    requests = [
        joined(row(0.0), (2, 0)),
        joined(row(1.0), (3,)),
        joined(row(2.0), (1, 1), drafter="other"),
        joined(row(3.0)),
    ]
    (one,) = summarise(requests, facts(), {"a": 4})
    first, second = one.total.acceptance
    assert (first.drafter, second.drafter) == ("dpace", "other")
    assert (first.num_requests, first.num_steps) == (2, 3)
    assert first.tau.value == pytest.approx(1 + 5 / 3)
    # r = 5/3, e = (2 - 10/3, 3 - 5/3) = (-4/3, 4/3), SE^2 = 2 * (32/9) / 9, z = 1.96
    reach = 1.959964 * (2 * (32 / 9) / 9) ** 0.5
    assert first.tau.low == pytest.approx(1 + 5 / 3 - reach, rel=1e-6)
    assert first.tau.high == pytest.approx(1 + 5 / 3 + reach, rel=1e-6)
    assert first.mean_request_tau == pytest.approx((2 + 4) / 2)
    assert [(at.drafted, at.accepted) for at in first.positions] == [(3, 2), (3, 2), (3, 1), (0, 0)]
    assert first.positions[3].rate is None
    assert second.tau.low is None  # one request has no spread
    assert one.total.joined.unjoined == Counter(not_found=1)


def test_shadows_stand_apart_from_what_served():
    one = joined(row(), (2, 0))
    shadow = record("x", (3, 3), arm="shadow", drafter="other")
    (found,) = summarise([type(one)(one.row, one.served, (shadow,), None)], facts(), {})
    assert [(each.role, each.tau.value) for each in found.total.acceptance] == [
        ("champion", 2.0),
        ("shadow", 4.0),
    ]


def test_summaries_come_by_arm_and_load_in_order():
    rows = [row(arm=arm, load=load) for arm in ("b", "a") for load in (10.0, 2.0)]
    found = summarise([joined(each) for each in rows], facts("a", "b"), {})
    assert [(one.arm, one.load) for one in found] == [("a", 2), ("a", 10), ("b", 2), ("b", 10)]


def test_a_timeline_has_bins_of_what_ran_in_them():
    # Bins of 0.1 s: until 2.6 s there are 26 of them.
    rows = [row(0.0, seconds=2.6, tokens=10), row(0.55, seconds=0.1, tokens=3, ttft=0.05)]
    (line,) = timelines(rows, ["a", "b"])
    assert line.bin_seconds == 0.1
    assert [round(bin_.in_flight, 6) for bin_ in line.bins[4:8]] == [1.0, 1.5, 1.5, 1.0]
    assert line.bins[0].ttft_p50 == pytest.approx(0.1)
    assert line.bins[1].ttft_p50 is None
    assert sum(bin_.tokens_per_second * 0.1 for bin_ in line.bins) == pytest.approx(13)
    assert sum(bin_.in_flight * 0.1 for bin_ in line.bins) == pytest.approx(2.7)


def test_a_long_run_has_a_bounded_timeline():
    (line,) = timelines([row(0.0), row(86_000.0), row(90_000.0, outcome="timeout")], ["a"])
    assert line.bin_seconds == 600.0
    assert len(line.bins) == 151
    assert line.bins[-1].num_failed == 1
