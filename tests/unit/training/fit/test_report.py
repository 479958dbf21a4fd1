"""The figures of a run from its log: what they hold, and that the log alone is enough."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_training import cli
from dpace_training.fit import report
from dpace_training.fit.figures import MAX_POINTS, MAX_ROWS, run_figures
from dpace_training.fit.history import read_history
from dpace_training.fit.report import write_report
from dpace_training.plots import page as page_module
from dpace_training.plots import png

PNGS = {
    "acceptance-by-position.png",
    "loss-and-gradient-norm.png",
    "tau-by-step.png",
    "weight-share-by-position.png",
}


def window(step, loss=2.0, shares=(0.75, 0.25), norm=1.5):
    return {"step": step, "loss": loss, "gradient_norm": norm, "weight_share": list(shares)}


def evaluation(step, tau, rates):
    record = {"tau": tau, "tau_low": tau and tau - 0.1, "tau_high": tau and tau + 0.2}
    return {"step": step, "evaluation": {**record, "accepted_per_position": list(rates)}}


LOG = [
    window(10, loss=8.0, norm=20.0),
    window(20, loss=4.0),
    evaluation(20, 1.5, (0.5, 0.0)),
    window(30, shares=(0.6, 0.4), norm=1.0),
    evaluation(30, 1.75, (0.5, None)),
]


@pytest.fixture(autouse=True)
def small_output(monkeypatch):
    monkeypatch.setattr(png, "DPI", 40)
    monkeypatch.setattr(page_module, "plotly_script", lambda: "/* plotly.js */")


@pytest.fixture
def without_pngs(monkeypatch):
    monkeypatch.setattr(report, "write_pngs", lambda figures, folder, *, prefix: [])


@pytest.fixture
def output(tmp_path):
    def write(records, name="run"):
        folder = tmp_path / name
        folder.mkdir()
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "log.jsonl").write_text(lines, encoding="utf-8")
        return folder

    return write


def figures(folder):
    return {figure.name: figure for figure in run_figures(read_history(folder))}


def test_tau_is_drawn_with_its_interval(output):
    figure = figures(output(LOG))["tau-by-step"]
    (line,) = figure.panels[0].lines
    assert (line.x, line.y) == ((20, 30), (1.5, 1.75))
    assert line.low == pytest.approx((1.4, 1.65))
    assert line.high == pytest.approx((1.7, 1.95))
    assert figure.table.rows == (
        ("20", "1.500", "1.400", "1.700"),
        ("30", "1.750", "1.650", "1.950"),
    )
    assert "1.50 (1.40 to 1.70) after step 20 and 1.75 (1.65 to 1.95) after step 30" in (
        figure.description
    )


def test_the_last_evaluation_stands_out_and_positions_count_from_1(output):
    figure = figures(output(LOG))["acceptance-by-position"]
    first, last = figure.panels[0].lines
    assert (first.x, first.y) == ((1, 2), (50.0, 0.0))
    assert (last.x, last.y) == ((1, 2), (50.0, None))
    assert last.name == "step 30, last"
    assert last.width > first.width
    assert last.has_markers
    assert not first.has_markers
    assert figure.table.rows[1] == ("30", "50.0", "-")


def test_each_position_has_a_line_of_its_share_of_the_weight(output):
    figure = figures(output(LOG))["weight-share-by-position"]
    first, second = figure.panels[0].lines
    assert first.name == "position 1"
    assert first.x == second.x == (10, 20, 30)
    assert first.y == pytest.approx((75, 75, 60))
    assert second.y == pytest.approx((25, 25, 40))


def test_a_curve_that_falls_far_is_drawn_on_a_log_scale(output):
    loss, norm = figures(output(LOG))["loss-and-gradient-norm"].panels
    assert (loss.y_scale, norm.y_scale) == ("linear", "log")  # 8 to 2, and 20 to 1
    assert norm.y_label.endswith(", log scale")
    below_zero = [window(1, loss=30.0), window(2, loss=-1.0)]
    assert figures(output(below_zero, "below"))["loss-and-gradient-norm"].panels[0].y_scale == (
        "linear"
    )


def test_a_long_run_is_thinned_but_keeps_its_ends(output):
    folder = output([window(step, loss=float(step)) for step in range(1, 4001)])
    figure = figures(folder)["loss-and-gradient-norm"]
    line = figure.panels[0].lines[0]
    assert len(line.x) == MAX_POINTS
    assert (line.x[0], line.x[-1], line.y[-1]) == (1, 4000, 4000.0)
    assert len(figure.table.rows) == MAX_ROWS
    assert figure.table.rows[-1][0] == "4000"


def test_a_number_that_does_not_exist_is_a_gap(output, without_pngs):
    folder = output([window(1), window(2, loss=float("nan"), shares=(1.0, float("nan")))])
    assert "NaN" in (folder / "log.jsonl").read_text()
    assert read_history(folder).steps[1].loss is None
    assert figures(folder)["weight-share-by-position"].panels[0].lines[1].y == (25.0, None)
    write_report(folder)


def test_without_evaluations_there_is_no_tau_and_the_page_says_so(output, without_pngs):
    folder = output([window(1), window(2)])
    assert figures(folder).keys() == {"weight-share-by-position", "loss-and-gradient-norm"}
    assert "no evaluation on held-out prompts" in write_report(folder).read_text()


def test_the_log_of_a_cut_run_is_enough(output):
    folder = output(LOG)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 40, "lo')  # cut in the middle of a line
    page = write_report(folder).read_text()
    assert "Not finished: the log ends after step 30." in page
    assert {path.name for path in (folder / "plots").iterdir()} == PNGS
    assert "Configuration" not in page


def test_facts_and_configuration_are_shown_and_escaped(output, without_pngs):
    folder = output(LOG)
    (folder / "train.yaml").write_text("target: '<b>&'\nfit:\n  betas: [0.9, 0.95]\n")
    (folder / "training.json").write_text(json.dumps({"steps": 30, "evaluation": {"tau": 1}}))
    page = write_report(folder).read_text()
    assert "Finished after 30 steps." in page
    assert '<th scope="row">target</th><td>&lt;b&gt;&amp;</td>' in page
    assert '<th scope="row">fit.betas</th><td>[0.9, 0.95]</td>' in page
    assert "evaluation" not in page.partition("<h2>Facts</h2>")[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no finished line"),
        ('{"step": 1', "holds no finished line"),
        ("[]\n", "line 1 is no line of a training log"),
        ('{"step": 1, "tau": 2}\n', "line 1 is no line of a training log"),
        (json.dumps(window(1)) + "\nnot json\n", "line 2 is no line of a training log"),
    ],
)
def test_a_folder_without_a_training_log_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=said):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_commands_write_the_report_and_write_it_again(
    target_folder, write_jsonl, tmp_path, monkeypatch
):
    monkeypatch.setattr(cli, "_log_to_stderr", lambda: None)
    chats = [{"messages": [{"role": "user", "content": f"say {i}"}]} for i in range(6)]
    values = {
        "target": str(target_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 12},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {
            "epochs": 1,
            "batch_size": 4,
            "num_anchors": 4,
            "log_every": 1,
            "trackers": ["tensorboard"],
        },
        "evaluation": {
            "conversations": str(write_jsonl("held.jsonl", [{"prompt": "abc"}] * 2)),
            "max_new_tokens": 12,
        },
    }
    (tmp_path / "run.yaml").write_text(json.dumps(values))  # JSON is YAML
    trained = CliRunner().invoke(cli.app, ["train", str(tmp_path / "run.yaml")])
    assert trained.exit_code == 0, trained.output
    folder = tmp_path / "drafter"
    page = folder / "report.html"
    assert str(page) in trained.output
    assert "Finished after 2 steps." in page.read_text()
    assert {path.name for path in (folder / "plots").iterdir()} == PNGS
    checkpoint.validate(folder)  # the report does not spoil the drafter's folder
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (record["step"], pytest.approx(record["loss"])) for record in log if "loss" in record
    ]
    before = page.read_bytes()
    page.unlink()
    again = CliRunner().invoke(cli.app, ["report", str(folder)])
    assert again.exit_code == 0, again.output
    assert page.read_bytes() == before
