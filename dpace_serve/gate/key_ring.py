"""KeyRing: which keys a request may come with."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope


class KeyRing:
    """The keys of a server, kept as hashes."""

    def __init__(
        self, api_keys: Iterable[str], admin_key: str | None, metrics_key: str | None
    ) -> None:
        """Take the keys.

        Args:
            api_keys: Each opens the engine's open routes; none leaves them open to everyone.
            admin_key: Opens the metrics too; none if there is none.
            metrics_key: Opens the metrics alone; none if there is none.
        """
        self._api = tuple(map(_hash, api_keys))
        admin = () if admin_key is None else (_hash(admin_key),)
        metrics = () if metrics_key is None else (_hash(metrics_key),)
        # A server that gives Prometheus a key of its own keeps its users' keys out.
        self._metrics = (*metrics, *admin) if metrics else (*self._api, *admin)
        self._guards_metrics = bool(metrics or self._api)

    @property
    def is_anonymous(self) -> bool:
        """Whether everyone may use the engine."""
        return not self._api

    def opens_engine(self, scope: Scope) -> bool:
        """Whether a request may use the engine."""
        return not self._api or _has_key(scope, self._api)

    def opens_metrics(self, scope: Scope) -> bool:
        """Whether a request may read the metrics."""
        return not self._guards_metrics or _has_key(scope, self._metrics)


def _has_key(scope: Scope, hashes: tuple[bytes, ...]) -> bool:
    scheme, _, key = Headers(scope=scope).get("Authorization", "").partition(" ")
    given = _hash(key)
    # All are compared, so that the time taken does not tell which one is near.
    matches = [hmac.compare_digest(given, known) for known in hashes]
    return scheme.lower() == "bearer" and any(matches)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
