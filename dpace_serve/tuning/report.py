"""A tuning result for people: tables that fit 80 columns, with or without colour."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from dpace_serve.tuning.result import TuneResult, TuneRow
from dpace_serve.tuning.verify import VerifiedBatch


def print_result(result: TuneResult, console: Console) -> None:
    """Print what was measured, what follows from it, and how it did in the run."""
    machine = result.schedule.machine
    cores = "1 core" if machine.num_cores == 1 else f"{machine.num_cores} cores"
    console.print(f"{machine.engine} on {machine.device}; {machine.cpu}, {cores}")
    console.print(_measured(result.rows, f"{result.confidence:.0%}"))
    for line in _conclusions(result):
        console.print(line)
    if result.verified:
        console.print(_verified(result.verified))
        verdict = "yes" if result.is_verified else "NO"
        console.print(f"schedule at least {result.min_verified_ratio:.2f} of the best: {verdict}")


def _measured(rows: Sequence[TuneRow], percent: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    headings = (
        "batch", "drafts", "step ms [range]", f"tau [{percent}]", "tokens/s", "adds / needs",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading.replace("[", "\\["), justify="right")
    table.add_column("best")
    for row in rows:
        table.add_row(
            str(row.batch_size),
            str(row.num_draft_tokens),
            f"{row.step_ms:.1f} \\[{row.step_ms_low:.1f}, {row.step_ms_high:.1f}]",
            f"{row.tau:.2f} \\[{row.tau_low:.2f}, {row.tau_high:.2f}]",
            f"{row.tokens_per_second:.0f}",
            "-" if row.added_tokens is None else _against_line(row),
            "<-" if row.is_chosen else "",
            end_section=row is rows[-1] or _is_last_of_batch(row, rows),
        )
    return table


def _against_line(row: TuneRow) -> str:
    return f"{row.added_tokens:.2f} / {row.break_even_tokens:.2f}"


def _is_last_of_batch(row: TuneRow, rows: Sequence[TuneRow]) -> bool:
    return rows[rows.index(row) + 1].batch_size != row.batch_size


def _conclusions(result: TuneResult) -> Iterator[str]:
    ranges = result.schedule.schedule
    for first, last, num_draft_tokens in ranges:
        sizes = f"batch {first}" if first == last else f"batch {first} to {last}"
        yield f"{sizes}: {_drafts(num_draft_tokens)}"
    _, largest, length = ranges[-1]
    if largest < result.max_num_seqs:
        yield (
            f"batch {largest + 1} to {result.max_num_seqs}: not measured, "
            f"{_drafts(length)} as before"
        )
    if all(length == 0 for _, _, length in ranges):
        yield "No draft length pays here. Serve without --drafter, which is faster still."


def _drafts(num_draft_tokens: int) -> str:
    if num_draft_tokens == 0:
        return "no drafts; the drafter idles, ready for smaller batches"
    return "1 draft token" if num_draft_tokens == 1 else f"{num_draft_tokens} draft tokens"


def _verified(batches: Sequence[VerifiedBatch]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("batch", "schedule tokens/s", "best fixed", "tokens/s", "ratio \\[range]"):
        table.add_column(heading, justify="right")
    for batch in batches:
        table.add_row(
            str(batch.batch_size),
            f"{batch.tokens_per_second:.0f}",
            str(batch.best_fixed),
            f"{batch.fixed[batch.best_fixed]:.0f}",
            f"{batch.ratio:.2f} \\[{batch.low:.2f}, {batch.high:.2f}]",
        )
    return table
