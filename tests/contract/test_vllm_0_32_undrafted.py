"""What `undrafted_steps` relies on inside vLLM 0.32."""

import inspect
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def parameters(function):
    return list(inspect.signature(function).parameters)


def speculation(limit=100):
    return SimpleNamespace(
        use_dflash=lambda: True,
        draft_model_config=SimpleNamespace(max_model_len=limit),
        draft_sample_method="greedy",
        num_speculative_tokens=7,
    )


def test_vllm_0_32_runner_asks_and_hands_out_by_these_methods():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    assert parameters(GPUModelRunner._input_fits_in_drafter) == ["self", "common_attn_metadata"]
    assert parameters(GPUModelRunner.take_draft_token_ids) == ["self"]
    source = inspect.getsource(GPUModelRunner.sample_tokens)
    assert "input_fits_in_drafter = self._input_fits_in_drafter(" in source
    assert "propose_draft_token_ids(sampled_token_ids)" in source
    # Drafts of probabilities are kept for all rows of a batch.
    kept = inspect.getsource(GPUModelRunner.propose_draft_token_ids)
    assert "self._draft_prob_req_ids = self.input_batch.req_ids.copy()" in kept


def test_vllm_0_32_runner_always_calls_a_block_drafter_and_takes_no_drafts_that_it_did_not_make():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from dpace_serve.vllm_engine import undrafted_steps

    undrafted_steps.install()
    runner = object.__new__(GPUModelRunner)
    runner.speculative_config, runner.num_spec_tokens = speculation(), 7
    runner.effective_drafter_max_model_len = 100
    assert runner._input_fits_in_drafter(SimpleNamespace(max_seq_len=99))
    assert not runner._input_fits_in_drafter(None)
    runner.drafter = SimpleNamespace(without_room=frozenset({"b"}))
    runner._draft_token_ids = [[1, 2], [0, 0], [3, 4]]
    runner._draft_token_req_ids = ["a", "b", "c"]
    runner.input_batch = SimpleNamespace(req_ids=["a", "b", "c"])
    drafts = runner.take_draft_token_ids()
    assert (drafts.req_ids, drafts.draft_token_ids) == (["a", "b", "c"], [[1, 2], [], [3, 4]])


@pytest.mark.parametrize(("length", "has_room"), [(92, True), (93, False)])
def test_vllm_0_32_runner_has_the_same_rule_for_a_single_sequence(length, has_room):
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from dpace_serve.vllm_engine import undrafted_steps
    from dpace_serve.vllm_engine.draft_room import rows_with_room

    undrafted_steps.install()
    runner = object.__new__(GPUModelRunner)
    runner.speculative_config, runner.num_spec_tokens = speculation(), 7
    runner.effective_drafter_max_model_len = 100
    own = GPUModelRunner._input_fits_in_drafter.__wrapped__
    assert own(runner, SimpleNamespace(max_seq_len=length)) is has_room
    assert rows_with_room([3, length], speculation(), 1000) == ([0, 1] if has_room else [0])
    sampled = speculation()
    sampled.draft_sample_method = "probabilistic"
    assert rows_with_room([3, length], sampled, 1000) == ([0, 1] if has_room else [])


def test_vllm_0_32_async_scheduler_plans_no_drafts_that_the_runner_will_not_make():
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    from dpace_serve.vllm_engine import undrafted_steps

    def plan(scheduler, output):
        for request in scheduler.requests.values():
            request.spec_token_ids = [-1] * 7

    scheduler = SimpleNamespace(
        vllm_config=SimpleNamespace(speculative_config=speculation()),
        max_model_len=1000,
        requests={
            name: SimpleNamespace(num_computed_tokens=length, spec_token_ids=[])
            for name, length in (("short", 3), ("long", 93))
        },
    )
    undrafted_steps._planning_none(plan)(
        scheduler, SimpleNamespace(num_scheduled_tokens={"short": 1, "long": 1})
    )
    planned = {name: request.spec_token_ids for name, request in scheduler.requests.items()}
    assert planned == {"short": [-1] * 7, "long": []}
    assert parameters(AsyncScheduler._update_after_schedule) == ["self", "scheduler_output"]


def test_vllm_0_32_schedulers_pad_requests_that_enter_and_count_what_is_scheduled_after_that():
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    source = inspect.getsource(Scheduler.schedule)
    waiting = source.index("# Next, schedule the WAITING requests.")
    assert source.index("pad_spec_decode = True") > waiting
    assert source.rindex("self._update_after_schedule(scheduler_output)") > source.index(
        "scheduler_output = SchedulerOutput("
    )
    counted = inspect.getsource(Scheduler._update_after_schedule.__wrapped__)
    assert "scheduler_output.num_scheduled_tokens" in counted
    planned = inspect.getsource(AsyncScheduler._update_after_schedule.__wrapped__)
    assert "super()._update_after_schedule(scheduler_output)" in planned


def test_vllm_0_32_padding_of_requests_that_enter_is_taken_off_and_drafts_stay():
    from vllm.v1.core.sched.scheduler import Scheduler

    from dpace_serve.vllm_engine import undrafted_steps

    undrafted_steps.install()
    scheduled = {"running": 8, "new": 8, "resumed": 8, "prompt": 50}
    output = SimpleNamespace(
        scheduled_new_reqs=[SimpleNamespace(req_id="new"), SimpleNamespace(req_id="prompt")],
        scheduled_cached_reqs=SimpleNamespace(resumed_req_ids={"resumed"}),
        num_scheduled_tokens=dict(scheduled),
        total_num_scheduled_tokens=74,
        scheduled_spec_decode_tokens={
            "running": [1] * 7,
            "new": [-1] * 7,
            "resumed": [-1] * 7,
        },
        has_structured_output_requests=False,
    )
    scheduler = object.__new__(Scheduler)
    scheduler.vllm_config = SimpleNamespace(speculative_config=speculation())
    scheduler.defer_block_free = False
    scheduler._inflight_prefills = SimpleNamespace(discard=lambda request: None)
    scheduler.requests = {
        name: SimpleNamespace(
            num_computed_tokens=0,
            num_in_flight_tokens=0,
            num_tokens=1,
            num_output_placeholders=0,
            use_structured_output=False,
        )
        for name in scheduled
    }
    scheduler._update_after_schedule(output)
    assert output.num_scheduled_tokens == {"running": 8, "new": 1, "resumed": 1, "prompt": 50}
    assert output.total_num_scheduled_tokens == 60
    assert output.scheduled_spec_decode_tokens == {"running": [1] * 7}
    computed = {name: each.num_computed_tokens for name, each in scheduler.requests.items()}
    assert computed == output.num_scheduled_tokens


def test_vllm_0_32_drafter_stores_the_keys_of_a_step_where_the_targets_own_slots_are():
    from vllm.v1.spec_decode.dflash import DFlashProposer
    from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    source = inspect.getsource(GPUModelRunner._build_attention_metadata)
    assert "cm.slot_mapping = slot_mappings[kv_cache_gid]" in source
    assert "if self.drafter.kv_cache_gid == kv_cache_gid:" in source
    read = inspect.getsource(SpecDecodeBaseProposer.propose)
    assert "self.model.combine_hidden_states(" in read
    stored = inspect.getsource(DFlashProposer.build_model_inputs_first_pass)
    assert "self.model.precompute_and_store_context_kv(" in stored
