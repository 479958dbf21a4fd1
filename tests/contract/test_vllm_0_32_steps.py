"""What timing the engine's steps relies on inside vLLM 0.32."""

import inspect
from types import SimpleNamespace

import pytest

from dpace_serve.acceptance.decode_step import DecodeStep

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def timer():
    from dpace_serve.vllm_engine.step_clock import StepTimer

    timed, lost = [], []
    timer = StepTimer(timed.append, lost.append)
    timer.timed, timer.lost = timed, lost
    return timer


def manager_with(*loggers):
    from vllm.v1.metrics.loggers import StatLoggerManager

    manager = StatLoggerManager.__new__(StatLoggerManager)  # without vLLM's own loggers
    manager.stat_loggers = list(loggers)
    return manager


def test_vllm_0_32_an_entry_point_for_loggers_would_switch_statistics_on():
    from vllm.v1.engine.async_llm import AsyncLLM

    source = inspect.getsource(AsyncLLM.__init__)
    assert "self.log_stats = log_stats or has_custom_loggers" in source
    assert "self.logger_manager: StatLoggerManager | None = None" in source
    assert "enable_default_loggers=log_stats" in source


def test_vllm_0_32_engine_reads_its_list_of_loggers_at_every_step(timer):
    from dpace_serve.vllm_engine import step_clock

    manager = manager_with()
    step_clock.install(manager, timer)
    manager.record(stats(running=1), iteration(first=1))
    manager.record(stats(running=1), iteration(0.25, tokens=3))
    manager.log()
    manager.log_engine_initialized()
    manager.record_sleep_state(1, 0)
    manager.record_admission_rejection("max_num_queued_reqs")
    assert timer.timed == [DecodeStep(0.25, 1, 3)]


def test_vllm_0_32_engine_records_each_step_once_with_its_engine_and_in_order():
    from vllm.v1.engine.async_llm import AsyncLLM

    source = inspect.getsource(AsyncLLM._run_output_handler)
    received = source.index("outputs = await engine_core.get_output_async()")
    processed = source.index("output_processor.process_outputs(")
    recorded = source.index("logger_ref[0].record(")
    assert received < processed < recorded
    assert "engine_idx=outputs.engine_index" in source
    assert "IterationStats() if (log_stats and num_outputs) else None" in source


def test_vllm_0_32_gaps_between_tokens_are_read_on_the_engines_clock():
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.metrics.stats import IterationStats

    source = inspect.getsource(IterationStats.update_from_output)
    assert "itl = engine_core_timestamp - req_stats.last_token_ts" in source
    assert "time.monotonic()" in inspect.getsource(EngineCoreOutputs.__post_init__)


def test_vllm_0_32_scheduler_says_of_every_step_how_many_requests_it_goes_on_with():
    from vllm.v1.core.sched.scheduler import Scheduler

    update = inspect.getsource(Scheduler.update_from_output)
    removed = update.index("self.running = remove_all(self.running, stopped_running_reqs)")
    assert removed < update.index("stats := self.make_stats(")
    assert "return len(self.running)," in inspect.getsource(Scheduler.get_request_counts)
    assert "num_running_reqs=num_running" in inspect.getsource(Scheduler.make_stats)


def test_vllm_0_32_steps_of_real_outputs_are_timed(timer):
    play = Played(timer)
    play.add("a", "b")
    play.step(10.0, {"a": [1], "b": [1]}, running=2)
    play.step(10.5, {"a": [1, 2, 3], "b": [1]}, running=2)
    play.step(10.75, {"a": [1, 2], "b": [1]}, running=1, ended=["b"])
    play.add("c")
    play.step(11.5, {"a": [1]}, running=2)  # c's prompt is read in pieces
    play.step(12.0, {"a": [1], "c": [1]}, running=2)
    play.step(12.25, {"a": [1], "c": [1, 2]}, running=0, ended=["a", "c"])
    assert timer.timed == [
        DecodeStep(0.5, 2, 4),
        DecodeStep(0.25, 2, 3),
        DecodeStep(0.25, 2, 3),
    ]


def test_vllm_0_32_a_request_that_was_aborted_leaves_the_batch(timer):
    play = Played(timer)
    play.add("a", "b")
    play.step(10.0, {"a": [1], "b": [1]}, running=2)
    play.processor.abort_requests(["a"], internal=False)
    play.step(10.5, {"a": [1, 2], "b": [1, 2]}, running=1)  # the engine had computed it already
    play.step(11.0, {"b": [1]}, running=1)
    assert timer.timed == [DecodeStep(0.5, 1, 2), DecodeStep(0.5, 1, 1)]


def test_vllm_0_32_engines_side_by_side_have_clocks_of_their_own(timer):
    timer.record(stats(running=1), iteration(first=1), engine_idx=0)
    timer.record(stats(running=1), iteration(0.5, tokens=2), engine_idx=1)
    timer.record(stats(running=1), iteration(0.25, tokens=3), engine_idx=0)
    timer.record(stats(running=1), iteration(0.125, tokens=1), engine_idx=1)
    assert timer.timed == [DecodeStep(0.25, 1, 3), DecodeStep(0.125, 1, 1)]


def test_vllm_0_32_steps_without_tokens_and_without_statistics_are_taken(timer):
    timer.record(stats(running=1), iteration(first=1))
    timer.record(None, None)  # another client's part of a step
    timer.record(stats(running=1), iteration(0.25, tokens=3))
    timer.record(stats(running=1), None)
    timer.record(stats(running=1), iteration(0.5, tokens=3))
    assert (timer.timed, timer.lost) == ([DecodeStep(0.25, 1, 3)], [])


def test_vllm_0_32_an_error_of_ours_is_counted_and_never_reaches_the_engine(timer):
    timer.record(SimpleNamespace(), None)
    assert isinstance(timer.lost[0], AttributeError)


def stats(running):
    from vllm.v1.metrics.stats import SchedulerStats

    return SchedulerStats(num_running_reqs=running)


def iteration(*gaps, first=0, tokens=1):
    from vllm.v1.metrics.stats import IterationStats

    made = IterationStats()
    made.inter_token_latencies_iter = list(gaps)
    made.time_to_first_tokens_iter = [0.5] * first
    made.num_generation_tokens = tokens
    return made


class Played:
    """The engine's own processor of outputs, given steps by hand."""

    def __init__(self, timer):
        from vllm.v1.engine.output_processor import OutputProcessor

        self.processor = OutputProcessor(None, log_stats=True)
        self.timer = timer

    def add(self, *names):
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.output_processor import RequestOutputCollector

        for name in names:
            params = SamplingParams(detokenize=False)
            request = EngineCoreRequest(
                request_id=name,
                external_req_id=name,
                prompt_token_ids=[1, 2],
                mm_features=None,
                sampling_params=params,
                pooling_params=None,
                arrival_time=0.0,
                lora_request=None,
                cache_salt=None,
                data_parallel_rank=None,
            )
            queue = RequestOutputCollector(params.output_kind, name)
            self.processor.add_request(request, None, None, 0, queue)

    def step(self, timestamp, tokens, *, running, ended=()):
        from vllm.v1.engine import EngineCoreOutput, FinishReason
        from vllm.v1.metrics.stats import IterationStats

        outputs = [
            EngineCoreOutput(
                request_id=name,
                new_token_ids=new,
                finish_reason=FinishReason.LENGTH if name in ended else None,
            )
            for name, new in tokens.items()
        ]
        found = IterationStats()
        self.processor.process_outputs(outputs, timestamp, found)
        self.timer.record(stats(running), found)
