"""The tables of live drafters fit a terminal and keep every row."""

import io

import pytest
from rich.console import Console

from dpace_serve.acceptance.moments import PairedRatio
from dpace_serve.demo.chunk_gaps import GapFigures
from dpace_serve.demo.live_table import cost_table, rates_table, swap_table, truth_table
from dpace_serve.demo.swap_figures import Spread, SwapFigures
from dpace_serve.demo.truth_figures import ArmFigures, TruthFigures

WIDTH = 80
GAPS = GapFigures(12345, p50_ms=31.4, p99_ms=1234.5, longest_ms=2345.6)
SPREAD = Spread(1.7, 0.1, 12.3456)
SWAPS = SwapFigures(
    num_swaps=200,
    num_requests=7000,
    num_failed=0,
    num_different=3,
    num_control_requests=600,
    num_control_different=1,
    num_busy=4,
    resident_before_bytes=2_000_000_000,
    resident_after_bytes=2_030_000_000,
    resident_growth_bytes_per_swap=15e4,
    total_seconds=SPREAD,
    load_seconds=Spread(0.035, 0.01, 0.5),
    wait_seconds=SPREAD,
    check_seconds=Spread(0.012, 0.01, 0.02),
    gaps_loading=GAPS,
    gaps_as_long=GapFigures(0, None, None, None),
    gaps_otherwise=GAPS,
    gaps_control=GAPS,
    client_cpu_share=0.03,
    client_lateness_p99_ms=63.0,
    seconds=600.0,
)
ARM = ArmFigures(1000, 2.63, 2.31, 2.95, (0.53, 0.35, 0.26, 0.19, 0.13, 0.11, 0.08))
TRUTH = TruthFigures("dflash", "dpace", 1.0, 128, 0, 0, ARM, ARM, PairedRatio(0.988, 0.972, 1.005))
COST = {
    "batch_size": 16, "shadow_share": 0.5, "num_steps": 99, "plain_ms": 101.23,
    "shadowed_ms": 110.9, "ratio": 1.1, "ratio_low": 0.9, "ratio_high": 1.3, "cpu_ratio": 1.08,
    "cpu_ratio_low": 1.04, "cpu_ratio_high": 1.12,
}  # fmt: skip


def printed(table):
    out = io.StringIO()
    Console(file=out, width=WIDTH).print(table)
    return out.getvalue()


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        (
            swap_table(SWAPS),
            ["1 of 600", "2000 MB, at the end 2030 MB (+1.5%)", "0.035 s, at most 0.500 s"],
        ),
        (swap_table(SWAPS), ["p50 31, p99 1234, longest 2346 ms (12345)", "none", "3% of"]),
        (cost_table([COST]), ["50%", "101.2", "1.10 [0.90, 1.30]", "1.08 [1.04, 1.12]"]),
        (truth_table([TRUTH]), ["dflash", "2.63 ± 0.32", "0.988 [0.972, 1.005]"]),
        (rates_table([TRUTH]), ["shadow", "alone", "53.0", "8.0"]),
    ],
)
def test_a_table_shows_its_figures_within_80_columns(table, shown):
    text = printed(table)
    assert all(figure in text for figure in shown), text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
