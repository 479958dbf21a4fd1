"""KeyRing: which keys a request may come with."""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

from dpace_serve.web.key_guard import has_key, key_hash


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
        self._api = tuple(map(key_hash, api_keys))
        admin = () if admin_key is None else (key_hash(admin_key),)
        metrics = () if metrics_key is None else (key_hash(metrics_key),)
        # A server that gives Prometheus a key of its own keeps its users' keys out.
        self._metrics = (*metrics, *admin) if metrics else (*self._api, *admin)
        self._guards_metrics = bool(metrics or self._api)

    @property
    def is_anonymous(self) -> bool:
        """Whether everyone may use the engine."""
        return not self._api

    def opens_engine(self, scope: Scope) -> bool:
        """Whether a request may use the engine."""
        return not self._api or has_key(Headers(scope=scope), self._api)

    def opens_metrics(self, scope: Scope) -> bool:
        """Whether a request may read the metrics."""
        return not self._guards_metrics or has_key(Headers(scope=scope), self._metrics)
