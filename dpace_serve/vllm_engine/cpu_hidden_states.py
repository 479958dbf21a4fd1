"""Writes exported hidden states to files on a CPU, where the engine's own writer needs CUDA."""

import os

import torch
from safetensors.torch import save_file
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
    PendingSave,
    extract_from_kv_cache,
)


class FinishedCopy:
    """Stands where the engine keeps the CUDA event of a copy that may still run."""

    def query(self) -> bool:
        """Whether the copy is done."""
        return True


class CpuHiddenStatesConnector(ExampleHiddenStatesConnector):
    """The engine's connector, with a plain copy instead of pinned memory and a CUDA stream."""

    def _submit_async_write(self, pending: PendingSave) -> None:
        """Write one document's file and release the lock on which its reader waits."""
        if not self._is_tp_rank_zero:
            return
        first_slots = torch.tensor(pending.block_ids) * self._block_size
        slots = (first_slots[:, None] + torch.arange(self._block_size)).flatten()
        states = extract_from_kv_cache(self._kv_cache, slots, len(pending.token_ids))
        lock = self._lock_fds.pop(pending.req_id, None)
        try:
            save_file(
                {"hidden_states": states.contiguous(), "token_ids": pending.token_ids},
                pending.filename,
            )
        finally:
            if lock is not None:
                os.close(lock)
        self._req_copy_events[pending.req_id] = FinishedCopy()
