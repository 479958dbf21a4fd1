"""The tables of an objective's parts, by the setting that names an entry.

Settings are checked against the tables themselves, so an entry is all that a part needs.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic_core import PydanticCustomError

from dpace_training.losses.part import JointTerm, Part

PartSetting = Literal["weighting", "token_loss", "joint"]
PART_SETTINGS: tuple[PartSetting, ...] = ("token_loss", "joint", "weighting")


# The imports are late because the tables need torch, and the commands that load the settings'
# classes must not wait for it; also, the parts look at the settings.


def joint_terms() -> Mapping[str, JointTerm[Any]]:
    """The table of joint terms."""
    from dpace_training.losses.joint import JOINT_TERMS  # noqa: PLC0415 (needs torch)

    return JOINT_TERMS


def table(setting: PartSetting) -> Mapping[str, Part[Any]]:
    """The entries that a setting chooses from."""
    from dpace_training.losses.token_loss import TOKEN_LOSSES  # noqa: PLC0415 (needs torch)
    from dpace_training.losses.weighting import WEIGHTINGS  # noqa: PLC0415 (needs torch)

    tables: dict[PartSetting, Mapping[str, Part[Any]]] = {
        "weighting": WEIGHTINGS,
        "token_loss": TOKEN_LOSSES,
        "joint": joint_terms(),
    }
    return tables[setting]


def require_known(setting: PartSetting, name: str) -> str:
    """The name, if the table has it.

    Raises:
        PydanticCustomError: If it has not; the text lists the names that it has.
    """
    known = [repr(entry) for entry in table(setting)]
    if repr(name) in known:
        return name
    listed = f"{', '.join(known[:-1])} or {known[-1]}"
    raise PydanticCustomError("unknown_name", "Input should be {names}", {"names": listed})


def list_names(setting: PartSetting, schema: dict[str, Any]) -> None:
    """Write the table's names into the JSON schema of the setting."""
    schema["enum"] = list(table(setting))


def users_in_tables(setting: str) -> dict[str, list[str]]:
    """Entries that look at a setting, by the key that chooses them."""
    found = {
        key: [name for name, part in table(key).items() if setting in part.reads]
        for key in PART_SETTINGS
    }
    return {key: names for key, names in found.items() if names}
