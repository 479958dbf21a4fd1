"""Front: what of an HTTP server's traffic is ours, before SGLang's application sees it.

It stands outside of SGLang's own check of API keys, because everything below /dpace has another
one, which knows the admin key too.
"""

from collections.abc import Collection
from http import HTTPStatus

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.web.error_response import error_response
from dpace_serve.web.key_guard import is_ours

METRICS_PATH = "/metrics"
WEIGHT_PATHS = frozenset({
    "/begin_weight_update",
    "/destroy_weights_update_group",
    "/end_weight_update",
    "/init_weights_update_group",
    "/update_weights_from_disk",
    "/update_weights_from_distributed",
    "/update_weights_from_ipc",
    "/update_weights_from_tensor",
    "/weights_checker",
})  # fmt: skip
"""SGLang's routes that write weights, the target's too: its checker can reset them to noise."""


class Front:
    """Answers what is ours, refuses what would change the target, and passes on the rest."""

    def __init__(
        self,
        engine: ASGIApp,
        ours: ASGIApp,
        metrics: ASGIApp,
        *,
        weight_paths: Collection[str] = WEIGHT_PATHS,
    ) -> None:
        """Stand before an application.

        Args:
            engine: SGLang's.
            ours: Everything below /dpace.
            metrics: All metrics.
            weight_paths: Paths that are refused.
        """
        self._engine = engine
        self._ours = ours
        self._metrics = metrics
        self._weight_paths = frozenset(weight_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Choose who answers."""
        if is_ours(scope):
            await self._ours(scope, receive, send)
            return
        # The very path that SGLang's router will match.
        path = get_route_path(scope).rstrip("/") if scope["type"] == "http" else None
        if path in self._weight_paths:
            message = (
                "This server's weights are changed by its admin only, and the target's never. "
                "Change the drafter with `dpace drafter swap`."
            )
            await error_response(HTTPStatus.FORBIDDEN, message)(scope, receive, send)
        elif path == METRICS_PATH:
            await self._metrics(scope, receive, send)
        else:
            await self._engine(scope, receive, send)
