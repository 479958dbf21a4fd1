"""What can go wrong, as one family: the commands print these as one line and exit with 2."""


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
    """A change of the drafters of a running server is refused; it serves on as before."""
