"""A speed measurement for people: one row per mode, batch size and arm."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from dpace_serve.demo.speed import SpeedRow


def speed_table(rows: Sequence[SpeedRow]) -> Table:
    """The rows as a table that fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("mode")
    table.add_column("batch", justify="right")
    table.add_column("arm")
    for heading in ("tokens/s", "speed-up [range]", "tau", "speed-up/tau"):
        table.add_column(heading, justify="right")
    for row in rows:
        share = row.speedup_over_tau
        table.add_row(
            row.mode,
            str(row.batch_size),
            row.arm,
            f"{row.tokens_per_second:.0f}",
            f"{row.speedup:.2f} \\[{row.speedup_low:.2f}, {row.speedup_high:.2f}]",
            "-" if row.tau is None else f"{row.tau:.2f}",
            "-" if share is None else f"{share:.2f}",
        )
    return table
