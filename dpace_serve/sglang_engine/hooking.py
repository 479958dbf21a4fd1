"""Hooks around functions of SGLang, and the proof that each of them took hold.

SGLang logs what goes wrong with a plugin's hook and serves on without it. So the functions are
compared with those that the hooks were written for before they are registered, and each hook is
looked for in its place afterwards.
"""

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dpace_serve.errors import EngineError


@dataclass(frozen=True, slots=True)
class Hook:
    """Something of ours around a function of SGLang.

    Attributes:
        target: Dotted name of the function.
        parameters: Names of its parameters in the version that the hook was written for.
        around: Called in its place, with the function itself before its arguments.
    """

    target: str
    parameters: tuple[str, ...]
    around: Callable[..., Any]


def register(hooks: Iterable[Hook]) -> None:
    """Hand hooks to SGLang, which applies them once all plugins are loaded.

    Raises:
        EngineError: If a function is not there, or has other parameters than expected.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for hook in hooks:
        require_expected(hook)
        HookRegistry.register(hook.target, hook.around, HookType.AROUND)


def require_expected(hook: Hook) -> None:
    """Check that a function is the one that its hook was written for.

    Raises:
        EngineError: If it is not there, or has other parameters.
    """
    function = _resolved(hook.target)
    found = None if function is None else tuple(inspect.signature(function).parameters)
    if found != hook.parameters:
        raise EngineError(
            f"{hook.target} must have the parameters {', '.join(hook.parameters)}, "
            f"{'is not there' if found is None else 'has ' + ', '.join(found)}. Install the SGLang "
            "that this plugin was written for."
        )


def not_applied(hooks: Iterable[Hook]) -> list[str]:
    """Names of the functions that are called without their hook in this process."""
    return [hook.target for hook in hooks if not _is_applied(hook)]


def _is_applied(hook: Hook) -> bool:
    return any(_closes_over(function, hook.around) for function in _layers(_resolved(hook.target)))


def _layers(function: Callable[..., Any] | None) -> Iterator[Callable[..., Any]]:
    """A function, and one below the other those that it is wrapped around."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _closes_over(function: Callable[..., Any], wanted: Callable[..., Any]) -> bool:
    cells = getattr(function, "__closure__", None) or ()
    return any(cell.cell_contents is wanted for cell in cells)


def _resolved(target: str) -> Callable[..., Any] | None:
    try:
        function: Callable[..., Any] = pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return None
    return function
