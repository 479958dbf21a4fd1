"""Rows of whole documents for training the target: no document sees another."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dpace_training.demo.corpus import library_texts, tasks
from dpace_training.demo.tokenizer import END_OF_TEXT, TURN_END

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of documents with their labels, and where each token stands in its own document."""

    input_ids: Int[Tensor, "rows tokens"]
    labels: Int[Tensor, "rows tokens"]
    position_ids: Int[Tensor, "rows tokens"]
    documents: Int[Tensor, "rows tokens"]

    def attention(self) -> Bool[Tensor, "rows one tokens keys"]:
        """Return the mask: each token sees earlier tokens of its own document."""
        same = self.documents[:, :, None] == self.documents[:, None, :]
        return (same & torch.ones_like(same[0]).tril())[:, None]


Document = tuple[list[int], int]  # token ids, and how many of the first ones carry no label


class DocumentStream:
    """Task and code documents in a fixed proportion, seeded, without end."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, *, seed: int, tokens: int, code_share: float
    ) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random(f"documents-{seed}")
        self._tasks = tasks(seed, held_out=False)
        self._code_share = code_share
        self._tokens = tokens
        end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
        encoded = tokenizer(library_texts(held_out=False)).input_ids
        self._library = [[*ids, end] for ids in encoded]
        self._library_sizes = [len(ids) for ids in self._library]
        self._task_tokens = self._code_tokens = 0

    def __iter__(self) -> Iterator[Document]:
        while True:
            seen = self._task_tokens + self._code_tokens
            if self._code_tokens <= self._code_share * seen:
                document = self._code_document()
                self._code_tokens += len(document[0])
            else:
                document = self._task_document()
                self._task_tokens += len(document[0])
            yield document

    def _task_document(self) -> Document:
        task = next(self._tasks)
        messages = [{"role": "user", "content": task.question}]
        prompt = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        asked = self._tokenizer(prompt).input_ids
        return asked + self._tokenizer(task.answer + TURN_END).input_ids, len(asked)

    def _code_document(self) -> Document:
        (text,) = self._rng.choices(self._library, weights=self._library_sizes)
        start = self._rng.randrange(max(1, len(text) - self._tokens // 2))
        return text[start : start + self._rng.randint(self._tokens // 2, self._tokens)], 1


def packed_rows(stream: Iterable[Document], *, rows: int, tokens: int) -> Iterator[PackedRows]:
    """Yield batches of `rows` rows of `tokens` tokens, each document in the first row it fits.

    A batch is complete when a document fits in none of its rows; that document opens the next
    batch. The rest of a row is padding: token 0, no label, a document of its own.
    """
    batch: list[list[Document]] = [[] for _ in range(rows)]
    room = [tokens] * rows
    for document in stream:
        size = len(document[0])
        row = next((index for index, free in enumerate(room) if free >= size), None)
        if row is None:
            yield _stack(batch, tokens=tokens)
            batch, room, row = [[] for _ in range(rows)], [tokens] * rows, 0
        batch[row].append(document)
        room[row] -= size


def _stack(batch: list[list[Document]], *, tokens: int) -> PackedRows:
    input_ids = torch.zeros(len(batch), tokens, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED_LABEL)
    positions = torch.zeros_like(input_ids)
    documents = torch.full_like(input_ids, -1)
    for row, contents in enumerate(batch):
        at = 0
        for number, (ids, unlabelled) in enumerate(contents):
            end = at + len(ids)
            input_ids[row, at:end] = torch.tensor(ids)
            labels[row, at + unlabelled : end] = input_ids[row, at + unlabelled : end]
            positions[row, at:end] = torch.arange(len(ids))
            documents[row, at:end] = number
            at = end
    return PackedRows(input_ids, labels, positions, documents)
