"""All functions of SGLang 0.5.23 that are hooked, and what is around each of them."""

from functools import cache

from dpace_serve.sglang_engine import application, embedding_dtype, step_records, weight_updates
from dpace_serve.sglang_engine.hooking import Hook

_MANAGERS = "sglang.srt.managers"
_UPDATER = f"{_MANAGERS}.scheduler_components.weight_updater.SchedulerWeightUpdaterManager"


@cache
def all_hooks() -> tuple[Hook, ...]:
    """Every hook; the same objects at each call, so that they can be found again."""
    return (
        Hook(
            f"{_MANAGERS}.scheduler.Scheduler.get_init_info",
            ("self",),
            step_records.report_start,
        ),
        Hook(
            f"{_MANAGERS}.scheduler.Scheduler.get_output_streamer_class",
            ("self",),
            step_records.stream_steps,
        ),
        Hook(
            f"{_MANAGERS}.scheduler.Scheduler.get_internal_state",
            ("self", "recv_req"),
            step_records.report_state,
        ),
        Hook(
            f"{_MANAGERS}.schedule_batch.Req.update_spec_correct_drafts_histogram",
            ("self", "num_correct_drafts"),
            step_records.note_step,
        ),
        Hook(
            "sglang.srt.speculative.base_spec_worker.BaseSpecWorker.on_verify_complete_cpu",
            ("self", "num_correct_drafts_per_req", "batch_size"),
            step_records.count_verified,
        ),
        Hook(
            f"{_MANAGERS}.tokenizer_manager.TokenizerManager.update_request_meta_info",
            ("self", "meta_info", "state", "customized_info", "index", "finish_reason"),
            step_records.keep_from_client,
        ),
        Hook(
            "sglang.srt.model_executor.model_runner.ModelRunner._extend_forward_kwargs",
            ("self", "forward_batch", "pp_proxy_tensors"),
            embedding_dtype.keep_dtype,
        ),
        Hook(
            f"{_UPDATER}.update_weights_from_tensor",
            ("self", "recv_req"),
            weight_updates.load_drafter_only,
        ),
        *(
            Hook(f"{_UPDATER}.{name}", ("self", "recv_req"), around)
            for name, around in weight_updates.refusals().items()
        ),
        Hook(
            "sglang.srt.entrypoints.http_server._setup_and_run_http_server",
            (
                "server_args",
                "tokenizer_manager",
                "template_manager",
                "port_args",
                "scheduler_infos",
                "subprocess_watchdog",
                "execute_warmup_func",
                "launch_callback",
            ),
            application.serve_with_routes,
        ),
    )
