"""What draft lengths by batch size rely on inside vLLM 0.32."""

import inspect

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_vllm_0_32_scheduler_looks_its_length_up_at_every_step():
    from vllm.v1.core.sched.scheduler import Scheduler

    assert "self.dynamic_sd_lookup[" in inspect.getsource(Scheduler.schedule)
    # Nothing else of the scheduler keeps a copy of the table.
    source = inspect.getsource(Scheduler)
    assert source.count("self.dynamic_sd_lookup = ") == 1
    assert source.count("self.dynamic_sd_lookup: list[int] | None = None") == 1


def test_vllm_0_32_table_is_made_by_a_function_of_this_signature():
    from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

    lookup = build_dynamic_sd_schedule_lookup(
        [[1, 2, 7], [3, 4, 0]], vllm_max_batch_size=6, vllm_num_speculative_tokens=7
    )
    assert lookup[1:] == [7, 7, 0, 0, 0, 0]


def test_vllm_0_32_drops_the_table_under_data_parallelism_with_a_warning_only():
    from vllm.config import VllmConfig

    source = inspect.getsource(VllmConfig._maybe_disable_dynamic_sd_for_data_parallel)
    assert "speculative_config.num_speculative_tokens_per_batch_size = None" in source
    assert "raise" not in source


def test_vllm_0_32_asynchronous_scheduler_plans_as_many_drafts_as_the_runner_is_told_to_make():
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    planned = inspect.getsource(AsyncScheduler._update_after_schedule)
    assert "] * scheduler_output.num_spec_tokens_to_schedule" in planned
    made = inspect.getsource(GPUModelRunner.propose_draft_token_ids)
    assert "scheduler_output.num_spec_tokens_to_schedule" in made


def test_vllm_0_32_skips_the_drafter_by_the_longest_length_whatever_the_step_drafts():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    # `undrafted_steps` plans no drafts by the same number.
    source = inspect.getsource(GPUModelRunner._input_fits_in_drafter)
    assert "num_drafter_query_tokens = self.num_spec_tokens + (" in source


def test_vllm_0_32_computes_the_drafters_context_also_where_nothing_is_drafted():
    from vllm.v1.spec_decode.dflash import DFlashProposer

    source = inspect.getsource(DFlashProposer.propose)
    context = source.index("self.build_model_inputs_first_pass(")
    assert context < source.index("if self.num_speculative_tokens == 0:")
    first_pass = inspect.getsource(DFlashProposer.build_model_inputs_first_pass)
    assert "self.model.precompute_and_store_context_kv(" in first_pass
