import io
import json

import pytest
from rich.console import Console

from dpace_serve.acceptance.moments import PairedRatio
from dpace_serve.demo.figures import ArmFigures, DraftingFigures, PairedFigures, TauEstimate
from dpace_serve.demo.machine import Machine
from dpace_serve.demo.report import print_result, print_serving
from dpace_serve.demo.result import DemoResult, Example

NAN = float("nan")


def drafting(tau):
    estimate = TauEstimate(tau, tau - 0.125, tau + 0.125, 1234)
    return DraftingFigures(
        overall=estimate,
        by_workload={
            "arithmetic": estimate,
            "code": TauEstimate(tau=1.5, low=NAN, high=NAN, steps=7),
        },
        accepted_per_position=(0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.0, NAN),
    )


def result(*, num_identical=48, compared="tokens"):
    return DemoResult(
        target="dpace-demo",
        block_size=9,
        temperature=0.0,
        arms=(
            ArmFigures("none", 1071.25, 1.0, 48, None),
            ArmFigures("dflash", 1213.5, 1.1328, 48, drafting(2.25)),
            ArmFigures("dpace", 1400.0, 1.3069, num_identical, drafting(2.5)),
        ),
        paired=(PairedFigures("dpace", "dflash", PairedRatio(1.111, 1.05, 1.17)),),
        num_prompts=48,
        num_right=41,
        num_checked=42,
        compared=compared,
        confidence=0.95,
        machine=Machine("Some Very Long Processor Name(R) CPU @ 2.00GHz", 2, "3.11.2"),
        examples=(
            Example("json", "Write this as JSON: [name] Ann", '{"name": "Ann", "ä": 1}'),
            Example("code", "import os\n" * 9 + "def main():", "\n    return 0\n" * 9),
        ),
    )


def rendered(shown, *, encoding="utf-8"):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    print_result(shown, Console(file=stream, highlight=False, width=80))
    stream.flush()
    return buffer.getvalue().decode(encoding)


def test_a_report_in_a_pipe_is_plain_text_within_80_columns():
    text = rendered(result())
    assert "\x1b" not in text
    assert max(len(line.rstrip("\n")) for line in text.splitlines()) <= 80


def test_each_arm_is_one_row_with_all_its_figures():
    rows = [" ".join(line.split()) for line in rendered(result()).splitlines()]
    assert "none - 1071.2 1.00 x (reference)" in rows
    assert "dflash 2.25 [2.12, 2.38] 1213.5 1.13 x yes, 48/48" in rows
    assert "dpace 2.50 [2.38, 2.62] 1400.0 1.31 x yes, 48/48" in rows
    assert "arithmetic 2.25 [2.12, 2.38] 2.50 [2.38, 2.62]" in rows
    assert "code 1.50 1.50" in rows
    assert "dpace against dflash, paired by prompt: tau times 1.111 [1.050, 1.170]" in rows
    assert "Right answers: 41 of 42 that have one." in rows


def test_bars_are_as_long_as_their_rates():
    text = rendered(result())
    half = next(line for line in text.splitlines() if line.startswith(" 3 "))
    assert half.split() == ["3", "█" * 10, "0.50"] * 2
    assert "never drafted" in text


def test_a_stream_that_cannot_write_blocks_gets_plain_signs():
    text = rendered(result(), encoding="ascii")
    assert "##########" in text
    assert r"\xe4" in text


def test_the_machine_and_the_conditions_are_named():
    text = " ".join(rendered(result()).split())
    assert "Some Very Long Processor Name(R) CPU @ 2.00GHz, 2 cores, Python 3.11.2" in text
    assert "48 held-out prompts, one at a time, greedy, block size 9" in text


def test_brackets_in_prompts_are_shown_as_they_are():
    assert "Q Write this as JSON: [name] Ann" in rendered(result())


def test_long_examples_keep_the_end_of_a_prompt_and_the_beginning_of_an_answer():
    text = rendered(result())
    end = "  Q ...\n    import os\n    import os\n    def main():\n"
    assert end in "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_a_changed_answer_is_said_in_words():
    text = rendered(result(num_identical=47))
    assert "NO, 47/48" in text
    assert "NOT LOSSLESS" in text
    assert result(num_identical=47).to_dict()["lossless"] is False


def test_a_comparison_of_text_is_not_called_one_of_tokens():
    text = rendered(result(compared="text"))
    assert "identical text" in text
    assert "no letter of any answer" in text


def test_the_json_form_keeps_the_contract_and_has_no_nan():
    values = json.loads(json.dumps(result().to_dict(), allow_nan=False))
    assert values["target"] == "dpace-demo"
    assert values["block_size"] == 9
    assert values["temperature"] == 0.0
    assert values["lossless"] is True
    assert values["arms"][0] == {"name": "none", "tokens_per_second": 1071.25}
    assert values["arms"][1]["accepted_per_position"] == [
        0.9,
        0.75,
        0.5,
        0.25,
        0.1,
        0.05,
        0.0,
        None,
    ]
    assert {
        key: values["arms"][1][key]
        for key in ("name", "tau", "tau_low", "tau_high", "tokens_per_second", "speedup", "steps")
    } == {
        "name": "dflash",
        "tau": 2.25,
        "tau_low": 2.125,
        "tau_high": 2.375,
        "tokens_per_second": 1213.5,
        "speedup": 1.1328,
        "steps": 1234,
    }
    assert values["paired"] == [
        {"a": "dpace", "b": "dflash", "tau_ratio": 1.111, "low": 1.05, "high": 1.17}
    ]


@pytest.mark.parametrize("width", [80, 40])
def test_the_curl_line_can_be_copied_whole(width):
    stream = io.StringIO()
    print_serving("http://127.0.0.1:8000", Console(file=stream, highlight=False, width=width))
    curl = next(line for line in stream.getvalue().splitlines() if line.startswith("curl"))
    assert json.loads(curl.partition("-d '")[2].rstrip("'"))["model"] == "dpace-demo"
