"""What the API process may ask of the worker about its drafters, by `collective_rpc`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from dpace_serve.errors import SwapError

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from dpace_serve.vllm_engine.packed_drafts import PackedDrafts
    from dpace_serve.vllm_engine.proposer import DpaceProposer

WORKER_EXTENSION = "dpace_serve.vllm_engine.drafter_worker.DrafterWorker"


class DrafterWorker:
    """Mixed into vLLM's worker; every call runs between two steps."""

    model_runner: "GPUModelRunner"

    def dpace_load_drafter(self, slot: int, folder: str, revision: str) -> tuple[float, str]:
        """Put another drafter, of this revision, into a slot that no request is bound to.

        Returns:
            Seconds that it took, and why it was refused; empty if it is loaded.
        """
        began = time.perf_counter()
        try:
            _proposer(self.model_runner).reload(slot, Path(folder), revision)
        except SwapError as error:
            return time.perf_counter() - began, str(error)
        return time.perf_counter() - began, ""

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
