"""What a person sees while a drafter trains: a live display, or log lines where none can be."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from jaxtyping import Float
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from torch import Tensor

from dpace_training.evaluation.report import position_bars
from dpace_training.fit.trainer import StepResult
from dpace_training.losses.statistics import ObjectiveStatistics

NUM_AVERAGED_STEPS = 10
SECONDS_BETWEEN_LINES = 30.0
BAR_WIDTH = 40

logger = logging.getLogger(__name__)


class LiveProgress:
    """Where a training run stands; use it as a context manager.

    On a terminal it is a display that renews itself, elsewhere a log line every half minute and at
    the end. Figures are means over the last ten steps. Tokens are supervised draft positions.
    Evaluations and saves count neither for the tokens per second nor for the time that is left.
    Nothing of this enters the log of the run.
    """

    def __init__(
        self,
        name: str,
        *,
        total_steps: int,
        step: int,
        console: Console,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at a step.

        Args:
            name: Name of the run.
            total_steps: Steps of the whole run.
            step: Steps that are already taken.
            console: Where stderr goes.
            now: Clock in seconds.
        """
        self._name = name
        self._total_steps = total_steps
        self._step = step
        self._now = now
        self._last_line = now()
        self._recent: deque[tuple[StepResult, float]] = deque(maxlen=NUM_AVERAGED_STEPS)
        self._tau_text: str | None = None
        self._display = (
            Live(self, console=console, refresh_per_second=4) if console.is_terminal else None
        )

    def __enter__(self) -> "LiveProgress":
        if self._display is not None:
            self._display.start(refresh=True)
        return self

    def __exit__(self, *reason: object) -> None:
        if self._display is not None:
            self._display.stop()
        else:
            logger.info("%s", self.line())

    def advance(self, result: StepResult, *, seconds: float) -> None:
        """Count one more step, which took this long."""
        self._step += 1
        self._recent.append((result, seconds))
        if self._display is None and self._now() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = self._now()
            logger.info("%s", self.line())

    def evaluated(self, tau: float | None) -> None:
        """Show this held-out tau, measured after the step that was counted last."""
        self._tau_text = None if tau is None else f"held-out tau {tau:.3f} at step {self._step}"

    def line(self) -> str:
        """The state in one line of text."""
        parts = [f"{self._name}: step {self._step} of {self._total_steps}"]
        if self._recent:
            parts += [self._time_left(), *self._figures()]
        return ", ".join(parts)

    def __rich__(self) -> RenderableType:
        """The state as a bar, the main figures, and two rows of bars over the draft positions."""
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._total_steps, completed=self._step, width=BAR_WIDTH)
        left = self._time_left() if self._recent else ""
        head.add_row(Text(f"training {self._name}"), bar, f"{self._step}/{self._total_steps}", left)
        if not self._recent:
            return head
        statistics = self._statistics()
        rows = Table.grid(padding=(0, 2))
        rows.add_row("loss by position", *_position_cells(statistics.mean_token_loss, ""))
        rows.add_row("share of weight", *_position_cells(100 * statistics.weight_share, "%"))
        return Group(head, Text("   ".join(self._figures())), rows)

    def _figures(self) -> list[str]:
        losses = [result.loss for result, _ in self._recent]
        tokens = float(self._statistics().positions.sum())
        figures = [f"loss {sum(losses) / len(losses):.3f}"]
        if self._tau_text is not None:
            figures.append(self._tau_text)
        return [*figures, f"{tokens / self._seconds():,.0f} trained tokens/s"]

    def _time_left(self) -> str:
        seconds = self._seconds() / len(self._recent) * (self._total_steps - self._step)
        return f"{timedelta(seconds=round(seconds))} left"

    def _seconds(self) -> float:
        # A clock may be coarser than a tiny step.
        return max(sum(seconds for _, seconds in self._recent), 1e-9)

    def _statistics(self) -> ObjectiveStatistics:
        first, *others = (result.statistics for result, _ in self._recent)
        return sum(others, start=first)


def _position_cells(values: Float[Tensor, " positions"], unit: str) -> tuple[str, str]:
    """A bar for each draft position, the highest one full, and the first and last value."""
    known = values.nan_to_num()
    bars = position_bars((known / known.max().clamp_min(1e-9)).clamp_min(0).tolist())
    first, last = ("-" if math.isnan(value) else f"{value:.2f}" for value in values[[0, -1]])
    return bars, f"{first} .. {last} {unit}".rstrip()
