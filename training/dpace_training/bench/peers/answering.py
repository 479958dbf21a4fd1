"""The side that takes steps: a line in, a step, a line out.

The first line out says what was built, in JSON. Then every line in is answered by one step's
seconds of clock and processor, loss and number of supervised positions. The end of the input ends
the process.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat, TextIO, get_args, runtime_checkable

from dpace_training.bench.peers.size import Precision, StepSize


@dataclass(frozen=True, slots=True)
class TakenStep:
    """What a step gives; read as floats behind the clock."""

    loss: SupportsFloat
    num_supervised: SupportsFloat


@dataclass(frozen=True, slots=True)
class Side:
    """One trainer, ready for its first step.

    Attributes:
        versions: What it runs on, by package.
        num_parameters: Trained weights.
        take_step: Forward, objective, backward, clipping and the optimizer's step.
    """

    versions: dict[str, str]
    num_parameters: int
    take_step: Callable[[], TakenStep]


@runtime_checkable
class BuildSide(Protocol):
    """Makes the drafter, its optimizer and a random batch."""

    def __call__(self, size: StepSize, *, attention: str, precision: Precision) -> Side:
        """Build one side; the size is the same for all."""


def answer_lines(
    build: Callable[[], Side], lines: Iterable[str], answer: Callable[[dict[str, Any]], None]
) -> None:
    """Build a side, and take one step for every line."""
    side = build()
    answer({"versions": side.versions, "num_parameters": side.num_parameters})
    for _ in lines:
        started, processor_started = time.perf_counter(), time.process_time()
        taken = side.take_step()
        seconds = time.perf_counter() - started
        processor_seconds = time.process_time() - processor_started
        step = {
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            "loss": float(taken.loss),
            "num_supervised": float(taken.num_supervised),
        }
        answer(step)


def main(build: BuildSide) -> None:
    """The command of a side: `--attention NAME --precision NAME`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--attention", required=True)
    parser.add_argument("--precision", choices=get_args(Precision), required=True)
    chosen = parser.parse_args()
    # What a trainer prints must not stand between the answers.
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        answer_lines(
            lambda: build(StepSize(), attention=chosen.attention, precision=chosen.precision),
            sys.stdin,
            lambda values: _write_line(answers, values),
        )


def _write_line(answers: TextIO, values: dict[str, Any]) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()
