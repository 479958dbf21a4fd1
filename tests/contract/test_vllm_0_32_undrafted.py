"""What `undrafted_steps` relies on inside vLLM 0.32."""

import inspect

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_vllm_0_32_runner_sends_a_step_that_it_did_not_draft_as_lists():
    from types import SimpleNamespace

    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from dpace_serve.vllm_engine import undrafted_steps

    undrafted_steps.install()
    source = inspect.getsource(GPUModelRunner.sample_tokens)
    assert "self._copy_draft_token_ids_to_cpu(scheduler_output, zeros_only=True)" in source
    runner = object.__new__(GPUModelRunner)
    runner.use_async_scheduling = False
    runner.num_spec_tokens = 7
    runner.speculative_config = SimpleNamespace(use_dflash=lambda: True)
    runner.input_batch = SimpleNamespace(req_ids=["a", "b"])
    runner._copy_draft_token_ids_to_cpu(None, zeros_only=True)
    drafts = runner.take_draft_token_ids()
    assert (drafts.req_ids, drafts.draft_token_ids) == (["a", "b"], [[], []])


@pytest.mark.parametrize(("num_computed", "is_planned"), [(92, True), (93, False)])
def test_vllm_0_32_async_scheduler_plans_no_drafts_that_the_runner_will_not_make(
    num_computed, is_planned
):
    from types import SimpleNamespace

    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from dpace_serve.vllm_engine import undrafted_steps

    def plan(scheduler, output):
        for request in scheduler.requests.values():
            request.spec_token_ids = [-1] * 7

    speculation = SimpleNamespace(
        use_dflash=lambda: True, draft_model_config=SimpleNamespace(max_model_len=100)
    )
    scheduler = SimpleNamespace(
        vllm_config=SimpleNamespace(speculative_config=speculation),
        num_spec_tokens=7,
        requests={
            name: SimpleNamespace(num_computed_tokens=length, spec_token_ids=[])
            for name, length in (("short", 3), ("long", num_computed))
        },
    )
    undrafted_steps._planning_none(plan)(
        scheduler, SimpleNamespace(num_scheduled_tokens={"short": 1, "long": 1})
    )
    assert {bool(request.spec_token_ids) for request in scheduler.requests.values()} == {is_planned}
    # The runner's own rule, for the same longest sequence.
    runner = object.__new__(GPUModelRunner)
    runner.speculative_config, runner.num_spec_tokens = speculation, 7
    runner.effective_drafter_max_model_len = 100
    fits = runner._input_fits_in_drafter(SimpleNamespace(max_seq_len=num_computed))
    assert fits is is_planned
    assert parameters(AsyncScheduler._update_after_schedule) == ["self", "scheduler_output"]
