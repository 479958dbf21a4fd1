"""The figures and the table of a study, from a result made by hand."""

import json
from pathlib import Path

import pytest

from dpace_training.demo.tables import TABLES, update_tables
from dpace_training.plots import page as page_module
from dpace_training.plots import png
from dpace_training.study.figures import study_figures
from dpace_training.study.report import study_rows, write_study_figures


def held_out(ratio, seeds, prompts, rates=(0.5, 0.25), tau=2.0):
    return {
        "prompts": 40,
        "tau": tau,
        "tau_low": tau - 0.1,
        "tau_high": tau + 0.1,
        "tau_by_seed": [tau, tau],
        "accepted_per_position": list(rates),
        "ratio": {
            "tau_ratio": ratio,
            "by_seed": [ratio, ratio],
            "across_seeds": list(seeds),
            "across_prompts": list(prompts),
        },
    }


def arm(name, greedy, sampled, curve):
    points = [{"step": step, "tau": tau} for step, tau in curve]
    sets = {"in_domain_greedy": greedy, "sampled": sampled}
    return {"name": name, "objective": f"{name} alpha=0.3", "curve": points, "sets": sets}


BASE = held_out(1.0, (1.0, 1.0), (1.0, 1.0))
RESULT = {
    "target": "target",
    "block_size": 3,
    "baseline": "dpace",
    "seeds": [0, 1],
    "confidence": 0.95,
    "arms": [
        arm(
            "plain",
            held_out(0.8, (0.7, 0.9), (0.78, 0.82), rates=(0.4, None)),
            held_out(0.95, (0.85, 1.06), (0.93, 0.97)),
            [(10, 1.2), (20, 1.6)],
        ),
        arm("dpace", BASE, BASE, [(10, 1.5), (20, 2.0)]),
        arm(
            "kl",
            held_out(1.1, (1.05, 1.15), (0.99, 1.2)),
            held_out(1.2, (None, None), (1.1, 1.3)),
            [(10, 1.6), (20, 2.2)],
        ),
    ],
}


@pytest.fixture(autouse=True)
def small_output(monkeypatch):
    monkeypatch.setattr(png, "DPI", 40)
    monkeypatch.setattr(page_module, "plotly_script", lambda: "/* plotly.js */")


def figures():
    return {figure.name: figure for figure in study_figures(RESULT)}


def test_the_forest_plot_has_both_intervals_of_every_arm_on_every_set():
    figure = figures()["tau-ratio"]
    greedy, sampled = figure.panels
    assert greedy.title == "in_domain_greedy"
    assert greedy.y_names == ("kl", "dpace", "plain")  # by the ratio on the first set
    prompts, seeds, points = greedy.lines
    assert points.x == (1.1, 1.0, 0.8)
    assert points.y == (0, 1, 2)
    assert seeds.x == (1.05, 1.15, None, 1.0, 1.0, None, 0.7, 0.9, None)
    assert seeds.y == (0, 0, None, 1, 1, None, 2, 2, None)
    assert prompts.x[:3] == (0.99, 1.2, None)
    assert sampled.lines[1].x[:3] == (None, None, None)
    assert sampled.lines[2].x == (1.2, 1.0, 0.95)
    assert figure.table.rows[0] == (
        "kl", "in_domain_greedy", "2.000", "1.100", "1.050 to 1.150", "0.990 to 1.200",
    )  # fmt: skip
    assert figure.table.rows[1][4] == "-"


def test_each_curve_stands_beside_the_baseline():
    panels = figures()["tau-by-step"].panels
    assert [panel.title for panel in panels] == ["plain", "kl"]
    baseline, own = panels[1].lines
    assert (baseline.y, baseline.is_dashed) == ((1.5, 2.0), True)
    assert (own.x, own.y) == ((10, 20), (1.6, 2.2))


def test_acceptance_by_position_is_drawn_for_each_set():
    drawn = figures()
    assert {"acceptance-in_domain_greedy", "acceptance-sampled"} <= drawn.keys()
    panel = drawn["acceptance-in_domain_greedy"].panels[0]
    assert panel.lines[0].y == (50.0, 25.0)
    assert (panel.lines[1].x, panel.lines[1].y) == ((1, 2), (40.0, None))


def test_a_study_of_the_baseline_alone_without_evaluations_is_drawn():
    alone = {**RESULT, "arms": [{**RESULT["arms"][1], "curve": []}]}
    names = [figure.name for figure in study_figures(alone)]
    assert names == ["tau-ratio", "acceptance-in_domain_greedy", "acceptance-sampled"]


def test_the_files_lie_in_the_study_and_beside_the_result(tmp_path):
    output = tmp_path / "study"
    output.mkdir()
    page = write_study_figures(RESULT, output, tmp_path / "reproduce.json")
    names = {f"{figure.name}.png" for figure in study_figures(RESULT)}
    assert {path.name for path in (output / "plots").iterdir()} == names
    beside = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert beside == {f"reproduce-{name}" for name in names}
    text = page.read_text()
    assert '<th scope="row">kl</th><td>kl alpha=0.3</td>' in text
    assert "baseline dpace" in text


def test_the_table_is_bold_where_both_intervals_exclude_1():
    assert study_rows(RESULT).splitlines() == [
        "| tau / tau of dpace | in domain greedy | sampled |",
        "|---|---|---|",
        "| kl | 1.100 [1.050, 1.150] | 1.200 |",
        "| dpace | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |",
        "| plain | **0.800** [0.700, 0.900] | 0.950 [0.850, 1.060] |",
        "",
        "Geometric mean over the seeds 0, 1 [95 % over seeds]; bold where this interval and the "
        "one",
        "over prompts both exclude 1. Tau of dpace: in domain greedy 2.00 (40 prompts); sampled "
        "2.00 (40 prompts).",
    ]


def test_the_table_is_put_between_its_marks(tmp_path):
    results = tmp_path / "training/results"
    results.mkdir(parents=True)
    (results / "converged.json").write_text(json.dumps(RESULT))
    for other in TABLES:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("nothing to fill in\n")
    document = tmp_path / "training/README.md"
    marks = "a\n<!-- converged: from training/results -->\n{}\n<!-- /converged -->\nb\n"
    document.write_text(marks.format("old"))
    assert update_tables(Path(tmp_path)) == [document]
    assert document.read_text() == marks.format(study_rows(RESULT))
    assert update_tables(Path(tmp_path)) == []
