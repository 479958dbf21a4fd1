"""A progress bar for what takes longer than two seconds; short work stays silent."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SILENT_SECONDS = 2.0
# One console for bars and log lines, so that a line never lands inside a bar.
STDERR = Console(stderr=True)

Advance = Callable[[int, str], None]
"""Call with the number of finished items and a short note that stands behind the bar."""


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Advance]:
    """Show a bar on stderr once the work has lasted two seconds.

    Args:
        description: What is being done.
        total: Number of items.

    Yields:
        A function that reports finished items.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=STDERR,
    )
    task = bar.add_task(description, total=total, note="")
    started = time.monotonic()
    is_shown = False

    def advance(finished: int, note: str) -> None:
        nonlocal is_shown
        bar.update(task, advance=finished, note=note)
        if not is_shown and time.monotonic() - started > SILENT_SECONDS:
            bar.start()
            is_shown = True

    try:
        yield advance
    finally:
        if is_shown:
            bar.stop()
