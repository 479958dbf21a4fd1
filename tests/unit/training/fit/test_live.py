import io
import logging

import pytest
import torch
from rich.console import Console

from dpace_training.fit.live import SECONDS_BETWEEN_LINES, LiveProgress
from dpace_training.fit.trainer import StepResult
from dpace_training.losses.statistics import ObjectiveStatistics


def result(loss, *, positions=(10.0, 10.0), weight=(3.0, 1.0), token_loss=(10.0, 20.0)):
    def row(values):
        return torch.tensor(values, dtype=torch.float64)

    zero = torch.zeros((), dtype=torch.float64)
    nothing = row((0.0, 0.0))
    statistics = ObjectiveStatistics(
        row(positions), row(weight), row(token_loss), nothing, nothing, nothing, zero, zero, zero
    )
    return StepResult(loss, 1.0, 1e-3, statistics)


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def progress(*, is_terminal=False, step=0, total_steps=100, now=None):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    clock = now or Clock()
    return (
        LiveProgress("run", total_steps=total_steps, step=step, console=console, now=clock),
        console,
    )


def drawn(live):
    console = Console(file=io.StringIO(), width=100)
    console.print(live)
    return console.file.getvalue()


def test_the_line_says_where_the_run_stands():
    live, _ = progress(step=40)
    live.advance(result(2.0), seconds=1.0)
    live.advance(result(4.0), seconds=3.0)
    live.evaluated(1.25)
    # 40 tokens in 4 s; 58 steps of 2 s are left.
    assert live.line() == (
        "run: step 42 of 100, 0:01:56 left, loss 3.000, held-out tau 1.250 at step 42, "
        "10 trained tokens/s"
    )


def test_only_the_last_ten_steps_count():
    live, _ = progress()
    live.advance(result(1000.0), seconds=1000.0)
    for _ in range(10):
        live.advance(result(1.0), seconds=0.5)
    assert "loss 1.000" in live.line()
    assert "0:00:44 left" in live.line()  # 89 steps of half a second, rounded to even


def test_the_display_has_a_bar_for_every_position():
    live, _ = progress()
    live.advance(result(2.0), seconds=1.0)
    text = drawn(live)
    # Losses 1 and 2 nats, shares 75 % and 25 %; the higher one fills its character.
    assert "loss by position  ▄█  1.00 .. 2.00" in text
    assert "share of weight   █▃  75.00 .. 25.00 %" in text
    assert "1/100" in text


def test_a_position_without_supervision_does_not_break_the_display():
    live, _ = progress()
    live.advance(result(2.0, positions=(10.0, 0.0), token_loss=(10.0, 0.0)), seconds=1.0)
    assert "█   1.00 .. -" in drawn(live)


def test_a_run_without_a_step_yet_is_drawn():
    live, _ = progress(step=7)
    assert "7/100" in drawn(live)
    assert live.line() == "run: step 7 of 100"


def test_a_name_is_no_markup():
    console = Console(file=io.StringIO(), force_terminal=False)
    live = LiveProgress("[red]x", total_steps=2, step=0, console=console)
    assert "[red]x" in drawn(live)


def test_without_a_terminal_there_is_a_line_now_and_then_and_at_the_end(caplog):
    clock = Clock()
    live, console = progress(now=clock)
    with caplog.at_level(logging.INFO, logger="dpace_training"), live:
        for _ in range(50):
            clock.seconds += SECONDS_BETWEEN_LINES / 20
            live.advance(result(2.0), seconds=SECONDS_BETWEEN_LINES / 20)
    steps = [record.getMessage().split(",")[0] for record in caplog.records]
    assert steps == ["run: step 20 of 100", "run: step 40 of 100", "run: step 50 of 100"]
    assert console.file.getvalue() == ""


def test_on_a_terminal_the_display_takes_the_place_of_lines(caplog):
    clock = Clock()
    live, console = progress(is_terminal=True, now=clock)
    with caplog.at_level(logging.INFO, logger="dpace_training"), live:
        clock.seconds = 2 * SECONDS_BETWEEN_LINES
        live.advance(result(2.0), seconds=1.0)
        live.evaluated(None)
    assert not caplog.records
    assert "share of weight" in console.file.getvalue()


def test_the_display_ends_with_the_error_that_ends_the_run():
    live, console = progress(is_terminal=True)
    with pytest.raises(KeyboardInterrupt), live:
        raise KeyboardInterrupt
    assert console._live_stack == []
