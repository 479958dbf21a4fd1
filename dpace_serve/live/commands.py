"""The commands `dpace drafter ...`: the drafters of a running server."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpace_serve.command_line import EXIT_BAD_RESULT, JsonOption
from dpace_serve.errors import ConfigError, SwapError
from dpace_serve.live.admin_key import ADMIN_KEY_VARIABLE, read_admin_key
from dpace_serve.result_file import require_writable, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from dpace_serve.live.client import DrafterClient

API_KEY_VARIABLE = "VLLM_API_KEY"
WAITING_NOTICE_SECONDS = 2.0

app = typer.Typer(
    name="drafter",
    help="Look at and change the drafters of a running server.",
    no_args_is_help=True,
)

UrlOption = Annotated[str, typer.Option(metavar="URL", help="Address of the server.")]
KeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help=f"File with the admin key; else {ADMIN_KEY_VARIABLE}."),
]
FolderArgument = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER", help="On the server's machine; a relative path starts at drafter_root."
    ),
]
NameOption = Annotated[
    str | None, typer.Option(help="Name in labels and results; the folder's when not given.")
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Refuse the drafter unless its revision starts so.")
]
ChallengerRevisionOption = Annotated[
    str | None, typer.Option(help="Refuse unless the challenger's revision starts so.")
]
ChallengerArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Needed where there are several.")
]


@app.command()
def show(url: UrlOption, admin_key_file: KeyOption = None, json_file: JsonOption = None) -> None:
    """Show who serves, who is compared, and how many requests they have.

    A server with API keys wants one: the admin key, or VLLM_API_KEY.
    """
    from rich.console import Console

    key = read_admin_key(admin_key_file, os.environ) or os.environ.get(API_KEY_VARIABLE)
    answer = _asked(url, key, lambda client: client.show(), json_file)
    console = Console(highlight=False)
    console.print(_table(answer))
    operation = answer.get("operation")
    if operation is not None:
        console.print(_underway(operation), markup=False, soft_wrap=True)


@app.command()
def swap(
    folder: FolderArgument,
    url: UrlOption,
    name: NameOption = None,
    revision: RevisionOption = None,
    admin_key_file: KeyOption = None,
    json_file: JsonOption = None,
) -> None:
    """Let another drafter serve new requests; running ones end with theirs."""
    _change(
        url,
        admin_key_file,
        lambda client: client.swap(folder, name=name, revision=revision),
        json_file,
    )


@app.command()
def challenge(
    folder: FolderArgument,
    url: UrlOption,
    name: NameOption = None,
    revision: RevisionOption = None,
    admin_key_file: KeyOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare another drafter with the champion."""
    _change(
        url,
        admin_key_file,
        lambda client: client.challenge(folder, name=name, revision=revision),
        json_file,
    )


@app.command()
def promote(
    url: UrlOption,
    name: ChallengerArgument = None,
    revision: ChallengerRevisionOption = None,
    admin_key_file: KeyOption = None,
    json_file: JsonOption = None,
) -> None:
    """Make a challenger the champion."""
    _change(url, admin_key_file, lambda client: client.promote(name, revision=revision), json_file)


@app.command()
def drop(
    url: UrlOption,
    name: ChallengerArgument = None,
    revision: ChallengerRevisionOption = None,
    admin_key_file: KeyOption = None,
    json_file: JsonOption = None,
) -> None:
    """End the comparison of a challenger."""
    _change(url, admin_key_file, lambda client: client.drop(name, revision=revision), json_file)


def _change(
    url: str,
    admin_key_file: Path | None,
    ask: "Callable[[DrafterClient], dict[str, Any]]",
    json_file: Path | None,
) -> None:
    key = read_admin_key(admin_key_file, os.environ)
    if key is None:
        raise ConfigError(
            f"changing the drafters needs the admin key. Give --admin-key-file, or set "
            f"{ADMIN_KEY_VARIABLE}."
        )
    with _told_of_waiting():
        answer = _asked(url, key, ask, json_file)
    typer.echo(_line(answer))


@contextmanager
def _told_of_waiting() -> Iterator[None]:
    """Say that the server takes its time, so that nobody takes that for a hang."""
    notice = threading.Timer(
        WAITING_NOTICE_SECONDS,
        partial(typer.echo, "waiting for the server; `dpace drafter show` says for what", err=True),
    )
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()


def _asked(
    url: str,
    key: str | None,
    ask: "Callable[[DrafterClient], dict[str, Any]]",
    json_file: Path | None,
) -> dict[str, Any]:
    from dpace_serve.live.client import DrafterClient

    require_writable(json_file)
    try:
        answer = ask(DrafterClient(url, key=key))
    except SwapError as error:
        write_json(json_file, {"error": {"status": error.status, "message": str(error)}})
        typer.echo(f"dpace: refused ({error.status.value}): {error}", err=True)
        raise typer.Exit(EXIT_BAD_RESULT) from None
    write_json(json_file, answer)
    return answer


def _line(answer: dict[str, Any]) -> str:
    drafter, former, seconds = answer["drafter"], answer["former_champion"], answer["seconds"]
    line = (
        f"{answer['operation']}: {drafter['name']} (revision {drafter['revision']}) in slot "
        f"{answer['slot']}, {seconds['total']:.2f} s, {seconds['load']:.2f} s of them loading"
    )
    return line if former is None else f"{line}; the champion was {former['name']}"


def _underway(operation: dict[str, Any]) -> str:
    drafter, num_requests = operation["drafter"], operation["waiting_for"]
    what = operation["name"] if drafter is None else f"{operation['name']} of {drafter}"
    waiting = f", waiting for {num_requests} running requests to end" if num_requests else ""
    return f"{what} under way{waiting}"


def _table(answer: dict[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for title in ("slot", "role", "drafter", "revision", "block", "running", "served", "shadowed"):
        table.add_column(title, overflow="fold")
    keys = ("slot", "role", "name", "revision", "block_size", "running", "served", "shadowed")
    for slot in answer["drafters"]:
        # A name must not be read as markup.
        table.add_row(*(Text("-" if slot[key] is None else str(slot[key])) for key in keys))
    return table
