"""The process of a tuning engine: answers prompts at a fixed batch size and times each step.

vLLM is imported late: its variables must be set before.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.errors import ConfigError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import server
from dpace_serve.vllm_engine.block_schedule import TABLE_KEY, require_one_replica
from dpace_serve.vllm_engine.engine_process import answer_calls
from dpace_serve.vllm_engine.settlement import join_cut_step
from dpace_serve.vllm_engine.tuning_calls import (
    EngineFacts,
    PrepareCall,
    TrafficCall,
    TrafficRun,
    TunedAnswer,
    TuningPrompt,
)

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.tokenizers import TokenizerLike
    from vllm.v1.engine.llm_engine import LLMEngine

    from dpace_serve.vllm_engine.draft_lengths import DraftLengths

# The scheduler, whose table changes, stays in this process.
REQUIRED_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
DEFAULT_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Results of commands stand on stdout.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


@dataclass(slots=True)
class _Tuned:
    engine: "LLMEngine"
    lengths: "DraftLengths"
    prompts: tuple[tuple[int, ...], ...] = ()
    max_new_tokens: int = 0
    num_asked: int = 0


def run(connection: Connection, config: ServeConfig) -> None:
    """Answer calls until the other end of the pipe is closed.

    Args:
        connection: Carries None once the engine is ready, then the result of each call.
        config: What would be served, without a schedule.
    """
    answer_calls(connection, lambda: _start(config), _results)


def _start(config: ServeConfig) -> _Tuned:
    os.environ.update(REQUIRED_ENVIRONMENT)
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    args = server.prepared_arguments(config)
    require_one_replica(args)
    longest = args.speculative_config["num_speculative_tokens"]
    # Any table, so that the engine is set up for lengths that change.
    args.speculative_config[TABLE_KEY] = [[1, 1, longest]]
    # Rounds repeat their prompts, and each round has to compute them.
    args.enable_prefix_caching = False

    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    from dpace_serve.vllm_engine.draft_lengths import DraftLengths

    if current_platform.is_cpu():
        # A served engine starts with this variable; torch is already here.
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    arguments = EngineArgs.from_cli_args(args)
    arguments.disable_log_stats = True
    # The engine's own limits depend on who asks.
    engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
    return _Tuned(engine, DraftLengths(engine))


def _results(tuned: _Tuned, call: PrepareCall | TrafficCall) -> Iterator[EngineFacts | TrafficRun]:
    yield _prepare(tuned, call) if isinstance(call, PrepareCall) else _answer(tuned, call)


def _prepare(tuned: _Tuned, call: PrepareCall) -> EngineFacts:
    import vllm
    from vllm.platforms import current_platform

    config = tuned.engine.vllm_config
    tokenizer = tuned.engine.get_tokenizer()
    tuned.prompts = tuple(prompt_token_ids(tokenizer, prompt) for prompt in call.prompts)
    tuned.max_new_tokens = call.max_new_tokens
    # Near its limit the drafter is skipped, so an answer must not come there.
    room = config.model_config.max_model_len - config.num_speculative_tokens - 1
    for prompt, token_ids in zip(call.prompts, tuned.prompts, strict=True):
        if len(token_ids) + call.max_new_tokens > room:
            raise ConfigError(
                f"{prompt.place}: a prompt and its answer must fit into {room} tokens, got "
                f"{len(token_ids)} and max_new_tokens = {call.max_new_tokens}. Lower "
                "max_new_tokens, or leave the prompt out."
            )
    return EngineFacts(
        engine=f"vllm {vllm.__version__}",
        device=current_platform.get_device_name() or current_platform.device_type,
        max_num_seqs=config.scheduler_config.max_num_seqs,
    )


def prompt_token_ids(tokenizer: "TokenizerLike", prompt: TuningPrompt) -> tuple[int, ...]:
    """What the target is given.

    Raises:
        ConfigError: If its chat template does not take the chat.
    """
    if isinstance(prompt.asked, str):
        return tuple(tokenizer.encode(prompt.asked))
    from jinja2 import TemplateError

    messages = [asdict(message) for message in prompt.asked]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (TemplateError, ValueError) as error:  # of the template; where there is none
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"{prompt.place}: the target's chat template must take the messages, but: {reason}. "
            "Change the line, or write it as a prompt."
        ) from None
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _answer(tuned: _Tuned, call: TrafficCall) -> TrafficRun:
    tuned.lengths.set(call.ranges)
    # A constant length is one range.
    num_draft_tokens = call.ranges[0][2] if len(call.ranges) == 1 else None
    waiting = deque(call.places)
    places: dict[str, int] = {}
    answers, full_steps = [], []
    num_tokens = 0
    started = time.perf_counter()
    for _ in range(min(call.batch_size, len(waiting))):
        _ask(tuned, call, waiting.popleft(), places)
    while tuned.engine.has_unfinished_requests():
        before = time.perf_counter()
        outputs = tuned.engine.step()
        elapsed = time.perf_counter() - before
        if num_draft_tokens is not None and tuned.lengths.was_full(
            call.batch_size, num_draft_tokens
        ):
            full_steps.append(elapsed)
        for output in outputs:
            answers.append(_settled(output, places.pop(output.request_id)))
            num_tokens += len(output.outputs[0].token_ids)
            if waiting:
                _ask(tuned, call, waiting.popleft(), places)
    seconds = time.perf_counter() - started
    return TrafficRun(tuple(answers), num_tokens, seconds, tuple(full_steps))


def _ask(tuned: _Tuned, call: TrafficCall, place: int, places: dict[str, int]) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    name = str(tuned.num_asked)
    tuned.num_asked += 1
    places[name] = place
    tuned.engine.add_request(
        name,
        {"prompt_token_ids": list(tuned.prompts[place])},
        SamplingParams(
            temperature=call.temperature,
            max_tokens=tuned.max_new_tokens,
            seed=call.seed + place if call.temperature > 0 else None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        ),
    )


def _settled(output: "RequestOutput", place: int) -> TunedAnswer:
    answer = output.outputs[0]
    counts = answer.spec_decode_metrics
    num_later = len(answer.token_ids) - 1  # the first token is the prompt's own
    if counts is None or not sum(counts.histogram):
        return TunedAnswer(place, accepted=0, steps=num_later)
    emitted_by_last_step = join_cut_step(counts)
    settled = settle_last_step(
        counts.per_step_accepted, counts.per_step_drafted, emitted_by_last_step
    )
    num_undrafted = num_later - settled.emitted_tokens
    return TunedAnswer(
        place,
        accepted=sum(settled.per_step_accepted),
        steps=len(settled.per_step_accepted) + num_undrafted,
    )
