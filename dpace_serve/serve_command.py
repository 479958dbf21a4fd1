"""The command `dpace serve`: parses and calls the server."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from dpace_serve.command_line import log_to_stderr, overrides


def serve(  # noqa: PLR0913, PLR0917  (one for each option)
    target: Annotated[
        str | None,
        typer.Argument(help="Folder or hub name of the target model, unless --config names it."),
    ] = None,
    engine_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ENGINE_ARGS]", help="Passed on to the engine's own server."),
    ] = None,
    engine: Annotated[
        Literal["vllm", "sglang"] | None,
        typer.Option(help="Whose server; sglang lives in an environment of its own."),
    ] = None,
    drafter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the drafter; none: no speculation."),
    ] = None,
    challenger: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Drafter to compare with it; may be repeated."),
    ] = None,
    mode: Annotated[
        Literal["shadow", "split"] | None,
        typer.Option(help="shadow: challengers only draft along; split: each serves a share."),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Share of the requests that each challenger serves.")
    ] = None,
    shadow_share: Annotated[
        float | None, typer.Option(help="Share of the requests that challengers draft along with.")
    ] = None,
    block_schedule: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draft tokens by batch size (`dpace tune`).")
    ] = None,
    step_times: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measured step times (`dpace tune`), for the speed-up."),
    ] = None,
    acceptance_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a line for every record of a request."),
    ] = None,
    capture: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep requests to train on; needs --set capture.workloads=[...]."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of settings; options here win.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; may be repeated."),
    ] = None,
) -> None:
    """Serve TARGET over the OpenAI API.

    GET /dpace/acceptance and /metrics show what its drafter gains. SIGTERM lets running answers
    finish.
    """
    log_to_stderr()
    # The engines take the signal over; a container's first process would be deaf to it till then.
    signal.signal(signal.SIGTERM, _leave)
    from dpace_serve.config import load_config
    from dpace_serve.serve_config import ServeConfig

    given = {
        "engine": engine,
        "target": target,
        "drafter": _text(drafter),
        "challengers": [str(folder) for folder in challenger or []] or None,
        "mode": mode,
        "share": share,
        "shadow_share": shadow_share,
        "block_schedule": _text(block_schedule),
        "step_times": _text(step_times),
        "acceptance_log.path": _text(acceptance_log),
        "capture.folder": _text(capture),
        "port": port,
        "host": host,
        "engine_args": engine_args or None,
    }
    serve_config = load_config(ServeConfig, config, [*(settings or []), *overrides(given)])

    # Neither environment has the other engine.
    if serve_config.engine == "sglang":
        from dpace_serve.sglang_engine import server as sglang_server

        sglang_server.serve(serve_config)
    else:
        from dpace_serve.vllm_engine import server as vllm_server

        vllm_server.serve(serve_config)


def _leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  (as signals have it)
    raise SystemExit(0)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
