"""The API process's side of the drafters in the engine: calls to its workers, between two steps."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpace_serve.errors import SwapError
from dpace_serve.vllm_engine.packed_drafts import TakenDrafts, unpacked

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


_POLL_SECONDS = 0.02


class EngineDrafters:
    """Loads drafters, and takes what shadows drafted."""

    def __init__(self, engine_client: "EngineClient", *, load_timeout_seconds: float) -> None:
        """Ask nothing yet.

        Args:
            engine_client: The engine.
            load_timeout_seconds: How long loading may take.
        """
        self._engine = engine_client
        self._load_timeout_seconds = load_timeout_seconds

    async def load(self, slot: int, folder: Path, revision: str) -> float:
        """Write the weights of a drafter into a slot, on every worker, and try it.

        Each worker hashes the files that it has opened, while the engine goes on, before it reads
        the weights from them, between two steps.

        Returns:
            Seconds that the engine stood still.

        Raises:
            SwapError: If a worker could not, or was not ready in time. Then it may still write into
                the slot; whatever is loaded there later comes after that.
        """
        try:
            async with asyncio.timeout(self._load_timeout_seconds):
                await self._open(folder, revision)
                answers: list[Any] = await self._engine.collective_rpc(
                    "dpace_load_drafter", args=(slot, str(folder), revision)
                )
        except SwapError:
            raise
        except TimeoutError:
            raise SwapError(
                f"{folder}: the engine must load it within {self._load_timeout_seconds:g} s, and "
                "has not. Look into its log, restart it if it hangs, or raise "
                "load_timeout_seconds.",
                status=HTTPStatus.GATEWAY_TIMEOUT,
            ) from None
        except Exception as error:
            raise SwapError(
                f"the engine could not load {folder} ({error}). Its log says why.",
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
            ) from error
        _require_none(problem for _, problem in answers)
        stopped: float = max(seconds for seconds, _ in answers)
        return stopped

    async def _open(self, folder: Path, revision: str) -> None:
        await self._engine.collective_rpc("dpace_open_drafter", args=(str(folder), revision))
        while True:
            verdicts = await self._engine.collective_rpc("dpace_drafter_verdict")
            if None not in verdicts:
                break
            await asyncio.sleep(_POLL_SECONDS)
        _require_none(verdicts)

    async def take(self, keys: list[int]) -> dict[int, TakenDrafts]:
        """Drafts of these requests' shadows, by request; the workers forget them."""
        taken: dict[int, TakenDrafts] = {}
        left = keys
        while left:
            # All workers of a target drafted the same: the first one speaks for them.
            first, *_ = await self._engine.collective_rpc("dpace_take_drafts", args=(left,))
            packed, left = first
            for key, drafts in packed.items():
                taken[key] = unpacked(drafts)
                await asyncio.sleep(0)  # answers are streamed by the same loop
        return taken


def _require_none(problems: Iterable[str]) -> None:
    for problem in problems:
        if problem:
            raise SwapError(problem, status=HTTPStatus.UNPROCESSABLE_ENTITY)
