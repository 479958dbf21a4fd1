"""Roles in which a drafter can be counted."""

from typing import Literal, get_args

Arm = Literal["champion", "challenger", "shadow"]
"""What a drafter did for a request: as champion or challenger it served it, so its drafts were
verified; as shadow it drafted beside the one that served and was only compared."""

ARMS: tuple[Arm, ...] = get_args(Arm)
