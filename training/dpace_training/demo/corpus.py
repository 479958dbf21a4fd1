"""The demo corpus: generated instruction tasks, and the standard library's own text.

Nothing is downloaded and no text is shipped: tasks come from a seeded generator, code and
documentation from the interpreter that runs this.
"""

import hashlib
import pydoc_data.topics
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dpace_training.demo.letters import letters_task
from dpace_training.demo.reckoning import arithmetic_task, dates_task, units_task
from dpace_training.demo.records import csv_task, json_task, sql_task

TASK_FAMILIES: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "json": json_task,
    "csv": csv_task,
    "sql": sql_task,
    "dates": dates_task,
    "units": units_task,
    "arithmetic": arithmetic_task,
    "letters": letters_task,
}
CODE_WORKLOAD = "code"
# One question in twenty is never trained on; so is one source file in twenty.
HELD_OUT_SHARE = 20
SHORTEST_TEXT = 400  # characters
# Tests, bundled installers and large tables are not text that anyone would complete.
EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings", "ensurepip",
     "site-packages", "pydoc_data", "__pycache__", "_pyrepl"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """One question with its only right answer."""

    workload: str
    question: str
    answer: str

    @property
    def is_held_out(self) -> bool:
        """Whether the question belongs to the part that is never trained on."""
        return _is_held_out(self.question)


def tasks(seed: int, *, held_out: bool) -> Iterator[Task]:
    """Yield tasks of every family in turn, without end, from one side of the split."""
    rng = random.Random(f"{seed}-{held_out}")
    while True:
        for workload, make in TASK_FAMILIES.items():
            while True:
                task = Task(workload, *make(rng))
                if task.is_held_out == held_out:
                    break
            yield task


def library_files(*, held_out: bool) -> dict[str, str]:
    """Return the standard library's source files of one side: relative path -> text.

    The text depends on the interpreter's version; `python --version` belongs to any number made
    from it.
    """
    root = Path(sysconfig.get_path("stdlib"))
    relative = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    texts = {
        path.as_posix(): (root / path).read_text(encoding="utf-8", errors="ignore")
        for path in relative
        if not EXCLUDED_FOLDERS.intersection(path.parts)
        and _is_held_out(path.as_posix()) == held_out
    }
    return {path: text for path, text in texts.items() if len(text) > SHORTEST_TEXT}


def library_texts(*, held_out: bool) -> list[str]:
    """Return source files and documentation topics of one side."""
    topics: dict[str, str] = pydoc_data.topics.topics
    documentation = [
        text
        for name, text in sorted(topics.items())
        if len(text) > SHORTEST_TEXT and _is_held_out(name) == held_out
    ]
    return [*library_files(held_out=held_out).values(), *documentation]


def _is_held_out(key: str) -> bool:
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0
