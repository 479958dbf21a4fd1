"""The `dpace` command: parses, calls one function, prints."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dpace_serve.command_line import (
    EXIT_BAD_RESULT,
    EXIT_MISTAKE,
    JsonOption,
    log_to_stderr,
    overrides,
)
from dpace_serve.errors import ConfigError, DpaceError
from dpace_serve.live.commands import app as drafter_commands
from dpace_serve.live.verdict_command import verdict
from dpace_serve.one_process import require_one_process
from dpace_serve.result_file import require_writable, write_json
from dpace_serve.serve_command import serve
from dpace_serve.tuning.cli import app as tuning_app

if TYPE_CHECKING:
    from dpace_serve.drafter.finding import Finding

TRAINING_NEEDS = (
    "dpace_training",
    "dpace_training.cli",
    "torch",
    "transformers",
    "safetensors",
)

# Plain text and plain tracebacks: the same on a terminal, in a pipe and in a log.
app = typer.Typer(
    help="Train block-diffusion drafters, serve them inside vLLM, and see what they gain.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def demo(
    json_file: JsonOption = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the servers; a free one when not given."),
    ] = None,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the last server running until Ctrl-C.")
    ] = False,
    prompts_per_workload: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
) -> None:
    """Serve the bundled models and compare their drafters.

    Each arm answers the same held-out prompts, one server after the other. Exits with 1 if
    speculation changed an answer.
    """
    log_to_stderr()
    from rich.console import Console

    from dpace_serve.config import load_config
    from dpace_serve.demo.plan import bundled_models, serve_command
    from dpace_serve.demo.report import print_result, print_serving
    from dpace_serve.demo.result import DemoResult
    from dpace_serve.demo.run import require_engine, run_demo
    from dpace_serve.demo.settings import DemoSettings

    settings = load_config(
        DemoSettings,
        None,
        overrides(
            {
                "port": port,
                "keep_serving": keep_serving,
                "prompts_per_workload": prompts_per_workload,
            }
        ),
    )
    require_writable(json_file)
    require_engine()
    out = Console(highlight=False)

    def show(result: DemoResult, url: str | None) -> None:
        print_result(result, out)
        write_json(json_file, result.to_dict())
        if url is not None:
            print_serving(url, out)

    result = run_demo(
        bundled_models(),
        settings,
        command=serve_command,
        progress_console=Console(stderr=True, highlight=False),
        show=show,
    )
    raise typer.Exit(0 if result.is_lossless else EXIT_BAD_RESULT)


@app.command()
def bench(json_file: JsonOption = None) -> None:
    """Time the bundled models with and without speculation, eager and compiled, batch 1 and 4."""
    from rich.console import Console

    from dpace_serve.demo.plan import bundled_models, serve_command
    from dpace_serve.demo.run import require_engine
    from dpace_serve.demo.speed import SpeedSettings, measure_speed, speed_report
    from dpace_serve.demo.speed_table import speed_table

    require_writable(json_file)
    require_engine()
    rows = measure_speed(
        bundled_models(),
        SpeedSettings(),
        command=serve_command,
        progress_console=Console(stderr=True, highlight=False),
    )
    Console(highlight=False).print(speed_table(rows))
    write_json(json_file, speed_report(rows))


app.command()(serve)
app.add_typer(drafter_commands)
app.command()(verdict)


@app.command()
def doctor(
    target: Annotated[str, typer.Option(help="Folder or hub name of the target model.")],
    drafter: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the drafter.")],
    num_draft_tokens: Annotated[
        int | None, typer.Option(help="Draft tokens per step that the engine is asked for.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="PROMPTS",
            help="Measure too, on the target's answers (needs dpace-serve[train]).",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of --replay, for example dtype or max_documents."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Check that a drafter fits its target.

    Each failed check names its cure. Exits with 1 if one fails.
    """
    require_one_process("doctor", os.environ)
    log_to_stderr()
    require_writable(json_file)
    if settings and replay is None:
        raise ConfigError("--set sets how --replay measures. Add --replay PROMPTS or drop --set.")
    if replay is not None and not _can_train():
        raise ConfigError(
            "--replay runs the models, and what it needs is not installed. "
            "Install it: pip install 'dpace-serve[train]'."
        )
    from dpace_serve.drafter.doctor import examine

    findings = examine(target, drafter, num_draft_tokens)
    if replay is not None:
        findings += _replayed(
            target, drafter, replay, settings or [], is_fit=all(f.ok for f in findings)
        )
    for finding in findings:
        word = "note" if finding.is_note else "ok" if finding.ok else "FAIL"
        typer.echo(f"{word:4}  {finding.check}: {finding.line()}")
    is_good = all(finding.ok for finding in findings)
    write_json(json_file, {"ok": is_good, "findings": [asdict(finding) for finding in findings]})
    raise typer.Exit(0 if is_good else EXIT_BAD_RESULT)


@app.command()
def export(
    drafter: Annotated[Path, typer.Argument(help="Folder of the drafter, in any known layout.")],
    layout: Annotated[
        Literal["zlab", "speculators"],
        typer.Option(
            help="zlab: vLLM, SGLang and this project; speculators: vLLM and speculators."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder of the copy.")],
    target: Annotated[
        Path | None,
        typer.Option(help="Folder of its target; speculators need it, or bring its embedding."),
    ] = None,
) -> None:
    """Copy a drafter into a layout of another tool, or from it into ours."""
    require_one_process("export", os.environ)
    from dpace_serve.drafter.exchange import export as write_copy

    write_copy(drafter, output, layout=layout, target=target)
    typer.echo(f"{output}: drafter in the {layout} layout")


def _replayed(
    target: str, drafter: Path, prompts: Path, settings: Sequence[str], *, is_fit: bool
) -> "list[Finding]":
    from dpace_serve.drafter.finding import Finding

    if not is_fit:
        message = "left out, because a check failed."
        return [Finding("replay", ok=True, message=message, cure="Correct that and look again.")]
    from dpace_training.cli import examine_by_replay

    return examine_by_replay(target, drafter, prompts, settings)


def _can_train() -> bool:
    return all(find_spec(name) is not None for name in TRAINING_NEEDS)


def _mount_training() -> None:
    if _can_train():
        from dpace_training.cli import app as training_app

        app.registered_commands.extend(training_app.registered_commands)


def _mount_loadtest() -> None:
    # It comes with this package; without locust the command says what to install.
    if find_spec("dpace_loadtest") is not None:
        from dpace_loadtest.cli import app as loadtest_app

        app.registered_commands.extend(loadtest_app.registered_commands)


app.registered_commands.extend(tuning_app.registered_commands)
_mount_training()
_mount_loadtest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; a mistake of the user is one line and status 2.

    Args:
        arguments: What follows the command's name; none takes the process's own.
    """
    try:
        app(arguments, prog_name="dpace")
    except DpaceError as error:
        typer.echo(f"dpace: {error}", err=True)
        raise SystemExit(EXIT_MISTAKE) from error


if __name__ == "__main__":
    main()
