"""Rotary positions of a drafter: base, rotated share of a head, and stretched frequencies.

Served are the variants that give a position the same angles in every text. A variant whose angles
depend on the length of the text cannot be: an engine makes its table of angles once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dpace_serve.drafter.config_values import group, number, whole
from dpace_serve.errors import CheckpointError

DEFAULT_TYPE = "default"
_CURE = "Give a drafter with another rotation."
_NEEDED: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "linear": (),
    "llama3": (),
    "yarn": (
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
}
_REFUSED = {
    "dynamic": "its angles depend on the length of the text, and engines make their table once",
    "longrope": "its angles depend on the length of the text, and engines make their table once",
}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Frequencies stretched for longer texts; what a type does not use is None.

    Raises:
        CheckpointError: If a value that the type needs is missing, or a number is not positive.
    """

    rope_type: str
    """`linear`, `llama3` or `yarn`."""
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None

    def __post_init__(self) -> None:
        if self.rope_type not in _NEEDED:
            raise _unknown_type(self.rope_type)
        for key, value in self.to_dict().items():
            if isinstance(value, str | bool):
                continue
            if not math.isfinite(value) or value <= 0:
                raise CheckpointError(
                    f"{key} of the rotation must be a positive number, got {value}."
                    " Correct it in config.json."
                )
        for key in _NEEDED[self.rope_type]:
            if getattr(self, key) is None:
                raise _missing(key, self.rope_type)

    def to_dict(self) -> dict[str, Any]:
        """The values that are given, under the names that transformers and the engines use."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotation as a configuration gives it."""

    theta: float
    partial_rotary_factor: float
    scaling: RopeScaling | None

    def to_dict(self) -> dict[str, Any]:
        """The `rope_parameters` of transformers 5."""
        written: dict[str, Any] = {"rope_theta": float(self.theta), "rope_type": DEFAULT_TYPE}
        if self.scaling is not None:
            written |= self.scaling.to_dict()
        if self.partial_rotary_factor != 1:
            written["partial_rotary_factor"] = self.partial_rotary_factor
        return written


def read_rope(values: Mapping[str, Any]) -> Rope:
    """The rotation of a model's configuration, checked.

    `rope_parameters` is what transformers 5 writes; older ones write `rope_scaling`, which wins
    where both stand, as in the engines.

    Raises:
        CheckpointError: On a missing base, an unknown key, or a variant that is not served.
    """
    older, newer = group("rope_scaling", values), group("rope_parameters", values)
    rope = older or newer
    # Left out, transformers takes 10000 and other readers 1000000: no default is safe.
    theta = number("rope_theta", values, rope)
    share = _rotary_share(values, rope)
    kind = rope.get("rope_type", rope.get("type"))
    if kind in (None, DEFAULT_TYPE):
        _refuse_unknown_keys(rope, DEFAULT_TYPE, ())
        return Rope(theta, share, None)
    if not isinstance(kind, str) or kind not in _NEEDED:
        raise _unknown_type(kind)
    _refuse_unknown_keys(rope, kind, _NEEDED[kind] + _OPTIONAL[kind])
    return Rope(theta, share, _scaling(kind, rope))


def _scaling(kind: str, rope: Mapping[str, Any]) -> RopeScaling:
    found: dict[str, Any] = {}
    for key in _NEEDED[kind] + _OPTIONAL[kind]:
        if rope.get(key) is None and key in _OPTIONAL[kind]:
            continue
        if rope.get(key) is None:
            raise _missing(key, kind)
        if key == "truncate":
            found[key] = _truth(key, rope)
        elif key == "original_max_position_embeddings":
            found[key] = whole(key, rope)
        else:
            found[key] = number(key, rope)
    return RopeScaling(rope_type=kind, **found)


def _rotary_share(values: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    if values.get("partial_rotary_factor") is None and rope.get("partial_rotary_factor") is None:
        return 1.0
    return number("partial_rotary_factor", rope, values)


def _refuse_unknown_keys(rope: Mapping[str, Any], kind: str, known: tuple[str, ...]) -> None:
    always = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    for key, value in rope.items():
        if key not in always and key not in known and value is not None:
            raise CheckpointError(
                f"rope_parameters.{key} is not a known key of rope_type {kind}, got {value!r:.80}."
                " Remove it if the drafter was trained without it; otherwise it is not supported."
            )


def _truth(key: str, rope: Mapping[str, Any]) -> bool:
    value = rope[key]
    if not isinstance(value, bool):
        raise CheckpointError(
            f"{key} must be true or false, got {value!r:.80}. Correct it in config.json."
        )
    return value


def _missing(key: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"rope_parameters.{key} must be given for rope_type {kind}, it is missing."
        " Write what the drafter was trained with."
    )


def _unknown_type(kind: object) -> CheckpointError:
    reason = _REFUSED.get(str(kind), "it is not one that is served")
    served = ", ".join((DEFAULT_TYPE, *_NEEDED))
    return CheckpointError(
        f"rope_type must be one of {served}, got {kind!r:.80}: {reason}. {_CURE}"
    )
