"""What can go wrong, as one family: the commands print these as one line and exit with 2."""

from collections.abc import Sequence
from http import HTTPStatus

MAX_MESSAGE_CHARACTERS = 2000
_BEGINNING, _END = 1300, 600


class DpaceError(Exception):
    """A mistake that the user can act on; its text says rule, value and cure.

    The text is one line of printable characters and of bounded length, whatever it quotes of a file
    or a request: nobody can write lines of a log, or colours of a terminal, through an error.
    """

    def __init__(self, message: str, *, log_lines: Sequence[str] = ()) -> None:
        """Word the mistake.

        Args:
            message: Rule, value and cure.
            log_lines: End of the log of a process of our own, shown below, each line indented.
        """
        lines = [_one_line(message), *(f"  {_one_line(line)}" for line in log_lines)]
        super().__init__("\n".join(lines))


def _one_line(text: str) -> str:
    if len(text) > MAX_MESSAGE_CHARACTERS:  # the rule stands at the beginning, the cure at the end
        text = f"{text[:_BEGINNING]} [...] {text[-_END:]}"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _shown(char) for char in text)


def _shown(char: str) -> str:
    return " " if char.isspace() else ascii(char)[1:-1]


class ConfigError(DpaceError):
    """A configuration file, override or flag breaks a rule."""


class CheckpointError(DpaceError):
    """A target or drafter folder is missing, damaged or does not fit its partner."""


class TrainingError(DpaceError):
    """A training run cannot go on; what it saved before is whole."""


class EngineError(DpaceError):
    """The serving engine is absent, of another version, or did not start."""


class SwapError(DpaceError):
    """A running server cannot load a drafter or change its role; who serves has not changed.

    Attributes:
        status: What kind of refusal it is: 403 not allowed, 404 no such folder or drafter, 409 not
            now, 422 not servable.
    """

    def __init__(self, message: str, *, status: HTTPStatus) -> None:
        super().__init__(message)
        self.status = status


class BusyError(SwapError):
    """A running server cannot do it yet: the same request may succeed later, as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=HTTPStatus.CONFLICT)


class LoadTestError(DpaceError):
    """A load test did not come to its end; there is no result."""
