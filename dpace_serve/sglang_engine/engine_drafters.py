"""The API process's side of the drafter in the engine: one request to the scheduler."""

import asyncio
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from dpace_serve.errors import SwapError
from dpace_serve.sglang_engine.weight_updates import BUSY, LOAD_FORMAT, payload

if TYPE_CHECKING:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

_POLL_SECONDS = 0.05


class EngineDrafters:
    """Has the engine write a drafter over the one that it has."""

    def __init__(self, manager: "TokenizerManager", *, load_timeout_seconds: float) -> None:
        """Ask nothing yet.

        Args:
            manager: SGLang's way to its scheduler.
            load_timeout_seconds: How long loading may take.
        """
        self._manager = manager
        self._load_timeout_seconds = load_timeout_seconds

    async def load(self, slot: int, folder: Path, revision: str) -> float:  # noqa: ARG002  (there is one)
        """Write the weights of a drafter over the former one's, and flush the cache.

        The scheduler hashes the files that it has opened before it reads the weights from them.

        Returns:
            Seconds that it took, in which nothing runs and new requests wait.

        Raises:
            SwapError: If it could not, and the former drafter is there as before; or if it has not
                answered in time, when it may still do it.
        """
        from sglang.srt.managers.io_struct import UpdateWeightsFromTensorReqInput

        started = time.monotonic()
        try:
            async with asyncio.timeout(self._load_timeout_seconds):
                while True:
                    request = UpdateWeightsFromTensorReqInput(
                        serialized_named_tensors=payload(folder, revision),
                        load_format=LOAD_FORMAT,
                        flush_cache=False,
                        selector="draft",
                    )
                    is_loaded, message = await self._manager.update_weights_from_tensor(request)
                    if is_loaded:
                        return time.monotonic() - started
                    if message != BUSY:
                        raise SwapError(message, status=HTTPStatus.UNPROCESSABLE_ENTITY)
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise SwapError(
                f"{folder}: the engine must load it within {self._load_timeout_seconds:g} s, and "
                "has not. Look into its log, restart it if it hangs, or raise "
                "load_timeout_seconds.",
                status=HTTPStatus.GATEWAY_TIMEOUT,
            ) from None
