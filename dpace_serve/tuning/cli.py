"""The command `dpace tune`: parses, calls one function, prints."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dpace_serve.command_line import EXIT_BAD_RESULT, JsonOption, log_to_stderr, overrides
from dpace_serve.one_process import require_one_process
from dpace_serve.result_file import require_writable, write_json

app = typer.Typer(no_args_is_help=True)


@app.command()
def tune(  # noqa: PLR0913, PLR0917  (one for each option)
    target: Annotated[str, typer.Argument(help="Folder or hub name of the target model.")],
    drafter: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the drafter.")],
    prompts: Annotated[
        Path, typer.Option(metavar="FILE", help="JSONL file of prompts like those to be served.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Schedule for `dpace serve`.")],
    engine_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ENGINE_ARGS]", help="As for `dpace serve`."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the schedule against every fixed length too.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other setting; serve.KEY is one of the server."
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure draft lengths by batch size and write the schedule for `dpace serve`.

    Each line of --prompts is {"messages": [...]}, an OpenAI chat of any length, whose answers after
    the last message of the user are left away, or {"prompt": "..."}, a text to continue. Other keys
    are not read.

    Exits with 1 if --verify finds it slower than a fixed length by more than 5 %.
    """
    require_one_process("tune", os.environ)
    log_to_stderr()
    from rich.console import Console

    from dpace_serve.config import load_config
    from dpace_serve.tuning.config import TuneConfig
    from dpace_serve.tuning.report import print_result
    from dpace_serve.tuning.run import tune as run
    from dpace_serve.vllm_engine.block_schedule import write_schedule

    given = {
        "serve.target": target,
        "serve.drafter": str(drafter),
        "serve.engine_args": engine_args or None,
        "prompts": str(prompts),
    }
    config = load_config(TuneConfig, None, [*(settings or []), *overrides(given)])
    for path in (output, json_file):
        require_writable(path)
    result = run(
        config,
        with_verification=verify,
        progress_console=Console(stderr=True, highlight=False),
    )
    write_schedule(output, result.schedule)
    write_json(json_file, result.to_dict())
    print_result(result, Console(highlight=False))
    typer.echo(f"{output}: for dpace serve --block-schedule")
    raise typer.Exit(0 if result.is_verified else EXIT_BAD_RESULT)
