"""A demo's result for people: tables and bars that fit 80 columns, with or without colour."""

import itertools
import json
import math
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpace_serve.demo.figures import ArmFigures, DraftingFigures, TauEstimate
from dpace_serve.demo.plan import TARGET_NAME
from dpace_serve.demo.result import DemoResult, Example

BAR_WIDTH = 20
EXAMPLE_LINES = 4
EXAMPLE_WIDTH = 70


def print_result(result: DemoResult, console: Console) -> None:
    """Print tables, bars and examples; meaning never depends on colour."""
    percent = f"{result.confidence:.0%}"
    drafters = [(arm.name, arm.drafting) for arm in result.arms if arm.drafting is not None]
    sections: list[tuple[str, RenderableType]] = [
        (f"tau = tokens per verification step, {percent} interval", _arm_table(result)),
        ("Accepted at each draft position, share of the steps", _bars(drafters, console)),
        (f"tau by workload, {percent} interval", _workload_table(drafters)),
        ("Held-out prompts and the target's answers", _examples(result.examples, console)),
    ]
    console.print(_headline(result))
    for title, body in sections:
        console.print()
        console.print(Text(title, style="bold"))
        console.print(body)
    console.print()
    for line in _conclusions(result):
        console.print(line)


def _headline(result: DemoResult) -> Text:
    cores = "1 core" if result.machine.num_cores == 1 else f"{result.machine.num_cores} cores"
    return Text(
        f"{result.target}: {result.num_prompts} held-out prompts, one at a time, greedy, "
        f"block size {result.block_size}\n"
        f"on {result.machine.cpu}, {cores}, Python {result.machine.python}"
    )


def _arm_table(result: DemoResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm")
    for heading in ("tau", "tokens/s", "speed-up"):
        table.add_column(heading, justify="right")
    table.add_column(f"identical {result.compared}", justify="right")
    for position, arm in enumerate(result.arms):
        is_reference = position == 0
        table.add_row(
            arm.name,
            _tau(arm.drafting.overall) if arm.drafting else "-",
            f"{arm.tokens_per_second:.1f}",
            f"{arm.speedup:.2f} x",
            "(reference)" if is_reference else _identical(arm, result.num_prompts),
        )
    return table


def _identical(arm: ArmFigures, num_prompts: int) -> str:
    word = "yes" if arm.num_identical == num_prompts else "NO"
    return f"{word}, {arm.num_identical}/{num_prompts}"


def _bars(drafters: Sequence[tuple[str, DraftingFigures]], console: Console) -> Table:
    mark = "#" if console.options.ascii_only else "█"
    grid = Table.grid(padding=(0, 3))
    for _ in drafters:
        grid.add_column(no_wrap=True)
    grid.add_row(*(Text(name) for name, _ in drafters))
    rates = [drafting.accepted_per_position for _, drafting in drafters]
    for position, row in enumerate(itertools.zip_longest(*rates, fillvalue=math.nan), start=1):
        grid.add_row(*(_bar(position, rate, mark) for rate in row))
    return grid


def _bar(position: int, rate: float, mark: str) -> Text:
    if math.isnan(rate):
        return Text(f"{position:2d} {'':{BAR_WIDTH}} never drafted")
    return Text(f"{position:2d} {mark * round(rate * BAR_WIDTH):{BAR_WIDTH}} {rate:.2f}")


def _workload_table(drafters: Sequence[tuple[str, DraftingFigures]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("workload")
    for name, _ in drafters:
        table.add_column(name, justify="right")
    workloads = dict.fromkeys(name for _, drafting in drafters for name in drafting.by_workload)
    for workload in workloads:
        estimates = [drafting.by_workload.get(workload) for _, drafting in drafters]
        table.add_row(workload, *(_tau(part) if part else "-" for part in estimates))
    return table


def _tau(estimate: TauEstimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.tau:.2f}"
    return f"{estimate.tau:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _examples(examples: Sequence[Example], console: Console) -> RenderableType:
    lines = []
    for example in examples:
        question, answer = _wrapped(example.question), _wrapped(example.answer)
        # A text to continue is understood by its end, an answer by its beginning.
        if len(question) > EXAMPLE_LINES:
            question = ["...", *question[1 - EXAMPLE_LINES :]]
        if len(answer) > EXAMPLE_LINES:
            answer = [*answer[: EXAMPLE_LINES - 1], "..."]
        lines.append(Text(f"[{example.workload}]", style="bold"))
        lines += _labelled("Q", question, console) + _labelled("A", answer, console)
    return Group(*lines)


def _wrapped(text: str) -> list[str]:
    return [
        part
        for line in text.strip("\n").splitlines()
        for part in textwrap.wrap(line, EXAMPLE_WIDTH, replace_whitespace=False) or [""]
    ]


def _labelled(label: str, lines: Sequence[str], console: Console) -> list[Text]:
    return [
        Text(f"  {label if index == 0 else ' '} {_writable(line, console)}")
        for index, line in enumerate(lines)
    ]


def _writable(line: str, console: Console) -> str:
    if console.options.ascii_only:
        return line.encode("ascii", "backslashreplace").decode("ascii")
    return line


def _conclusions(result: DemoResult) -> list[str]:
    lines = []
    for pair in result.paired:
        lines.append(
            f"{pair.a} against {pair.b}, paired by prompt: tau times {pair.ratio.ratio:.3f} "
            rf"\[{pair.ratio.low:.3f}, {pair.ratio.high:.3f}]"
        )
    if result.num_checked:
        lines.append(f"Right answers: {result.num_right} of {result.num_checked} that have one.")
    if result.is_lossless:
        lines.append(f"Lossless: speculation changed no {_one(result.compared)} of any answer.")
    else:
        lines.append("NOT LOSSLESS: speculation changed answers; see the last column above.")
    return lines


def _one(compared: str) -> str:
    return "token" if compared == "tokens" else "letter"


def print_serving(url: str, console: Console) -> None:
    """Say where the server that is still running can be tried."""
    request = json.dumps(
        {"model": TARGET_NAME, "messages": [{"role": "user", "content": "Spell the word harbour."}]}
    )
    console.print()
    console.print(f"Still serving at {url} until Ctrl-C. Try:", soft_wrap=True)
    console.print(
        Text(
            f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{request}'\n"
            f"curl {url}/dpace/acceptance"
        ),
        soft_wrap=True,
    )
