"""How much faster the replay measures acceptance than decoding does, on the bundled models.

    python -m dpace_training.bench.replay --json result.json

Processor time of one thread, all in one run. Decoding is the loop of `evaluation.decode`, a prompt
at a time: target and drafter, from the prompt to the end of the answer. The replay needs the answer
beforehand; writing it is not counted. Counted are all of the drafter's work and the comparison,
once with the target's pass over prompts and answers that reads the hidden states, and once with
reading them from a store (`dpace eval --store`): that pass is done once, and then serves every
drafter.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, TypeVar

import torch
import typer

from dpace_serve.acceptance.last_step import SettledSteps
from dpace_serve.demo.bundle import drafter_folder, prompts_file, target_folder
from dpace_serve.demo.prompts import DemoPrompt, choose_prompts, read_prompts
from dpace_serve.result_file import require_writable, write_json
from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import answer_documents
from dpace_training.data.conversations import Completion, Conversation, Document, Message
from dpace_training.data.target_model import Target, load_target
from dpace_training.data.tokenize import TokenizedConversation, tokenize_document
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.compare import load_drafter
from dpace_training.evaluation.decode import decode
from dpace_training.evaluation.held_out import HeldOutPrompt, held_out_prompts
from dpace_training.evaluation.replay import replay
from dpace_training.evaluation.store import stored_prompts

DRAFTER = "dpace"
MAX_NEW_TOKENS = 96
DOCUMENTS_AT_ONCE = 32

Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class ReplayTiming:
    """Processor seconds for the same answers, and how often the replay fits into decoding."""

    prompts: int
    tokens: int
    steps: int
    decode_seconds: float
    read_seconds: float
    load_seconds: float
    replay_seconds: float
    ratio_reading_anew: float
    ratio_stored: float


def time_replay(
    target: Target,
    drafter: BlockDrafter,
    documents: Sequence[TokenizedConversation],
    *,
    store: Path,
) -> ReplayTiming:
    """Decode and replay answered prompts, and check that both count the same steps.

    Args:
        target: Model that answered.
        drafter: Drafter for it.
        documents: Prompts with the target's own answers.
        store: Folder for the hidden states.

    Raises:
        RuntimeError: If they do not.
    """
    layer_ids = drafter.config.target_layer_ids
    _, read_seconds = _timed(
        lambda: held_out_prompts(target, documents, layer_ids, batch_size=DOCUMENTS_AT_ONCE)
    )
    from_store = partial(
        stored_prompts, target, documents, layer_ids, store, batch_size=DOCUMENTS_AT_ONCE
    )
    from_store()
    prompts, load_seconds = _timed(from_store)
    replayed, replay_seconds = _timed(lambda: _replay(target, drafter, prompts))
    decoded, decode_seconds = _timed(lambda: [_decode(target, drafter, one) for one in prompts])
    if [_counted(steps) for steps in replayed] != [_counted(steps) for steps in decoded]:
        raise RuntimeError("replay and decoding count different steps")
    return ReplayTiming(
        prompts=len(prompts),
        tokens=sum(len(document.token_ids) for document in documents),
        steps=sum(len(steps.per_step_accepted) for steps in decoded),
        decode_seconds=decode_seconds,
        read_seconds=read_seconds,
        load_seconds=load_seconds,
        replay_seconds=replay_seconds,
        ratio_reading_anew=decode_seconds / (read_seconds + replay_seconds),
        ratio_stored=decode_seconds / (load_seconds + replay_seconds),
    )


def main(
    prompts_per_workload: Annotated[int, typer.Option(min=1)] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Time the replay of the bundled drafter's acceptance against decoding."""
    require_writable(json_file)
    torch.set_num_threads(1)
    target = load_target(target_folder(), dtype=torch.float32)
    drafter = load_drafter(drafter_folder(DRAFTER))
    chosen = choose_prompts(read_prompts(prompts_file()), per_workload=prompts_per_workload)
    documents = _answered(target, chosen)
    with TemporaryDirectory() as folder:
        # The first products of a process are slow.
        time_replay(target, drafter, documents[:1], store=Path(folder) / "first")
        timing = time_replay(target, drafter, documents, store=Path(folder) / "all")
    typer.echo(
        f"{timing.prompts} prompts, {timing.tokens} tokens, {timing.steps} verification steps\n"
        f"decoding {timing.decode_seconds:.2f} s, reading hidden states "
        f"{timing.read_seconds:.2f} s, from the store {timing.load_seconds:.2f} s, replay "
        f"{timing.replay_seconds:.2f} s of one core\n"
        f"replay is {timing.ratio_stored:.1f} times faster with stored hidden states, "
        f"{timing.ratio_reading_anew:.1f} times when it reads them anew"
    )
    write_json(json_file, asdict(timing))


def _answered(target: Target, prompts: Sequence[DemoPrompt]) -> list[TokenizedConversation]:
    greedy = RegenerateConfig(max_new_tokens=MAX_NEW_TOKENS, batch_size=DOCUMENTS_AT_ONCE)
    documents = [_document(number, prompt) for number, prompt in enumerate(prompts)]
    answered = answer_documents(target, documents, greedy, description="answers of the target")
    return [
        tokenize_document(
            target.tokenizer,
            document,
            end_ids=target.end_ids,
            max_tokens=target.max_positions,
        )
        for document in answered
    ]


def _document(number: int, prompt: DemoPrompt) -> Document:
    if prompt.is_chat:
        return Conversation(number, prompt.workload, (Message("user", prompt.text),), None)
    return Completion(number, prompt.workload, prompt.text, "", None)


def _replay(
    target: Target, drafter: BlockDrafter, prompts: Sequence[HeldOutPrompt]
) -> list[SettledSteps]:
    return replay(
        drafter,
        [prompt.rollout for prompt in prompts],
        embedding=target.model.get_input_embeddings().weight,
        head=target.model.get_output_embeddings().weight,
        advance=lambda _: None,
    )


def _decode(target: Target, drafter: BlockDrafter, prompt: HeldOutPrompt) -> SettledSteps:
    rollout = prompt.rollout
    decoded = decode(
        target.model,
        drafter,
        rollout.token_ids[: rollout.num_prompt_tokens],
        max_tokens=MAX_NEW_TOKENS,
        end_ids=target.end_ids,
    )
    return decoded.settled()


def _counted(steps: SettledSteps) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return steps.per_step_accepted, steps.per_step_drafted


def _timed(measure: Callable[[], Measured]) -> tuple[Measured, float]:
    started = time.process_time()
    measured = measure()
    return measured, time.process_time() - started


if __name__ == "__main__":
    typer.run(main)
