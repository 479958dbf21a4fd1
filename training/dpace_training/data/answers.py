"""Answers of the target to batches of prompts, with Hugging Face's own generation."""

from collections.abc import Generator, Sequence, Set
from typing import Any

import torch
from transformers import GenerationConfig

from dpace_training.config import RegenerateConfig
from dpace_training.data.captured_answer import CapturedAnswer
from dpace_training.data.conversations import Completion, Conversation, Document
from dpace_training.data.dialogue import Dialogue, with_room_for_an_answer
from dpace_training.data.target_model import Target
from dpace_training.progress import progress_bar

Batch = list[Document]


def answer_documents(
    target: Target, documents: Sequence[Document], config: RegenerateConfig, *, description: str
) -> list[Document]:
    """Let the target answer every prompt; a conversation's assistant turns follow one another.

    An answer that reaches the token limit, or the last position of the target, has no end token and
    ends its conversation. Prompts that leave no room for an answer are counted and left out.

    Args:
        target: Model that answers.
        documents: Prompts; answers in them only say where the assistant speaks.
        config: Temperature, length and batch size.
        description: Text of the progress bar.

    Returns:
        The answered documents in the order given, each with the token ids of its last answer.
    """
    documents = with_room_for_an_answer(target, documents, max_length=target.max_positions)
    answered: dict[int, Document] = {}
    with progress_bar(description, len(documents)) as advance:
        for index, batch in enumerate(batches_by_length(documents, config.batch_size)):
            for document in answer_batch(target, batch, config, seed=config.seed + index):
                answered[document.document_id] = document
            advance(len(batch), "")
    return [answered[document.document_id] for document in documents]


def batches_by_length(documents: Sequence[Document], batch_size: int) -> list[Batch]:
    """Cut documents into batches whose answers take about equally long.

    A batch runs until its longest answer ends; the text's own answers say which are long.
    """
    ordered = sorted(documents, key=lambda document: (*_lengths(document), document.document_id))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def answer_batch(
    target: Target, batch: Batch, config: RegenerateConfig, *, seed: int
) -> list[Document]:
    """Let the target answer the prompts of one batch, in any order of the result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dialogues = [Dialogue(document) for document in batch]
        chats = [one for one in dialogues if isinstance(one.source, Conversation)]
        others = [one for one in dialogues if not isinstance(one.source, Conversation)]
        # One after the other, whatever comes first: sampled answers follow the random state.
        return [
            *_answer_rounds(target, others, config),
            *_answer_rounds(target, chats, config),
        ]


@torch.no_grad()
def generate(
    target: Target, prompts: Sequence[Sequence[int]], config: RegenerateConfig
) -> list[tuple[int, ...]]:
    """Continue token prompts, padded on the left, up to and including the end token.

    Args:
        target: Model that answers.
        prompts: Token ids, each non-empty.
        config: Temperature and length; every other sampling option is off.

    Returns:
        The new token ids of each prompt; one without an end token reached the limit.
    """
    if not prompts:
        return []
    width = max(len(prompt) for prompt in prompts)
    pad_id = min(target.end_ids)
    input_ids = torch.full((len(prompts), width), pad_id)
    attention_mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    # Sampling from the whole distribution: the target's own defaults may cut it.
    sampling = {"temperature": config.temperature, "top_k": 0, "top_p": 1.0}
    device = target.model.device
    output = target.model.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=GenerationConfig(
            do_sample=config.temperature > 0,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=sorted(target.end_ids),
            pad_token_id=pad_id,
            repetition_penalty=1.0,
            use_cache=True,
            **(sampling if config.temperature > 0 else {}),
        ),
    )
    return [_through_end(row, target.end_ids) for row in output[:, width:].tolist()]


def take_answer(target: Target, dialogue: Dialogue, ids: tuple[int, ...]) -> None:
    """Give a dialogue the tokens of its next answer, the end token included."""
    dialogue.answer(_text(target, ids), ids, is_complete=ids[-1] in target.end_ids)


class TransformersWriter:
    """Answers by the target in this process."""

    def __init__(self, target: Target, config: RegenerateConfig) -> None:
        self._target = target
        self._config = config

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on, beside target and prompts."""
        # Only what there was before other backends came: answers made then stay valid.
        names = {"enabled", "temperature", "max_new_tokens", "batch_size", "seed"}
        return self._config.model_dump(mode="json", include=names)

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._target.max_positions

    def write(
        self, documents: Sequence[Document], known: Set[int]
    ) -> Generator[list[Document], None, None]:
        """Answer batch by batch."""
        for index, batch in enumerate(batches_by_length(documents, self._config.batch_size)):
            missing = {document.document_id for document in batch} - known
            if not missing:
                continue
            # The whole batch again, so that sampled answers do not depend on where a run was cut.
            answered = answer_batch(
                self._target, batch, self._config, seed=self._config.seed + index
            )
            yield [document for document in answered if document.document_id in missing]


def _through_end(ids: list[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    for index, token_id in enumerate(ids):
        if token_id in end_ids:
            return tuple(ids[: index + 1])
    return tuple(ids)


def _lengths(document: Document) -> tuple[int, int]:
    if isinstance(document, Completion):
        return len(document.completion), len(document.prompt)
    if isinstance(document, CapturedAnswer):
        return len(document.answer_ids or ()), len(document.prompt_ids)
    said = {"assistant": 0}
    for message in document.messages:
        said[message.role] = said.get(message.role, 0) + len(message.content)
    return said["assistant"], sum(said.values())


def _answer_rounds(
    target: Target, dialogues: Sequence[Dialogue], config: RegenerateConfig
) -> list[Document]:
    while active := [dialogue for dialogue in dialogues if dialogue.is_open]:
        for max_new_tokens, asked in _by_room(target, active, config).items():
            limited = config.model_copy(update={"max_new_tokens": max_new_tokens})
            prompts = [prompt for _, prompt in asked]
            found = generate(target, prompts, limited)
            for (dialogue, _), ids in zip(asked, found, strict=True):
                take_answer(target, dialogue, ids)
    return [dialogue.document for dialogue in dialogues]


def _by_room(
    target: Target, dialogues: Sequence[Dialogue], config: RegenerateConfig
) -> dict[int, list[tuple[Dialogue, list[int]]]]:
    """Dialogues with their prompts, by how many tokens their answers may have.

    Nearly all have room for `config.max_new_tokens`; what nears the last position is asked apart,
    or the others would be cut with it. A dialogue without room is closed.
    """
    asked: dict[int, list[tuple[Dialogue, list[int]]]] = {}
    for dialogue in dialogues:
        prompt = dialogue.prompt_ids(target)
        room = min(config.max_new_tokens, target.max_positions - len(prompt))
        if room > 0:
            asked.setdefault(room, []).append((dialogue, prompt))
        else:
            dialogue.close()
    return asked


def _text(target: Target, ids: Sequence[int]) -> str:
    text = [token_id for token_id in ids if token_id not in target.end_ids]
    decoded: str = target.tokenizer.decode(text, skip_special_tokens=False)
    return decoded
