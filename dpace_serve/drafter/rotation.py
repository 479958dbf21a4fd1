"""A target's rotation, and where a drafter's differs from it in what it comes to."""

import math
from collections.abc import Mapping
from typing import Any

from dpace_serve.drafter.config_values import group
from dpace_serve.drafter.rope import DEFAULT_TYPE, Rope, RopeScaling, read_rope
from dpace_serve.errors import CheckpointError

# Text tokens have the same position in every section, so without sections the angles are the same.
_SECTIONS = frozenset({"mrope_section", "mrope_interleaved"})
_SECTIONED_TYPE = "mrope"
_BESIDE_THE_ROTATION = ("rope_theta", "partial_rotary_factor")
_ORIGINAL = "original_max_position_embeddings"
_YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
# A factor is a ratio of logarithms at most: what is written with six digits is meant.
_SAME = 1e-6


def read_target_rope(values: Mapping[str, Any]) -> Rope:
    """The rotation of a target's configuration, completed as transformers completes it.

    Args:
        values: Keys of the language model's configuration.

    Raises:
        CheckpointError: If its layers rotate differently, the base is not given, or a drafter could
            not rotate so.
    """
    rope = dict(group("rope_scaling", values) or group("rope_parameters", values))
    layers = [key for key, value in rope.items() if isinstance(value, dict)]
    if layers:
        raise CheckpointError(
            f"layers of the target rotate differently ({', '.join(layers)}),"
            " so there is none to take over."
        )
    for key in _BESIDE_THE_ROTATION:
        if rope.get(key) is None:
            rope[key] = values.get(key)
    kind = rope.setdefault("rope_type", rope.get("type"))
    if kind == _SECTIONED_TYPE:
        rope["rope_type"] = DEFAULT_TYPE
    if kind in ("llama3", "yarn"):
        # The key beside the rotation wins, as for Phi 3; without any, it is the length itself.
        outside = values.get(_ORIGINAL)
        if outside is not None or rope.get(_ORIGINAL) is None:
            rope[_ORIGINAL] = outside or values.get("max_position_embeddings")
    plain = {key: value for key, value in rope.items() if key not in _SECTIONS}
    return read_rope({"rope_parameters": plain})


def rope_differences(own: Rope, target: Rope) -> list[str]:
    """What differs in the angles of two rotations, each a clause; what is left out has its default.

    Scaled by 1 is not scaled. Of YaRN's `mscale` keys only what they make of the attention counts.
    """
    ours, theirs = _completed(own), _completed(target)
    differences = []
    if not _is_same(own.theta, target.theta):
        differences.append(f"rope_theta is {own.theta:g}, the target's is {target.theta:g}")
    if not _is_same(own.partial_rotary_factor, target.partial_rotary_factor):
        shares = (100 * own.partial_rotary_factor, 100 * target.partial_rotary_factor)
        differences.append("it rotates {:g} % of a head, the target {:g} %".format(*shares))
    if ours["rope_type"] != theirs["rope_type"]:
        # Their other parameters cannot be compared.
        scalings = (ours["rope_type"], theirs["rope_type"])
        return [*differences, "its scaling is {}, the target's is {}".format(*scalings)]
    return differences + [
        f"{key} is {_shown(value)}, the target's is {_shown(theirs[key])}"
        for key, value in ours.items()
        if not _is_same(value, theirs[key])
    ]


def describe_rope(rope: Rope) -> str:
    """A rotation in a few words, without what is default."""
    written = rope.to_dict()
    if rope.scaling is None:
        del written["rope_type"]
    return ", ".join(f"{key} {_shown(value)}" for key, value in written.items())


def _completed(rope: Rope) -> dict[str, Any]:
    """Type and parameters of the scaling, with the defaults of transformers and vLLM."""
    scaling = rope.scaling
    if scaling is None:
        return {"rope_type": DEFAULT_TYPE}
    completed = scaling.to_dict()
    if scaling.rope_type == "yarn":
        completed = _YARN_DEFAULTS | completed | {"attention_factor": _attention_factor(scaling)}
        completed = {key: completed[key] for key in completed if not key.startswith("mscale")}
    if completed["factor"] == 1 and completed.get("attention_factor", 1) == 1:
        return {"rope_type": DEFAULT_TYPE}
    return completed


def _attention_factor(scaling: RopeScaling) -> float:
    """What YaRN multiplies cosines and sines by.

    Source:
        YaRN, arXiv 2309.00071, equation 22; `mscale` as in transformers and vLLM.
    """
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def growth(mscale: float) -> float:
        return 0.1 * mscale * math.log(max(scaling.factor, 1)) + 1

    if scaling.mscale and scaling.mscale_all_dim:
        return growth(scaling.mscale) / growth(scaling.mscale_all_dim)
    return growth(1)


def _is_same(own: object, target: object) -> bool:
    if isinstance(own, int | float) and isinstance(target, int | float):
        return math.isclose(own, target, rel_tol=_SAME)
    return own == target


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
