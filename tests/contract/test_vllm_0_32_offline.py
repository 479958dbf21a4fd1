"""What the offline engine relies on inside vLLM 0.32."""

import dataclasses
import inspect

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_vllm_0_32_counts_layer_outputs_from_one():
    from vllm.model_executor.models.llama import LlamaModel
    from vllm.model_executor.models.qwen2 import Qwen2Model

    from dpace_serve.vllm_engine.offline_process import engine_layer_ids

    for model in (LlamaModel, Qwen2Model):
        source = inspect.getsource(model.forward)
        layer = source.index("for idx, layer in ")
        assert source.index("aux_hidden_states, idx + 1, hidden_states, residual") > layer
    assert engine_layer_ids((0, 27)) == [1, 28]


def test_vllm_0_32_sorts_layers_and_drops_repeated_ones():
    from vllm.model_executor.models.interfaces import EagleModelMixin

    source = inspect.getsource(EagleModelMixin._set_aux_hidden_state_layers)
    assert "tuple(sorted(set(layers)))" in source


def test_vllm_0_32_leaves_the_export_out_without_a_word_where_a_draft_has_no_room():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    source = inspect.getsource(GPUModelRunner._input_fits_in_drafter)
    assert "max_seq_len + num_drafter_query_tokens" in source
    assert "<= self.effective_drafter_max_model_len" in source


def test_vllm_0_32_export_settings_build_a_configuration(tmp_path):
    from vllm.config.kv_transfer import KVTransferConfig
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
        ExampleHiddenStatesConnector,
    )

    from dpace_serve.vllm_engine.cpu_hidden_states import CpuHiddenStatesConnector
    from dpace_serve.vllm_engine.offline_calls import ExportSettings
    from dpace_serve.vllm_engine.offline_process import export_arguments

    for is_cpu, expected in (
        (False, ExampleHiddenStatesConnector),
        (True, CpuHiddenStatesConnector),
    ):
        arguments = export_arguments(ExportSettings((1,), tmp_path), is_cpu=is_cpu)
        config = KVTransferConfig(**arguments["kv_transfer_config"])
        assert config.is_kv_producer
        assert KVConnectorFactory.get_connector_class(config) is expected


def test_vllm_0_32_writes_one_file_and_its_lock_in_a_method_that_ours_overrides():
    from vllm.distributed.kv_transfer.kv_connector.v1 import example_hidden_states_connector

    from dpace_serve.vllm_engine.cpu_hidden_states import CpuHiddenStatesConnector

    upstream = example_hidden_states_connector.ExampleHiddenStatesConnector
    assert parameters(CpuHiddenStatesConnector._submit_async_write) == parameters(
        upstream._submit_async_write
    )
    source = inspect.getsource(upstream._submit_async_write)
    for name in ("_is_tp_rank_zero", "_kv_cache", "_block_size", "_lock_fds", "_req_copy_events"):
        assert f"self.{name}" in source
    assert '"hidden_states": pinned_hs' in source
    assert '"token_ids": pending.token_ids' in source
    assert 'lock_path = pending.filename + ".lock"' in source
    fields = dataclasses.fields(example_hidden_states_connector.PendingSave)
    assert [field.name for field in fields] == ["req_id", "filename", "token_ids", "block_ids"]


def test_vllm_0_32_writer_needs_pinned_memory_so_a_cpu_needs_ours():
    from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
        ExampleHiddenStatesConnector,
    )

    source = inspect.getsource(ExampleHiddenStatesConnector._submit_async_write)
    assert "pin_memory=True" in source
    assert "torch.cuda.Event()" in source


def test_vllm_0_32_asks_a_copy_only_whether_it_is_done():
    from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
        ExampleHiddenStatesConnector,
    )

    source = inspect.getsource(ExampleHiddenStatesConnector.get_finished)
    assert source.count("event.") == source.count("event.query()") == 1


def test_vllm_0_32_engine_in_this_process_steps_without_unfinished_requests():
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    assert "if not self.scheduler.has_requests():" in inspect.getsource(EngineCore.step)
    assert "self.has_finished_requests()" in inspect.getsource(Scheduler.has_requests)


def test_vllm_0_32_lengthens_the_ids_of_requests_that_it_queues():
    from vllm import LLM
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import RequestState

    source = inspect.getsource(InputProcessor.assign_request_id)
    assert 'request.request_id = f"{request.external_req_id}-{random_uuid():.8}"' in source
    assert "external_req_id" in inspect.getsource(RequestState.make_request_output)
    assert {"prompts", "sampling_params", "use_tqdm"} <= set(parameters(LLM.enqueue))
