"""Typed configuration: a YAML file plus dotted overrides, and an unknown key is an error."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import MAX_DEPTH, MAX_SETTINGS_BYTES, read_text
from dpace_serve.redaction import without_credentials
from dpace_serve.settings_yaml import parse_yaml


class Config(BaseModel):
    """Base of every configuration: frozen, closed against unknown keys, every number finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    brought_along: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Settings that follow from a key. An override of the key drops what the file says of them."""

    @field_validator("*")
    @classmethod
    def _paths_can_be_opened(cls, value: object) -> object:
        # Python refuses a NUL in most calls with an error of its own, and in some with "not there".
        for path in _paths_in(value):
            if not str(path).isprintable():
                raise ValueError("a path must be printable characters")
        return value


ConfigT = TypeVar("ConfigT", bound=Config)


def _paths_in(value: object) -> Iterable[Path]:
    if isinstance(value, Path):
        return (value,)
    if isinstance(value, dict):
        value = tuple(value.values())
    return [path for path in value if isinstance(path, Path)] if isinstance(value, tuple) else ()


def load_config(schema: type[ConfigT], path: Path | None, overrides: Sequence[str]) -> ConfigT:
    """Read a YAML file, apply `dotted.key=value` overrides, and check the result.

    An override of a key that brings other settings along replaces those of the file too, but not
    those of other overrides, whatever their order.

    Args:
        schema: Configuration class to fill.
        path: YAML file; none starts from the defaults.
        overrides: Assignments; each value is read as YAML.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown or a value is out of bounds.
    """
    values = _read_yaml(path) if path is not None else {}
    parsed = [_Override.parse(override) for override in overrides]
    for override in parsed:
        override.clear_the_way(schema, values)
    for override in parsed:
        override.apply(values)
    sources = ([str(path)] if path is not None else []) + (["the command"] if overrides else [])
    return build_config(schema, values, source=" and ".join(sources) or "the defaults")


def build_config(schema: type[ConfigT], values: dict[str, Any], *, source: str) -> ConfigT:
    """Check a mapping against a configuration class, with one clear line on the first mistake.

    An unknown key comes before any other mistake: a misspelt key is also the reason why the right
    one is missing.

    Raises:
        ConfigError: If a key is unknown, missing or out of bounds.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        # A line in the wrong place may have made a credential the name of a key.
        key = without_credentials(".".join(map(str, first["loc"]))) or "(top level)"
        problem = without_credentials(first["msg"])
        if first["type"] == "missing":
            raise ConfigError(f"{source}: {key} is not set and has no default. Set it.") from None
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(schema, first["loc"]))
            raise ConfigError(
                f"{source}: unknown key {key}. Known keys there: {known}. Remove or rename it."
            ) from None
        raise ConfigError(
            f"{source}: {key}: {problem}, got {_shown(schema, first)}. Correct the value."
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_text(path, max_bytes=MAX_SETTINGS_BYTES))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"{path}: not valid YAML ({_yaml_reason(error)}). Correct the file."
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: must hold a mapping, holds a {type(values).__name__}. Write `key: value`."
        )
    return values


def _yaml_reason(error: yaml.YAMLError | ValueError) -> str:
    # The whole message quotes the line, and a password with it.
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{without_credentials(str(error.problem))}, line {error.problem_mark.line + 1}"
    return without_credentials(str(error))


@dataclass(frozen=True, slots=True)
class _Override:
    shown: str
    parents: tuple[str, ...]
    key: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> "_Override":
        name, separator, value = text.partition("=")
        shown = repr(without_credentials(text))
        if not separator or not name:
            raise ConfigError(f"override {shown} must read key=value. Write for example a.b=1.")
        *parents, key = name.split(".")
        if len(parents) > MAX_DEPTH:
            raise ConfigError(
                f"override {shown}: a key has at most {MAX_DEPTH} groups around it, got "
                f"{len(parents)}. Correct it."
            )
        try:
            return cls(shown, tuple(parents), key, parse_yaml(value))
        except (yaml.YAMLError, ValueError):
            raise ConfigError(f"override {shown}: the value is not valid YAML. Quote it.") from None

    def clear_the_way(self, schema: type[Config], values: dict[str, Any]) -> None:
        """Drop from a file's values what this override brings along; a null brings nothing."""
        inner: Any = values
        for parent in self.parents:
            inner = inner.get(parent) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and self.value is not None:
            for name in _section(schema, self.parents).brought_along.get(self.key, ()):
                inner.pop(name, None)

    def apply(self, values: dict[str, Any]) -> None:
        inner = values
        for parent in self.parents:
            if inner.get(parent) is None:  # absent, or a group whose lines are all commented out
                inner[parent] = {}
            inner = inner[parent]
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"override {self.shown}: {parent} is a value, not a group of settings. "
                    "Drop what follows its name."
                )
        inner[self.key] = self.value


def _known_keys(schema: type[Config], location: tuple[int | str, ...]) -> list[str]:
    return sorted(_section(schema, location[:-1]).model_fields)


def _section(schema: type[Config], location: tuple[int | str, ...]) -> type[Config]:
    """The class of the group of settings at a place."""
    current = schema
    for part in location:
        field = current.model_fields.get(str(part))
        if field is not None:  # else an index into a list or table
            current = _config_inside(field.annotation) or current
    return current


def _config_inside(annotation: object) -> type[Config] | None:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(_config_inside, get_args(annotation))), None)


def _shown(schema: type[Config], error: ErrorDetails) -> str:
    """The wrong value, unless it is a secret or may have one inside."""
    *parents, key = error["loc"] or ("",)
    field = _section(schema, tuple(parents)).model_fields.get(str(key))
    if field is not None and not field.repr:
        return "a value that is not shown"
    value = error["input"]
    if isinstance(value, dict | Config):
        return "a group of settings"
    text = without_credentials(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
