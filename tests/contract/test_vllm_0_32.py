"""What we rely on inside vLLM 0.32; after an upgrade these say which seam has moved."""

import dataclasses
import importlib
import inspect

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_vllm_0_32_is_the_engine():
    import vllm

    assert vllm.__version__.startswith("0.32.")


def test_vllm_0_32_runner_builds_and_recognises_its_proposer_by_a_module_level_name():
    runner = importlib.import_module("vllm.v1.worker.gpu_model_runner")
    source = inspect.getsource(runner.GPUModelRunner)
    assert "DFlashProposer" in vars(runner)
    assert "self.drafter = DFlashProposer(self.vllm_config, self.device, self)" in source
    assert "dflash.DFlashProposer" not in source


def test_vllm_0_32_proposer_has_the_methods_that_ours_overrides():
    from vllm.v1.spec_decode.dflash import DFlashProposer

    from dpace_serve.vllm_engine.proposer import DpaceProposer

    for name in (
        "__init__",
        "propose",
        "load_model",
        "initialize_attn_backend",
        "initialize_cudagraph_keys",
        "dummy_run",
        "_sample_draft_tokens",
    ):
        assert parameters(getattr(DpaceProposer, name)) == parameters(getattr(DFlashProposer, name))


def test_vllm_0_32_proposer_reads_these_fields_of_the_batch_and_no_other():
    import re

    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.spec_decode.dflash import DFlashProposer

    source = inspect.getsource(DFlashProposer.set_inputs_first_pass)
    read = set(re.findall(r"\bcad\.(\w+)", source))
    assert read == {
        "batch_size",
        "block_table_tensor",
        "max_query_len",
        "max_seq_len",
        "num_reqs",
        "query_start_loc",
        "seq_lens",
        "seq_lens_cpu_upper_bound",
    }
    fields = {field.name for field in dataclasses.fields(CommonAttentionMetadata)}
    assert read - {"batch_size"} < fields
    # Its positions start each row with the anchor, which is what shadow drafts are kept under.
    assert "out_query_positions_ptr=self.positions" in source


def test_vllm_0_32_proposer_builds_its_drafter_in_a_method_that_names_no_prefix():
    from vllm.model_executor.model_loader import get_model
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader
    from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer

    source = inspect.getsource(SpecDecodeBaseProposer._get_model)
    assert 'set_model_tag("eagle_head")' in source
    assert "prefix" not in source
    assert parameters(get_model) == ["vllm_config", "model_config", "prefix", "load_config"]
    assert parameters(BaseModelLoader.load_weights) == ["self", "model", "model_config"]


def test_vllm_0_32_attention_layers_enter_themselves_by_name_where_their_cache_is_found():
    from vllm.model_executor.layers.attention.attention import Attention
    from vllm.v1.worker import utils

    source = inspect.getsource(Attention.__init__)
    assert "compilation_config.static_forward_context" in source
    assert "Duplicate layer name" in source
    assert "forward_context[layer_name].bind_kv_cache" in inspect.getsource(
        utils.bind_kv_cache_to_layers
    )


def test_vllm_0_32_runner_marks_rows_whose_prompt_is_not_read_to_its_end():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    source = inspect.getsource(GPUModelRunner._prepare_inputs)
    assert "self.discard_request_mask.np[:num_reqs] = (" in source
    assert "self.optimistic_seq_lens_cpu[:num_reqs].numpy() < num_tokens_np" in source


def test_vllm_0_32_workers_take_an_extension_and_additional_configuration():
    from vllm.config import ParallelConfig, VllmConfig

    assert "worker_extension_cls" in {field.name for field in dataclasses.fields(ParallelConfig)}
    assert "additional_config" in {field.name for field in dataclasses.fields(VllmConfig)}


def test_vllm_0_32_scheduler_counts_a_step_before_it_trims_the_answer():
    from vllm.v1.core.sched.scheduler import Scheduler

    source = inspect.getsource(Scheduler.update_from_output)
    counted = source.index("request.spec_decode_metrics.observe(")
    trimmed = source.index("self._update_request_with_output(")
    sent = source.index("spec_decode_metrics=(")
    assert counted < trimmed < sent


def test_vllm_0_32_scheduler_trims_in_a_method_of_this_signature():
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    expected = ["self", "request", "new_token_ids", "is_stale"]
    assert parameters(Scheduler._update_request_with_output) == expected
    assert parameters(AsyncScheduler._update_request_with_output) == expected
    source = inspect.getsource(AsyncScheduler._update_request_with_output)
    assert "super()._update_request_with_output(" in source


def test_vllm_0_32_counts_of_a_request_have_these_fields_and_travel_whole():
    import msgspec
    from vllm.v1.metrics.stats import RequestSpecDecodeMetrics

    assert [field.name for field in dataclasses.fields(RequestSpecDecodeMetrics)] == [
        "num_spec_tokens",
        "histogram",
        "num_draft_tokens",
        "per_step_accepted",
        "per_step_drafted",
    ]
    counts = RequestSpecDecodeMetrics.new(7)
    counts.observe(num_draft_tokens=7, num_accepted=5, detailed=True)
    counts.per_step_accepted[-1:] = [3, 2]
    packed = msgspec.msgpack.encode(counts)
    assert msgspec.msgpack.decode(packed, type=RequestSpecDecodeMetrics) == counts


