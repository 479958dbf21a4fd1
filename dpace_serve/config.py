"""Typed configuration: a YAML file plus dotted overrides, and an unknown key is an error."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpace_serve.errors import ConfigError
from dpace_serve.redaction import without_credentials

UNLABELLED = "other"
"""Workload label of requests that carry no known one."""


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


ConfigT = TypeVar("ConfigT", bound=Config)


FsyncPolicy = Literal["never", "rotate", "always"]


class AcceptanceLogConfig(Config):
    """A log with one line of JSON for every record of a request that has ended."""

    path: Path
    """File to append to; full ones are renamed to path.1, path.2 and so on, path.1 the newest."""
    max_megabytes: Annotated[int, Field(ge=1)] = 64
    """Size at which a file is full, in 10^6 bytes."""
    keep_files: Annotated[int, Field(ge=1)] = 8
    """Full files that are kept; the oldest one makes room."""
    fsync: FsyncPolicy = "never"
    """When lines are forced to the disk. never: they outlive a crash of the server, a power cut may
    cost the last seconds; rotate: full files outlive a power cut too; always: each line does, at
    the price of one flush per record."""


class CaptureConfig(Config):
    """Finished requests kept as token ids, to train the next drafter on.

    No text is kept, but token ids are the text for whoever has the target's tokenizer.
    """

    folder: Path
    """Folder of the capture files; made, for this user alone, where there is none."""
    workloads: Annotated[tuple[str, ...], Field(min_length=1)]
    """Workload labels whose requests are kept; `other` stands for requests without a known one."""
    max_megabytes: Annotated[int, Field(ge=1)] = 1000
    """Most that all files of the folder may take; then no request is kept, and none is deleted."""
    max_file_megabytes: Annotated[int, Field(ge=1)] = 100
    """A file that would grow beyond this is left as it is, and the next one begun."""
    max_tokens: Annotated[int, Field(ge=2)] = 16384
    """Most tokens of a kept request, prompt and answer together."""


class ServeConfig(Config):
    """Everything `dpace serve` decides; what it does not name is the engine's own default."""

    target: str
    """Folder or hub name of the target model."""
    drafter: Path | None = None
    """Folder of the drafter; none serves the target without speculation."""
    drafter_name: str | None = None
    """Name of the drafter in labels and results; its folder's name when not given."""
    served_model_name: str | None = None
    """Model name that clients use; the target's own name when not given."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port to listen on."""
    dtype: str = "auto"
    """Number format the engine computes in."""
    eager: bool = False
    """Run without compilation and captured graphs: starts sooner, steps take longer."""
    num_draft_tokens: Annotated[int, Field(ge=1)] | None = None
    """Draft tokens per block; the drafter's block size - 1 when not given."""
    workloads: tuple[str, ...] = (
        "json", "csv", "sql", "dates", "units", "arithmetic", "letters", "code",
    )  # fmt: skip
    """Workload labels that a request may carry; any other tag is counted as `other`."""
    acceptance_log: AcceptanceLogConfig | None = None
    """Where every record of acceptance is written; none keeps only the newest in memory."""

    capture: CaptureConfig | None = None
    """Which finished requests are kept as training data; none keeps none."""
    shutdown_timeout_seconds: Annotated[int, Field(ge=0)] = 30
    """How long SIGTERM lets running answers finish before they are cancelled."""
    challengers: tuple[Path, ...] = ()
    """Folders of further drafters, to be compared with the first."""
    mode: Literal["shadow", "split"] = "shadow"
    """Challengers only draft along for comparison, or each serves a share of the requests."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the requests that each challenger serves in split mode; together below 1."""
    shadow_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the requests that the challengers draft along with in shadow mode."""
    spare_drafter_slots: Annotated[int, Field(ge=0)] = 1
    """Drafters that can be loaded beside those given at start; 0 switches loading off."""
    drafter_root: Path | None = None
    """Folder that drafters may be loaded from while the server runs; none: none may."""
    admin_key_file: Path | None = None
    """File with the admin key, else DPACE_ADMIN_KEY; without one the drafters cannot be changed."""
    allow_drafter_choice: bool = False
    """Let a request name the drafter that serves it."""
    drain_timeout_seconds: Annotated[int, Field(ge=0)] = 60
    """How long a swap waits for the requests of a former drafter whose slot it needs."""
    engine_args: tuple[str, ...] = ()
    """Further arguments for the engine's own server, passed on as they are."""

    @model_validator(mode="after")
    def _challengers_have_a_champion(self) -> "ServeConfig":
        if self.challengers and self.drafter is None:
            raise ValueError("challengers need a drafter to be compared with: set drafter too")
        return self

    @model_validator(mode="after")
    def _champion_keeps_a_share(self) -> "ServeConfig":
        if self.mode == "split" and len(self.challengers) * self.share >= 1:
            raise ValueError(
                f"the challengers' shares must sum to less than 1, "
                f"{len(self.challengers)} of {self.share:g} do not"
            )
        return self

    @model_validator(mode="after")
    def _captures_known_workloads(self) -> "ServeConfig":
        known = {*self.workloads, UNLABELLED}
        unknown = sorted(set(self.capture.workloads) - known) if self.capture else []
        if unknown:
            raise ValueError(
                f"capture.workloads must be among workloads and {UNLABELLED}, "
                f"{', '.join(unknown)} is not"
            )
        return self

    @model_validator(mode="after")
    def _captures_drafted_answers(self) -> "ServeConfig":
        # Finished requests are looked at where drafts are counted, and nowhere else.
        if self.capture is not None and self.drafter is None:
            raise ValueError("capture needs a drafter: name one, or leave capture out")
        return self


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
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        if first["type"] == "missing":
            raise ConfigError(f"{source}: {key} is not set and has no default. Set it.") from None
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(schema, first["loc"]))
            raise ConfigError(
                f"{source}: unknown key {key}. Known keys there: {known}. Remove or rename it."
            ) from None
        raise ConfigError(
            f"{source}: {key}: {first['msg']}, got {_short(first['input'])}. Correct the value."
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
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
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


class _UniqueKeyLoader(yaml.SafeLoader):
    # YAML keeps the last of two equal keys without a word.
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str) -> Any:  # noqa: ANN401 - YAML holds values of any type
    return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a subclass of the safe loader


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
        try:
            return cls(shown, tuple(parents), key, _parse_yaml(value))
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


def _short(value: object) -> str:
    text = without_credentials(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
