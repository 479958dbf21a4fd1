"""The command `dpace verdict`: what a running server says of its challengers."""

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpace_serve.command_line import EXIT_BAD_RESULT, JsonOption
from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.live.commands import API_KEY_VARIABLE, KeyOption, UrlOption
from dpace_serve.result_file import require_writable, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from dpace_serve.live.client import DrafterClient

WatchOption = Annotated[
    bool, typer.Option("--watch", help="Show it until interrupted, as it changes.")
]
IntervalOption = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: time between looks.")
]


def verdict(
    url: UrlOption,
    watch: WatchOption = False,
    interval: IntervalOption = 2.0,
    admin_key_file: KeyOption = None,
    json_file: JsonOption = None,
) -> None:
    """Say whether a challenger should replace the champion, with interval and reason.

    Ends with 1 where a challenger should be rolled back. It may be asked as often as one likes: the
    intervals are confidence sequences. A server with API keys wants one: the admin key, or
    VLLM_API_KEY.
    """
    from rich.console import Console

    from dpace_serve.live.client import DrafterClient

    require_writable(json_file)
    key = read_admin_key(admin_key_file, os.environ) or os.environ.get(API_KEY_VARIABLE)
    client, console = DrafterClient(url, key=key), Console(highlight=False)
    if watch:
        answer = _watch(client, console, interval)
    else:
        from dpace_serve.live.verdict_view import verdict_view

        answer = client.verdict()
        console.print(verdict_view(answer))
    write_json(json_file, answer)
    if not answer["comparisons"]:
        raise ConfigError(
            "a verdict needs a challenger, the server has none. Load one with dpace drafter "
            "challenge, or start it with --challenger."
        )
    if any(row["decision"] == "rollback" for row in answer["comparisons"]):
        raise typer.Exit(EXIT_BAD_RESULT)


def _watch(client: "DrafterClient", console: "Console", interval: float) -> dict[str, Any]:
    """Show the verdict until Ctrl-C; a server that is away for a while is waited for."""
    from rich.live import Live

    from dpace_serve.live.verdict_view import away_view, verdict_view

    answer = client.verdict()  # a wrong address or key is said at once
    try:
        with Live(verdict_view(answer), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                try:
                    answer = client.verdict()
                except EngineError as error:
                    view = away_view(answer, str(error))
                else:
                    view = verdict_view(answer)
                if console.is_terminal:
                    live.update(view, refresh=True)
                else:  # a file keeps every look, not only the last one
                    console.print(view)
    except KeyboardInterrupt:
        return answer