def test_vllm_0_32_endpoint_plugins_have_this_protocol():
    from vllm.plugins.endpoint_plugins.interface import EndpointPlugin

    from dpace_serve.vllm_engine.plugin import AcceptanceEndpoint

    endpoint = AcceptanceEndpoint()
    assert isinstance(endpoint, EndpointPlugin)
    assert parameters(EndpointPlugin.attach_router) == ["self", "app"]
    assert parameters(EndpointPlugin.init_state) == ["self", "engine_client", "state", "args"]


def test_vllm_0_32_plugin_groups_are_called_as_our_entry_points_are():
    from vllm import plugins

    from dpace_serve.vllm_engine import start_checks

    assert plugins.DEFAULT_PLUGINS_GROUP == start_checks.GENERAL_GROUP
    assert plugins.ENDPOINT_PLUGINS_GROUP == start_checks.ENDPOINT_GROUP


def test_vllm_0_32_server_is_one_coroutine_of_the_launcher():
    from vllm.entrypoints.launchers.api_server import entry

    assert inspect.iscoroutinefunction(entry.run_server)
    assert parameters(entry.run_server)[0] == "args"
    assert callable(entry.main)


def test_vllm_0_32_generate_takes_these_arguments_first():
    from vllm.v1.engine.async_llm import AsyncLLM

    assert parameters(AsyncLLM.generate)[:4] == ["self", "prompt", "sampling_params", "request_id"]


def test_vllm_0_32_cpu_platform_refuses_the_executor_by_its_short_name_only(monkeypatch):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.executor.abstract import Executor

    from dpace_serve.demo import bundle
    from dpace_serve.vllm_engine.server import UNIPROC_EXECUTOR

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    chosen = {}
    for backend in ("uni", UNIPROC_EXECUTOR):
        args = EngineArgs(
            model=str(bundle.target_folder()),
            max_model_len=64,
            distributed_executor_backend=backend,
        )
        chosen[backend] = Executor.get_class(args.create_engine_config()).__name__
    assert chosen == {"uni": "MultiprocExecutor", UNIPROC_EXECUTOR: "UniProcExecutor"}


def test_vllm_0_32_drains_when_given_a_shutdown_timeout():
    from vllm.config import VllmConfig

    assert VllmConfig.__dataclass_fields__["shutdown_timeout"].type in (int, "int")


@pytest.mark.parametrize(("is_async", "is_stale"), [(False, False), (True, False), (True, True)])
def test_vllm_0_32_schedulers_split_the_step_that_an_answer_ends_in(is_async, is_stale):
    from vllm import SamplingParams
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.metrics.stats import RequestSpecDecodeMetrics
    from vllm.v1.request import Request

    from dpace_serve.vllm_engine import settlement

    settlement.install()
    scheduler = object.__new__(AsyncScheduler if is_async else Scheduler)
    scheduler.max_model_len = 100
    scheduler.kv_cache_manager = None  # used for running requests only
    request = Request("r", [1, 2], SamplingParams(max_tokens=5, ignore_eos=True), None)
    request.num_output_placeholders = 20
    request.spec_decode_metrics = RequestSpecDecodeMetrics.new(7)

    # A step without drafts comes first, then one that accepted 6: only 4 of its 7 tokens fit.
    assert scheduler._update_request_with_output(request, [9], is_stale) == ([9], False)
    request.spec_decode_metrics.observe(num_draft_tokens=7, num_accepted=6, detailed=True)
    emitted, stopped = scheduler._update_request_with_output(request, list(range(10, 17)), is_stale)

    assert (emitted, stopped) == ([10, 11, 12, 13], True)
    # What was sent before a preemption is emitted, but its placeholders are gone already.
    assert request.num_output_placeholders == (15 if is_async and not is_stale else 20)
    assert request.spec_decode_metrics.per_step_accepted == [4, 2]
    assert request.spec_decode_metrics.per_step_drafted == [4, 3]
    assert request.spec_decode_metrics.histogram == [0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("plugins", "is_split"), [(None, False), ("dpace", False), ("dpace,dpace_http", True)]
)
def test_the_settlement_is_there_only_where_the_recorder_is(plugins, is_split, monkeypatch):
    from dpace_serve.vllm_engine import plugin, settlement

    installed = []
    monkeypatch.setattr(settlement, "install", lambda: installed.append(True))
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    if plugins is not None:
        monkeypatch.setenv("VLLM_PLUGINS", plugins)
    plugin.register()
    assert bool(installed) is is_split


def test_registering_twice_leaves_one_proposer_and_one_wrapped_scheduler(monkeypatch):
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker import gpu_model_runner

    from dpace_serve.vllm_engine import plugin

    monkeypatch.setenv("VLLM_PLUGINS", "dpace,dpace_http")
    plugin.register()
    first = (gpu_model_runner.DFlashProposer, Scheduler._update_request_with_output)
    plugin.register()
    assert (gpu_model_runner.DFlashProposer, Scheduler._update_request_with_output) == first
    assert gpu_model_runner.DFlashProposer.__name__ == "DpaceProposer"
    assert plugin.is_registered()


def test_vllm_0_32_cpu_leaves_the_weights_of_layers_that_say_so():
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    source = inspect.getsource(UnquantizedLinearMethod.process_weights_after_loading)
    assert 'if getattr(layer, "_cpu_skip_gemm_dispatch", False):' in source
    assert "layer.cpu_linear = torch.nn.functional.linear" in source
