"""In the scheduler: the one way to other weights is a drafter of ours, and never the target.

SGLang's own updates write whatever fits by name and shape. Its update from a folder has no choice
of model: given a drafter, it writes the drafter's layers over those of the target and reports
success.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dpace_serve.drafter import content
from dpace_serve.drafter.weight_files import find_weight_files
from dpace_serve.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from sglang.srt.managers.io_struct import (
        UpdateWeightsFromTensorReqInput,
        UpdateWeightsFromTensorReqOutput,
    )
    from sglang.srt.managers.scheduler_components.weight_updater import (
        SchedulerWeightUpdaterManager,
    )
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2

logger = logging.getLogger(__name__)

LOAD_FORMAT = "dpace_drafter"
"""Marks a request of ours among SGLang's weight updates."""
BUSY = "requests are running"
"""Answer that asks for another try."""
_REFUSED = (
    "weights must not be changed under this server, because they could be the target's. Change its "
    "drafter with `dpace drafter swap`, or start a server without the dpace plugin."
)
_OUTPUTS = {
    "update_weights_from_disk": "UpdateWeightFromDiskReqOutput",
    "update_weights_from_distributed": "UpdateWeightsFromDistributedReqOutput",
    "update_weights_from_ipc": "UpdateWeightsFromIPCReqOutput",
    "begin_weight_update": "BeginWeightUpdateReqOutput",
    "init_weights_update_group": "InitWeightsUpdateGroupReqOutput",
}


def payload(folder: Path, revision: str) -> list[bytes]:
    """What a request of ours carries in the place of tensors."""
    return [json.dumps({"folder": str(folder), "revision": revision}).encode()]


@cache
def refusals() -> dict[str, Callable[..., object]]:
    """What is put around each of SGLang's weight updates, by the name of its method."""
    return {name: _refusal(name, output) for name, output in _OUTPUTS.items()}


def load_drafter_only(
    original: Callable[..., object],  # noqa: ARG001  (SGLang's own way is closed)
    updater: "SchedulerWeightUpdaterManager",
    recv_req: "UpdateWeightsFromTensorReqInput",
) -> "UpdateWeightsFromTensorReqOutput":
    """Write a drafter's weights over those of the drafter, or say why not; all or nothing."""
    from sglang.srt.managers import io_struct

    success, message = False, _REFUSED
    if recv_req.load_format == LOAD_FORMAT:
        wanted = json.loads(recv_req.serialized_named_tensors[0])
        success, message = _loaded(updater, Path(wanted["folder"]), wanted["revision"])
    return io_struct.UpdateWeightsFromTensorReqOutput(success=success, message=message)


def _refusal(name: str, output: str) -> Callable[..., object]:
    def refuse(*asked: object) -> object:  # noqa: ARG001  (nothing is looked at)
        from sglang.srt.managers import io_struct

        logger.warning("%s was refused: %s", name, _REFUSED)
        answer: object = getattr(io_struct, output)(success=False, message=_REFUSED)
        return answer

    return refuse


def _loaded(
    updater: "SchedulerWeightUpdaterManager", folder: Path, revision: str
) -> tuple[bool, str]:
    # Keys and values of the former drafter are in the cache; flushing fails where requests run.
    if not updater.flush_cache(empty_cache=False):
        return False, BUSY
    worker = updater.draft_worker
    [(_, runner)] = worker.weight_update_runners()
    try:
        with content.pinned_weights(folder, revision) as pinned, _undone(runner.model):
            _write(runner, pinned.folder)
            pinned.require_untouched()
            _refresh_copies(worker)
    except CheckpointError as error:
        _refresh_copies(worker)
        return False, str(error)
    except Exception as error:
        logger.exception("%s could not be loaded", folder)
        _refresh_copies(worker)
        return False, f"the engine could not load {folder} ({error}). Its log says why."
    updater.scheduler.dpace_revision = revision
    return True, ""


def _write(runner: "ModelRunner", pinned: Path) -> None:
    import torch

    from dpace_serve.drafter import tensors

    given = tensors.load(find_weight_files(pinned))
    runner.weight_updater.begin_weight_update()
    runner.model.load_weights(list(given.items()))
    runner.weight_updater.end_weight_update(run_post_load=False)
    for name, parameter in runner.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise CheckpointError(
                f"{name} must be finite numbers, but is not. Train the drafter again."
            )
        if name in given and not torch.equal(parameter, given[name].to(parameter)):
            raise CheckpointError(
                f"{name} must be as in the file after loading, but is not. Look into the log, and "
                "start a server with this drafter."
            )


@contextmanager
def _undone(model: "torch.nn.Module") -> Iterator[None]:
    """Write the former weights back if what is done inside fails."""
    import torch

    former = {name: value.detach().clone() for name, value in model.named_parameters()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(former[name])
        raise


def _refresh_copies(worker: "DFlashWorkerV2") -> None:
    """Stack again what SGLang's fused context projection keeps a copy of, where it has one."""
    if worker._fused_kv_helper is not None:  # noqa: SLF001  (SGLang's own updates forget it)
        worker._init_fused_kv_helper()  # noqa: SLF001  (there is no public way)
