"""What the commands share: options, exit codes, logs on stderr, settings from options."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

EXIT_BAD_RESULT = 1
EXIT_MISTAKE = 2

JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result to this file too.")
]


def log_to_stderr() -> None:
    """Show our own messages as plain lines; those of others from warnings on."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dpace_serve").setLevel(logging.INFO)


def overrides(given: Mapping[str, object]) -> list[str]:
    """Assignments for `load_config` of the options that were given."""
    # YAML cannot read the escapes that JSON writes for characters past the first 65536.
    return [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in given.items()
        if value is not None
    ]
