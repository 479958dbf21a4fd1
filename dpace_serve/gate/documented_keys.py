"""Which keys open a route, as the OpenAPI document has it."""

from collections.abc import Iterable
from typing import Any, Literal

from dpace_serve.gate.route_table import Access
from dpace_serve.gate.stack import ServerKeys

SCHEMES: dict[str, Any] = {
    "api_key": {"type": "http", "scheme": "bearer", "description": "One of the API keys."},
    "admin_key": {"type": "http", "scheme": "bearer", "description": "The admin key."},
    "metrics_key": {"type": "http", "scheme": "bearer", "description": "The key of Prometheus."},
}


def opening_keys(
    access: Access | Literal["reader", "admin"], keys: ServerKeys
) -> list[dict[str, list[str]]]:
    """The keys of which one must be sent; none where everyone is let in.

    Args:
        access: Of the engine's routes as in the route table; of ours whether they read.
        keys: Which there are.
    """
    admin = ["admin_key"] if keys.admin is not None else []
    if access == "admin":
        return _each(admin)
    if access == "metrics" and keys.metrics is not None:
        return _each(["metrics_key", *admin])
    if access == "public" or not keys.api:
        return []
    return _each(["api_key"] if access == "engine" else ["api_key", *admin])


def _each(names: Iterable[str]) -> list[dict[str, list[str]]]:
    return [{name: []} for name in names]
