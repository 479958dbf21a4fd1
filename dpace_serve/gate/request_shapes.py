"""Shapes that an engine takes for granted before it has checked them, and then answers 500."""

from collections.abc import Mapping

from dpace_serve.errors import DpaceError

OBJECTS = ("structured_outputs", "response_format", "stream_options")
"""Fields that are objects. vLLM 0.32 asks `structured_outputs` for its keys as it came."""


class ShapeError(DpaceError):
    """A field has not the type that it must have."""


def require_shapes(values: Mapping[str, object]) -> None:
    """Check the types of what is looked into first.

    Args:
        values: The JSON object of a request.

    Raises:
        ShapeError: If one is wrong.
    """
    for name in OBJECTS:
        value = values.get(name)
        if value is not None and not isinstance(value, dict):
            raise ShapeError(f"{name} must be an object. Correct it.")
    choice, tools = values.get("tool_choice"), values.get("tools")
    # vLLM 0.32 looks for the chosen function in tools as they came. Other APIs choose by `name`.
    chooses_function = isinstance(choice, dict) and "function" in choice and tools is not None
    if chooses_function and not _have_named_functions(tools):
        raise ShapeError("each of tools must have a function with a name. Correct them.")


def _have_named_functions(tools: object) -> bool:
    return isinstance(tools, list) and all(map(_has_named_function, tools))


def _has_named_function(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)
