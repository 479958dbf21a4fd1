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
    console.print(_taus(result.rows, f"{result.confidence:.0%}"))
    console.print(_costs(result.rows))
    console.print("adds / needs: tokens per step over the next shorter draft, and to break even")
    for line in _conclusions(result):
        console.print(line)
    if result.verified:
        console.print(_verified(result.verified))
        verdict = "yes" if result.is_verified else "NO"
        console.print(f"schedule at least {result.min_verified_ratio:.2f} of the best: {verdict}")


def _taus(rows: Sequence[TuneRow], percent: str) -> Table:
    """One row for each length: tau does not depend on the batch size."""
    table = _table("draft tokens", f"tau \\[{percent}]")
    for row in rows:
        if row.batch_size == rows[0].batch_size:
            table.add_row(
                str(row.num_draft_tokens),
                f"{row.tau:.2f} \\[{row.tau_low:.2f}, {row.tau_high:.2f}]",
            )
    return table


def _costs(rows: Sequence[TuneRow]) -> Table:
    table = _table("batch", "draft tokens", "step ms \\[range]", "tokens/s", "adds / needs", "best")
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(
            str(row.batch_size),
            str(row.num_draft_tokens),
            f"{row.step_ms:.1f} \\[{row.step_ms_low:.1f}, {row.step_ms_high:.1f}]",
            f"{row.tokens_per_second:.0f}",
            "-" if row.added_tokens is None else _against_line(row),
            "<-" if row.is_chosen else "",
            end_section=after is not None and after.batch_size != row.batch_size,
        )
    return table


def _against_line(row: TuneRow) -> str:
    return f"{row.added_tokens:.2f} / {row.break_even_tokens:.2f}"


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
    table = _table("batch", "schedule tokens/s", "best fixed", "tokens/s", "ratio \\[range]")
    for batch in batches:
        table.add_row(
            str(batch.batch_size),
            f"{batch.tokens_per_second:.0f}",
            str(batch.best_fixed),
            f"{batch.fixed[batch.best_fixed]:.0f}",
            f"{batch.ratio:.2f} \\[{batch.low:.2f}, {batch.high:.2f}]",
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
