"""What the person who waits sees: bars on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


class DemoProgress:
    """Shows one stage at a time on `console`, which should be the error stream."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._stage: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def stage(self, description: str, *, total: int | None) -> None:
        """Begin a stage; `total` items are to come, or none can be counted."""
        if self._stage is not None:
            self._bars.remove_task(self._stage)
        self._stage = self._bars.add_task(description, total=total)
        if not self._console.is_terminal:
            elapsed = time.monotonic() - self._started
            self._console.print(f"{elapsed:4.0f} s  {description}", highlight=False)

    def advance(self) -> None:
        """One item of the stage is done."""
        if self._stage is not None:
            self._bars.advance(self._stage)
