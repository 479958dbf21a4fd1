"""Traffic: which requests the challengers serve or shadow.

A draw is a function of the request's id, as records have it, and of `draw_salt`: whoever knows
both can repeat it, and servers with the same salt draw alike. It is the 6-byte BLAKE2b hash of the
id in UTF-8, with the salt as its key and personalised with `dpace-split` or `dpace-shadow`, read as
a big-endian number and divided by 2**48.

    hashed = hashlib.blake2b(id, digest_size=6, key=draw_salt, person=b"dpace-split")
    int.from_bytes(hashed.digest()) / 2**48

Clients choose the ids. Whoever knew the salt could choose a drafter with them, so only the admin
key shows it.
"""

import hashlib
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

from dpace_serve.errors import SwapError

Purpose = Literal["split", "shadow"]

# Two purposes, two hashes: else the requests that are shadowed would be those served by some arm.
_PERSONS: dict[Purpose, bytes] = {"split": b"dpace-split", "shadow": b"dpace-shadow"}
_DRAW_BYTES = 6  # 48 bits: a float holds every such share exactly, and none rounds up to 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """How requests are spread over the drafters; the fields are those of `ServeConfig`."""

    mode: Literal["shadow", "split"]
    share: float
    shadow_share: float
    draw_salt: str = field(repr=False)

    def serving_challenger(self, request_id: str, num_challengers: int) -> int | None:
        """Index of the challenger that serves a request; None for the champion.

        In split mode number i, from 0, serves the draws in [i * share, (i + 1) * share).
        """
        if self.mode == "split":
            drawn = draw(request_id, "split", salt=self.draw_salt)
            for index in range(num_challengers):
                if drawn < (index + 1) * self.share:
                    return index
        return None

    def is_shadowed(self, request_id: str) -> bool:
        """Whether the challengers draft along with a request that the champion serves."""
        if self.mode != "shadow":
            return False
        return draw(request_id, "shadow", salt=self.draw_salt) < self.shadow_share

    def challengers_share(self, num_challengers: int) -> float:
        """Configured share of the requests that challengers serve."""
        return num_challengers * self.share if self.mode == "split" else 0.0

    def require_share_for(self, num_challengers: int) -> None:
        """Check that so many challengers leave the champion a share of the requests.

        Raises:
            SwapError: If they do not.
        """
        if self.challengers_share(num_challengers) >= 1:
            raise SwapError(
                f"the challengers' shares must sum to less than 1, {num_challengers} of "
                f"{self.share:g} do not. Drop a challenger first.",
                status=HTTPStatus.CONFLICT,
            )


def draw(request_id: str, purpose: Purpose, *, salt: str) -> float:
    """A number in [0, 1) that depends on the id, the purpose and the salt alone."""
    digest = hashlib.blake2b(
        request_id.encode("utf-8", "surrogatepass"),
        digest_size=_DRAW_BYTES,
        key=salt.encode(),
        person=_PERSONS[purpose],
    ).digest()
    return int.from_bytes(digest, "big") / (1 << 8 * _DRAW_BYTES)
