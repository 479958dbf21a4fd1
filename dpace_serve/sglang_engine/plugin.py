"""The entry point that SGLang loads by name; importing this file imports no sglang and no torch."""

import os

from dpace_serve.errors import EngineError

PLUGIN = "dpace"
PLUGINS_VARIABLE = "SGLANG_PLUGINS"
SUPPORTED_VERSION = "0.5.23"


def register() -> None:
    """Hook into this process, and add our model to SGLang's, where SGLANG_PLUGINS names the plugin.

    SGLang calls this in its launcher and in every process of the engine. An environment that only
    has this package installed is left alone: what we hook refuses weight updates, which others may
    rely on.

    Raises:
        SystemExit: If the installed SGLang is another than the one that the hooks were written
            for. SGLang logs and forgets every ordinary exception of a plugin.
    """
    if PLUGIN not in os.environ.get(PLUGINS_VARIABLE, "").split(","):
        return
    import sglang

    from dpace_serve.sglang_engine import hooking, model_registry
    from dpace_serve.sglang_engine.hooks import all_hooks

    try:
        require_version(sglang.__version__)
        hooking.register(all_hooks())
        model_registry.register()
    except EngineError as error:
        raise SystemExit(f"dpace: {error}") from error


def require_version(version: str) -> None:
    """Check that the engine is the one whose internals we know.

    Raises:
        EngineError: If it is not.
    """
    if version != SUPPORTED_VERSION:
        raise EngineError(
            f"the serving plugin needs SGLang {SUPPORTED_VERSION}, got {version}. Install that "
            f"version, or leave {PLUGIN} out of {PLUGINS_VARIABLE}."
        )
