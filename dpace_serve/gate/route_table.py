"""Which routes are open, and to whom; every other one is not there."""

from collections.abc import ItemsView, Iterable, Mapping
from typing import Literal

from starlette._utils import get_route_path
from starlette.types import Scope

from dpace_serve.errors import ConfigError
from dpace_serve.web.key_guard import PREFIX, is_ours

Access = Literal["public", "engine", "metrics"]
"""public: everyone; engine: an API key, where there are any; metrics: as the key ring says."""

HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"

OPEN_ROUTES: Mapping[str, Access] = {
    f"GET {HEALTH_PATH}": "public",
    f"GET {METRICS_PATH}": "metrics",
    "GET /version": "engine",
    "GET /v1/models": "engine",
    "POST /v1/chat/completions": "engine",
    "POST /v1/completions": "engine",
}
"""Routes of an engine that are open without being asked for, as `METHOD path`."""

CHANGING_THE_TARGET = frozenset({
    "/abort_requests",
    "/begin_weight_update",
    "/collective_rpc",
    "/destroy_weights_update_group",
    "/end_weight_update",
    "/finish_weight_update",
    "/get_weights_by_name",
    "/init_weight_transfer_engine",
    "/init_weights_update_group",
    "/shutdown_weight_transfer_engine",
    "/start_draft_weight_update",
    "/start_weight_update",
    "/update_weight_version",
    "/update_weights",
    "/update_weights_from_disk",
    "/update_weights_from_distributed",
    "/update_weights_from_ipc",
    "/update_weights_from_tensor",
    "/weight_checker",
    "/weights_checker",
})  # fmt: skip
"""Paths of engines that an API key must never open: they write weights, or run any code."""


def is_observing(scope: Scope) -> bool:
    """Whether a request asks about the server rather than for an answer of its model."""
    # The very path that the router will match.
    return is_ours(scope) or get_route_path(scope) == METRICS_PATH


class RouteTable:
    """Open routes of an engine by their whole path; nothing below it, nothing like it."""

    def __init__(self, further: Iterable[str]) -> None:
        """Open routes beside those that are.

        Args:
            further: Each as `METHOD path`, for API keys.

        Raises:
            ConfigError: If one must not be opened.
        """
        self._access: dict[str, dict[str, Access]] = {}
        for route, access in OPEN_ROUTES.items():
            self._open(route, access)
        for route in further:
            path = route.partition(" ")[2]
            if path.rstrip("/") in CHANGING_THE_TARGET:
                raise ConfigError(
                    f"open_routes must leave {path} shut: it changes more than a drafter. Use "
                    "`dpace drafter swap`."
                )
            if path == PREFIX or path.startswith(f"{PREFIX}/"):
                raise ConfigError(f"open_routes must not name {path}: it is open. Drop it.")
            if route not in OPEN_ROUTES:
                self._open(route, "engine")

    def methods(self, path: str) -> Mapping[str, Access]:
        """The open methods of a path and who may call them; empty where it is not open."""
        return self._access.get(path, {})

    def items(self) -> ItemsView[str, dict[str, Access]]:
        """Each open path with its methods."""
        return self._access.items()

    def main_paths(self) -> list[str]:
        """The open paths that are not on the listener for observation alone, where there is one."""
        return [path for path in self._access if path != METRICS_PATH]

    def _open(self, route: str, access: Access) -> None:
        method, _, path = route.partition(" ")
        self._access.setdefault(path, {})[method] = access
