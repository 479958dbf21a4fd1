"""Memory of a server with all its processes."""

from collections.abc import Sequence

import psutil


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and everything it started that still runs."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def resident_bytes(processes: Sequence[psutil.Process]) -> int:
    """Resident memory of processes together; pages that they share count for each of them.

    Raises:
        psutil.NoSuchProcess: If one of them has ended.
    """
    return sum(int(process.memory_info().rss) for process in processes)
