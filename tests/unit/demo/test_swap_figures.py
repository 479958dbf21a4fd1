"""What a scripted run of swaps shows."""

import pytest

from dpace_serve.demo.live_bench import broken_promises
from dpace_serve.demo.running_streams import StreamLog
from dpace_serve.demo.streamed_answer import StreamedAnswer
from dpace_serve.demo.swap_figures import Spread, swap_figures
from dpace_serve.demo.swap_load import Swap, SwapRun

RIGHT, WRONG = (1, 2), (1, 3)


def swap(began, ended, *, load, other, megabytes=100, num_busy=0):
    return Swap("dpace", began, ended, load, load + other, num_busy, megabytes * 10**6)


def answer(token_ids, *arrivals):
    return StreamedAnswer("cmpl-1", token_ids, arrivals)


def run(*, loaded=None, control=None, swaps=None):
    return SwapRun(
        references=[answer(RIGHT)],
        control=control or StreamLog(answers=[(0, answer(RIGHT, 0.0, 0.3))]),
        idle=[swap(0, 1, load=0.5, other=0.2), swap(1, 2, load=0.5, other=0.4)],
        warm_up=[swap(10, 12, load=0.6, other=1.0, megabytes=200)],
        swaps=swaps
        or [
            swap(20, 22, load=0.6, other=1.3, megabytes=201, num_busy=2),
            swap(30, 33, load=0.8, other=2.1, megabytes=204),
        ],
        loaded=loaded
        or StreamLog(
            # Loading: 11.0 to 12, 21.0 to 22, 31.8 to 33; as long between: 16 to 17, 26.4 to 27.4.
            answers=[
                (0, answer(RIGHT, 10.5, 11.2, 11.3, 13.0)),
                (0, answer(RIGHT, 16.5, 16.6)),
                (0, answer(WRONG, 31.0, 31.5)),
            ],
            failures=["request code-000 failed"],
            lateness_seconds=[0.001, 0.001],
        ),
        seconds=20.0,
        client_cpu_seconds=1.0,
    )


def test_requests_are_counted_whatever_came_of_them():
    figures = swap_figures(run())
    assert (figures.num_requests, figures.num_failed, figures.num_different) == (4, 1, 1)
    assert (figures.num_control_requests, figures.num_control_different) == (1, 0)


def test_a_gap_counts_as_loading_if_a_drafter_was_loaded_in_it():
    figures = swap_figures(run())
    assert figures.gaps_loading.num_gaps == 3
    assert figures.gaps_loading.longest_ms == pytest.approx(1700)
    assert figures.gaps_as_long.num_gaps == 1
    assert figures.gaps_otherwise.num_gaps == 2
    assert figures.gaps_control.p50_ms == pytest.approx(300)


def test_a_swap_waits_for_what_is_neither_loading_nor_checking():
    figures = swap_figures(run())
    assert figures.check_seconds == Spread(
        pytest.approx(0.3), pytest.approx(0.2), pytest.approx(0.4)
    )
    assert figures.wait_seconds == Spread(
        pytest.approx(1.4), pytest.approx(1.0), pytest.approx(1.8)
    )
    assert figures.load_seconds.median == pytest.approx(0.7)
    assert figures.total_seconds.high == pytest.approx(2.9)
    assert figures.num_busy == 2


def test_memory_is_compared_with_that_after_the_warm_up():
    figures = swap_figures(run())
    assert figures.resident_ratio == pytest.approx(1.02)
    assert figures.resident_growth_bytes_per_swap == pytest.approx(3e6)


def test_every_broken_promise_is_named():
    assert broken_promises(swap_figures(run())) == [
        "1 requests failed",
        "1 answers changed, 0 without swaps",
    ]
    leaking = run(
        loaded=StreamLog(answers=[(0, answer(RIGHT, 1.0))], lateness_seconds=[0.0, 0.0]),
        swaps=[swap(20, 22, load=0.6, other=1.3, megabytes=211)],
    )
    assert broken_promises(swap_figures(leaking)) == ["resident memory changed by +5.5%"]
