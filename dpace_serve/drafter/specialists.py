"""Position specialists: parameters of a drafter that each group of draft positions has of its own.

Draft positions count from 1. With groups of `group_size` they are 1..group_size, then the next as
many, and so on; the last group may be smaller. The anchor predicts nothing, so no specialist has to
draft for it; where it gives something to others, its key and its value, it goes with position 1.

Two kinds are known. `low_rank` adds to a drafter's normed last hidden state what a pair of narrow
matrices makes of it. `last_layer` has the last layer once per group, but for the projections of
keys and values. These are shared: otherwise each group would need keys and values of the whole
context of its own, and what engines compute ahead and keep of the context would no longer be that
of a plain drafter.

Source:
    PosS, arXiv 2506.03566, which gives each position of an autoregressive drafter its own layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from dpace_serve.drafter.config_values import group, whole
from dpace_serve.errors import CheckpointError

Kind = Literal["low_rank", "last_layer"]

SECTION = "specialists"
"""Where `config.json` describes them, and the first part of the names of their tensors."""
SHARED_BY_GROUPS = ("self_attn.k_proj.", "self_attn.v_proj.", "self_attn.k_norm.")
"""Tensors of the last layer that all groups use; every other one is there once per group."""

_KEYS = frozenset({"group_size", "kind", "rank"})


@dataclass(frozen=True, slots=True)
class Specialists:
    """Which parameters the groups of positions have of their own."""

    kind: Kind
    group_size: int
    """Draft positions that share a specialist; the last group may have fewer."""
    rank: int = 0
    """Inner width of an adapter; 0 with kind `last_layer`, which has none."""

    def __str__(self) -> str:
        rank = f" of rank {self.rank}" if self.kind == "low_rank" else ""
        return f"{self.kind}{rank} in groups of {self.group_size}"

    def num_groups(self, num_draft_tokens: int) -> int:
        """Groups of a block with that many draft tokens."""
        return -(-num_draft_tokens // self.group_size)

    def check(self, *, num_draft_tokens: int, hidden_size: int) -> None:
        """Compare with the drafter that they belong to.

        Raises:
            CheckpointError: If a number is out of range, or there is a rank where none is used.
        """
        if not 1 <= self.group_size <= num_draft_tokens:
            raise CheckpointError(
                f"{SECTION}.group_size must lie in 1..{num_draft_tokens} (block_size - 1), got"
                f" {self.group_size}. Correct it, or leave the specialists out."
            )
        if self.kind == "last_layer" and self.rank:
            raise CheckpointError(
                f"{SECTION}.rank must be left out with kind last_layer, which has no adapters, got"
                f" {self.rank}. Remove it."
            )
        if self.kind == "low_rank" and not 1 <= self.rank <= hidden_size:
            raise CheckpointError(
                f"{SECTION}.rank must lie in 1..{hidden_size} (hidden_size) with kind low_rank, got"
                f" {self.rank}. Correct it."
            )

    def to_dict(self) -> dict[str, Any]:
        """The section of `config.json`."""
        written: dict[str, Any] = {"kind": self.kind, "group_size": self.group_size}
        return written | {"rank": self.rank} if self.kind == "low_rank" else written


def read_specialists(values: Mapping[str, Any]) -> Specialists | None:
    """The specialists of a `config.json`; None where it has no such section.

    Raises:
        CheckpointError: If the section holds an unknown key, or a value of the wrong kind.
    """
    if values.get(SECTION) is None:
        return None
    section = group(SECTION, values)
    unknown = sorted(section.keys() - _KEYS)
    if unknown:
        raise CheckpointError(
            f"{SECTION}.{unknown[0]} is not a known key. Known are {', '.join(sorted(_KEYS))}:"
            " remove it, or give a drafter that this version can read."
        )
    kind = section.get("kind")
    if kind not in get_args(Kind):
        raise CheckpointError(
            f"{SECTION}.kind must be {' or '.join(get_args(Kind))}, got {kind!r:.80}. Write the"
            " kind the drafter was trained with."
        )
    return Specialists(
        kind=cast(Kind, kind),
        group_size=whole("group_size", section),
        rank=0 if section.get("rank") is None else whole("rank", section),
    )


def specialist_shapes(
    specialists: Specialists,
    *,
    num_draft_tokens: int,
    hidden_size: int,
    layer_shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """Tensors of the specialists, stacked over the groups in their first axis.

    Args:
        specialists: What the groups have of their own.
        num_draft_tokens: Draft tokens of a block.
        hidden_size: Width of the residual stream.
        layer_shapes: Tensors of one plain layer, by their names in the layer.
    """
    num_groups, rank = specialists.num_groups(num_draft_tokens), specialists.rank
    if specialists.kind == "low_rank":
        return {
            f"{SECTION}.adapter_in.weight": (num_groups, rank, hidden_size),
            f"{SECTION}.adapter_out.weight": (num_groups, hidden_size, rank),
        }
    return {
        f"{SECTION}.{name}": (num_groups, *shape)
        for name, shape in layer_shapes.items()
        if not name.startswith(SHARED_BY_GROUPS)
    }
