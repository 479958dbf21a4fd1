"""A tuning result as people and machines read it."""

import io
import json
import re

import pytest
from rich.console import Console

from dpace_serve.acceptance.cost import length_ranges
from dpace_serve.tuning.measure import PromptOrder, measure_lengths
from dpace_serve.tuning.report import print_result
from dpace_serve.tuning.result import TuneResult, measured_points, tune_rows
from dpace_serve.tuning.verify import VerifiedBatch
from dpace_serve.vllm_engine.block_schedule import BlockSchedule, TunedMachine

SLOW = VerifiedBatch(16, 90.0, {0: 100.0, 3: 80.0}, 0, 0.90, 0.85, 0.97)
FAST = VerifiedBatch(1, 140.0, {0: 70.0, 3: 139.0}, 3, 1.01, 0.98, 1.03)


@pytest.fixture
def result(engine, config):
    def make(verified=(), ranges=None, max_num_seqs=16):
        measured = measure_lengths(
            engine, (0, 3, 7), (1, 4, 16), PromptOrder(10, seed=0), config, lambda: None
        )
        schedule = BlockSchedule(
            format=1,
            target="t",
            drafter="d",
            revision="r",
            num_draft_tokens=7,
            machine=TunedMachine(device="cpu", cpu="a CPU", num_cores=2, engine="vllm 0.32.0"),
            schedule=ranges or length_ranges(measured, max_tie_loss=0.0),
            measured=measured_points(measured),
        )
        return TuneResult(
            schedule=schedule,
            rows=tune_rows(measured, schedule, confidence=0.95),
            max_num_seqs=max_num_seqs,
            confidence=0.95,
            verified=tuple(verified),
            min_verified_ratio=0.95,
        )

    return make


def printed(result):
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_result(result, console)
    return console.file.getvalue()


def test_each_length_stands_against_the_break_even_line_of_the_one_before(result):
    rows = {(row.batch_size, row.num_draft_tokens): row for row in result().rows}
    assert len(rows) == 9
    assert rows[1, 0].added_tokens is None
    # Steps of 11 and 14 ms, tau 1 and 2.5; then 14 and 18 ms, 2.5 and 3.
    assert rows[1, 3].added_tokens == pytest.approx(1.5)
    assert rows[1, 3].break_even_tokens == pytest.approx(3 / 11)
    assert rows[1, 7].added_tokens == pytest.approx(0.5)
    assert rows[1, 7].break_even_tokens == pytest.approx(2.5 * 4 / 14)
    assert [key for key, row in rows.items() if row.is_chosen] == [(1, 3), (4, 3), (16, 0)]


def test_the_tables_fit_80_columns_and_name_every_range(result):
    text = printed(result(verified=[FAST, SLOW]))
    assert max(map(len, text.splitlines())) <= 80
    assert "batch 1 to 9: 3 draft tokens" in text
    assert "batch 10 to 16: no drafts; the drafter idles" in text
    assert text.count("<-") == 3
    assert "0.90 [0.85, 0.97]" in text
    # No cell is broken into two lines.
    assert re.search(r"16 +7 +138\.0 \[138\.0, 138\.0\] +348 +0\.50 / 2\.16 *\n", text)
    assert re.search(r"7 +3\.00 \[3\.00, 3\.00\] *\n", text)


def test_what_was_not_measured_is_said(result):
    assert "not measured" not in printed(result())
    assert "batch 17 to 256: not measured, no drafts" in printed(result(max_num_seqs=256))


def test_a_drafter_that_never_pays_is_said(result):
    assert "Serve without --drafter" in printed(result(ranges=((1, 16, 0),)))
    assert "Serve without --drafter" not in printed(result())


def test_one_slow_batch_size_fails_the_verification(result):
    assert result(verified=[FAST]).is_verified
    assert not result(verified=[FAST, SLOW]).is_verified
    assert "at least 0.95 of the best: NO" in printed(result(verified=[FAST, SLOW]))


def test_the_json_form_has_the_schedule_and_all_that_it_follows_from(result):
    values = json.loads(json.dumps(result(verified=[SLOW]).to_dict(), allow_nan=False))
    assert values["schedule"] == [[1, 9, 3], [10, 16, 0]]
    assert values["measured"][1]["break_even_tokens"] == pytest.approx(3 / 11)
    assert values["verified"][0]["fixed"] == {"0": 100.0, "3": 80.0}
