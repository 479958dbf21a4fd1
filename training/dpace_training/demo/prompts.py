"""Prompts for the demo drafters: training questions, held-out ones, and those the demo ships."""

import itertools
import json
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpace_training.demo.corpus import (
    CODE_WORKLOAD,
    TASK_FAMILIES,
    Task,
    library_files,
    tasks,
)

PIECE_LINES = (4, 12)


@dataclass(frozen=True, slots=True)
class LibraryPiece:
    """Some lines of a library file, to be continued."""

    library_file: str
    first_line: int
    text: str

    @property
    def num_lines(self) -> int:
        """How many lines the piece has."""
        return self.text.count("\n")


def library_pieces(seed: int, *, held_out: bool) -> Iterator[LibraryPiece]:
    """Yield pieces of library files of one side, without end; a long file is drawn more often."""
    rng = random.Random(f"pieces-{seed}-{held_out}")
    lines = {name: text.split("\n") for name, text in library_files(held_out=held_out).items()}
    names = [name for name, file_lines in lines.items() if len(file_lines) > 2 * PIECE_LINES[1]]
    sizes = [len(lines[name]) for name in names]
    while True:
        (name,) = rng.choices(names, weights=sizes)
        count = rng.randint(*PIECE_LINES)
        first = rng.randrange(len(lines[name]) - 2 * PIECE_LINES[1])
        text = "\n".join(lines[name][first : first + count]) + "\n"
        if len(text.strip()) >= 80:
            yield LibraryPiece(name, first + 1, text)


def write_training_prompts(path: Path, *, seed: int, num_tasks: int, num_pieces: int) -> None:
    """Write questions with their right answers and library pieces, one JSON object per line."""
    chats = itertools.islice(tasks(seed, held_out=False), num_tasks)
    pieces = itertools.islice(library_pieces(seed, held_out=False), num_pieces)
    _write(path, itertools.chain(map(_chat, chats), map(_completion, pieces)))


def write_study_prompts(
    folder: Path, training: Path, *, out_of_domain: Collection[str], seed: int, per_workload: int
) -> None:
    """Write training prompts without some workloads, and held-out ones with and without them.

    Args:
        folder: Gets `conversations`, `in-domain` and `out-of-domain`, all JSONL.
        training: What `write_training_prompts` wrote.
        out_of_domain: Workloads that no drafter of the study is trained on.
        seed: Seed of the held-out prompts.
        per_workload: Held-out prompts of each workload.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held_out = folder / "held-out.jsonl"
    write_held_out_prompts(held_out, seed=seed, per_workload=per_workload)
    for source, name, is_outside in (
        (training, "conversations", False),
        (held_out, "in-domain", False),
        (held_out, "out-of-domain", True),
    ):
        records = map(json.loads, source.read_text(encoding="utf-8").splitlines())
        kept = (r for r in records if (r["workload"] in out_of_domain) == is_outside)
        _write(folder / f"{name}.jsonl", kept)
    held_out.unlink()


def write_held_out_prompts(path: Path, *, seed: int, per_workload: int) -> None:
    """Write held-out questions and pieces, the same number of each workload."""
    _write(path, (_chat(task) for task in held_out_tasks(seed, per_workload=per_workload)))
    pieces = itertools.islice(library_pieces(seed, held_out=True), per_workload)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(_completion(piece)) + "\n" for piece in pieces)


def write_shipped_prompts(path: Path, *, seed: int, per_workload: int) -> None:
    """Write what `dpace demo` sends; library pieces are named by place, so no text is shipped."""
    pieces = itertools.islice(library_pieces(seed, held_out=True), per_workload)
    named = (
        {
            "workload": CODE_WORKLOAD,
            "library_file": piece.library_file,
            "first_line": piece.first_line,
            "num_lines": piece.num_lines,
        }
        for piece in pieces
    )
    chats = map(_chat, held_out_tasks(seed, per_workload=per_workload))
    _write(path, itertools.chain(chats, named))


def held_out_tasks(seed: int, *, per_workload: int) -> list[Task]:
    """Return held-out tasks, the same number of each family, family by family."""
    drawn = list(itertools.islice(tasks(seed, held_out=True), per_workload * len(TASK_FAMILIES)))
    return sorted(drawn, key=lambda task: list(TASK_FAMILIES).index(task.workload))


def _chat(task: Task) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": task.question},
        {"role": "assistant", "content": task.answer},
    ]
    return {"workload": task.workload, "messages": messages}


def _completion(piece: LibraryPiece) -> dict[str, Any]:
    return {"workload": CODE_WORKLOAD, "prompt": piece.text, "completion": ""}


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
