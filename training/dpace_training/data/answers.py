"""Answers of the target to batches of prompts, with Hugging Face's own generation."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import GenerationConfig

from dpace_training.config import RegenerateConfig
from dpace_training.data.conversations import Completion, Conversation, Document, Message
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import chat_prompt_ids, completion_prompt_ids
from dpace_training.progress import progress_bar

Batch = list[Document]


def answer_documents(
    target: Target, documents: Sequence[Document], config: RegenerateConfig, *, description: str
) -> list[Document]:
    """Let the target answer every prompt; a conversation's assistant turns follow one another.

    An answer that reaches the token limit has no end token and ends its conversation.

    Args:
        target: Model that answers.
        documents: Prompts; answers in them only say where the assistant speaks.
        config: Temperature, length and batch size.
        description: Text of the progress bar.

    Returns:
        The answered documents in the order given, each with the token ids of its last answer.
    """
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
        return _answer_completions(target, batch, config) + _answer_chats(target, batch, config)


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


def _through_end(ids: list[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    for index, token_id in enumerate(ids):
        if token_id in end_ids:
            return tuple(ids[: index + 1])
    return tuple(ids)


def _lengths(document: Document) -> tuple[int, int]:
    if isinstance(document, Completion):
        return len(document.completion), len(document.prompt)
    said = {"assistant": 0}
    for message in document.messages:
        said[message.role] = said.get(message.role, 0) + len(message.content)
    return said["assistant"], sum(said.values())


def _answer_completions(target: Target, batch: Batch, config: RegenerateConfig) -> list[Document]:
    completions = [document for document in batch if isinstance(document, Completion)]
    prompts = [completion_prompt_ids(target.tokenizer, item.prompt) for item in completions]
    answers = generate(target, prompts, config)
    return [
        replace(completion, completion=_text(target, ids), answer_ids=ids)
        for completion, ids in zip(completions, answers, strict=True)
    ]


def _answer_chats(target: Target, batch: Batch, config: RegenerateConfig) -> list[Document]:
    scripts = {
        document.document_id: document for document in batch if isinstance(document, Conversation)
    }
    remaining = {key: _questions(document.messages) for key, document in scripts.items()}
    done: dict[int, Conversation] = {
        key: replace(document, messages=(), answer_ids=None) for key, document in scripts.items()
    }
    while active := [key for key, questions in remaining.items() if questions]:
        asked = {key: done[key].messages + remaining[key].pop(0) for key in active}
        prompts = [
            chat_prompt_ids(target.tokenizer, asked[key], enable_thinking=target.enable_thinking)
            for key in active
        ]
        for key, ids in zip(active, generate(target, prompts, config), strict=True):
            answer = Message("assistant", _text(target, ids))
            done[key] = replace(done[key], messages=(*asked[key], answer), answer_ids=ids)
            if ids[-1] not in target.end_ids:
                remaining[key].clear()
    return list(done.values())


def _questions(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    groups: list[list[Message]] = [[]]
    for message in messages:
        if message.role == "assistant":
            groups.append([])
        else:
            groups[-1].append(message)
    return [tuple(group) for group in groups if group]


def _text(target: Target, ids: Sequence[int]) -> str:
    text = [token_id for token_id in ids if token_id not in target.end_ids]
    decoded: str = target.tokenizer.decode(text, skip_special_tokens=False)
    return decoded
