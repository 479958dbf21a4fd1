"""What can go wrong, as one family: the commands print these as one line and exit with 2."""

from http import HTTPStatus


class DpaceError(Exception):
    """A mistake that the user can act on; its text says rule, value and cure."""


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
