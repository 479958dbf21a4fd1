"""The training commands of `dpace`: parse, call one function, print."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from dpace_serve.config import load_config
from dpace_serve.drafter.finding import Finding
from dpace_serve.one_process import require_one_process
from dpace_serve.result_file import require_writable, write_json
from dpace_training.config import TrainConfig
from dpace_training.progress import STDERR

app = typer.Typer(no_args_is_help=True)

DOCTOR_PROMPTS = 32

ConfigFile = Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that replace the file's.", metavar="[KEY=VALUE]..."),
]


@app.command()
def prepare(config: ConfigFile, overrides: Overrides = None) -> None:
    """Let the target answer the prompts and read its hidden states, before `dpace train`."""
    require_one_process("prepare", os.environ)
    from dpace_training.data.prepare import prepare as run
    from dpace_training.device import available_device

    _log_to_stderr()
    data = run(load_config(TrainConfig, config, overrides or []), available_device())
    typer.echo(
        f"{len(data.documents)} documents with {data.num_trained_tokens} tokens to train on, "
        f"about {100 * data.agreement:.2f} % of them the target's first choice; "
        f"{len(data.held_out)} held-out prompts"
    )


@app.command()
def train(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train a drafter; the same command goes on where a run was cut."""
    from dpace_training.fit.report import write_report
    from dpace_training.fit.run import train as run

    _log_to_stderr()
    settings = load_config(TrainConfig, config, overrides or [])
    facts = run(settings)
    if facts is None:
        return  # another process of this run says it
    page = write_report(settings.output)
    evaluation = facts["evaluation"]
    tau = f", held-out tau {evaluation['tau']:.3f}" if evaluation else ""
    typer.echo(f"{settings.output}: drafter after {facts['steps']} steps{tau}; {page}")


@app.command()
def report(
    output: Annotated[Path, typer.Argument(help="Output folder of `dpace train`.")],
) -> None:
    """Draw a run's figures again from its log, also of a run that was cut or still goes on."""
    require_one_process("report", os.environ)
    from dpace_training.fit.report import write_report

    typer.echo(str(write_report(output)))


@app.command()
def study(
    config: ConfigFile,
    overrides: Overrides = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the result here, and its figures beside it."),
    ] = None,
) -> None:
    """Train the same drafter under several objectives and seeds, and compare them."""
    require_one_process("study", os.environ)
    from dpace_training.device import available_device
    from dpace_training.study.config import StudyConfig
    from dpace_training.study.report import study_table, write_study_figures
    from dpace_training.study.run import run_study

    _log_to_stderr()
    require_writable(json_file)
    settings = load_config(StudyConfig, config, overrides or [])
    result = run_study(settings, available_device())
    for held_out in settings.held_out:
        Console().print(study_table(result, held_out))
    write_json(json_file, result)
    typer.echo(str(write_study_figures(result, settings.base.output, json_file)))


def examine_by_replay(
    target: str, drafter: Path, prompts: Path, settings: Sequence[str]
) -> list[Finding]:
    """`dpace doctor --replay`; arguments as in `dpace_training.evaluation.doctor`.

    Args:
        target: Folder or hub name of the target.
        drafter: Folder of the drafter.
        prompts: File, folder or dataset of prompts.
        settings: KEY=VALUE of `ComparisonConfig`.

    Raises:
        ConfigError: If a setting is wrong.
    """
    from dpace_training.device import available_device
    from dpace_training.evaluation.config import ComparisonConfig
    from dpace_training.evaluation.doctor import examine_by_replay as examine

    config = load_config(
        ComparisonConfig,
        None,
        _replay_overrides(prompts, [f"max_documents={DOCTOR_PROMPTS}", *settings]),
    )
    return examine(target, drafter, config, device=available_device())


@app.command(name="eval")
def evaluate(
    target: Annotated[Path, typer.Option(help="Folder of the target.")],
    drafter: Annotated[list[Path], typer.Option(help="Folder of a drafter; repeatable.")],
    prompts: Annotated[Path, typer.Option(help="File, folder or dataset of prompts.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result here too.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the target's answers here for the next time."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep answers and hidden states here, for more drafters."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE, for example max_new_tokens, temperature or dtype."),
    ] = None,
) -> None:
    """Measure acceptance of drafters on the same answers of the target, without a server."""
    require_one_process("eval", os.environ)
    from dpace_training.device import available_device
    from dpace_training.evaluation.compare import compare_drafters
    from dpace_training.evaluation.config import ComparisonConfig
    from dpace_training.evaluation.report import evaluation_table

    _log_to_stderr()
    require_writable(json_file)
    config = load_config(ComparisonConfig, None, _replay_overrides(prompts, settings or []))
    result = compare_drafters(
        target, drafter, config, device=available_device(), answers=answers, store=store
    )
    Console().print(evaluation_table(result))
    write_json(json_file, result)


def _replay_overrides(prompts: Path, settings: Sequence[str]) -> list[str]:
    return [*settings, f"conversations={json.dumps(str(prompts))}"]


def _log_to_stderr() -> None:
    handler = RichHandler(console=STDERR, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("dpace_training").setLevel(logging.INFO)
