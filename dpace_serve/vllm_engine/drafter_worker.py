"""What the API process may ask of the worker about its drafters, by `collective_rpc`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from dpace_serve.errors import SwapError
from dpace_serve.vllm_engine.opened_drafter import OpenedDrafter, not_opened

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from dpace_serve.vllm_engine.packed_drafts import PackedDrafts
    from dpace_serve.vllm_engine.proposer import DpaceProposer

WORKER_EXTENSION = "dpace_serve.vllm_engine.drafter_worker.DrafterWorker"


class DrafterWorker:
    """Mixed into vLLM's worker; every call runs between two steps."""

    model_runner: "GPUModelRunner"
    dpace_opened: OpenedDrafter | None = None

    def dpace_open_drafter(self, folder: str, revision: str) -> None:
        """Begin to open and hash a drafter's files in a thread; what was open before is closed."""
        self._dpace_close()
        self.dpace_opened = OpenedDrafter(Path(folder), revision)

    def dpace_drafter_verdict(self) -> str | None:
        """None while the opened drafter is checked; then why it is refused, empty if it is not."""
        return "" if self.dpace_opened is None else self.dpace_opened.verdict

    def dpace_load_drafter(self, slot: int, folder: str, revision: str) -> tuple[float, str]:
        """Put the opened drafter into a slot that no request is bound to, and close it.

        Returns:
            Seconds that the engine stood still, and why it was refused; empty if it is loaded.
        """
        began = time.perf_counter()
        try:
            if self.dpace_opened is None:
                raise not_opened(Path(folder))
            weights = self.dpace_opened.weights(Path(folder), revision)
            _proposer(self.model_runner).reload(slot, weights)
        except SwapError as error:
            return time.perf_counter() - began, str(error)
        finally:
            self._dpace_close()
        return time.perf_counter() - began, ""

    def _dpace_close(self) -> None:
        if self.dpace_opened is not None:
            self.dpace_opened.close()
            self.dpace_opened = None

    def dpace_take_drafts(self, keys: list[int]) -> "tuple[dict[int, PackedDrafts], list[int]]":
        """Hand out, and forget, what shadows drafted for these requests.

        Returns:
            The drafts by request, and the requests that are left to be asked for again: a step
            never waits for more than a few megabytes.
        """
        return _proposer(self.model_runner).shadow_drafts.take(keys)


def _proposer(runner: "GPUModelRunner") -> "DpaceProposer":
    proposer: DpaceProposer = runner.drafter
    return proposer
