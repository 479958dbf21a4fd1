"""One document while its answers are written, turn by turn, by whoever runs the target."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from dpace_serve.errors import ConfigError
from dpace_training.data.captured_answer import CapturedAnswer
from dpace_training.data.captured_origin import require_known_tokens
from dpace_training.data.conversations import Completion, Conversation, Document, Message
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import chat_prompt_ids, completion_prompt_ids

_SEED_BITS = 31  # the smallest range that servers take

logger = logging.getLogger(__name__)


class Dialogue:
    """A document without its old answers, and the new ones so far.

    An assistant turn is asked for on top of the answers before it. An answer that reaches the token
    limit ends its conversation.

    Attributes:
        source: The document as given; answers in it only say where the assistant speaks.
    """

    def __init__(self, source: Document) -> None:
        self.source = source
        self._turn = 0
        self._document: Document
        self._open: list[tuple[Message, ...]]
        if isinstance(source, Completion):
            self._document = replace(source, completion="", answer_ids=None)
            self._open = [()]
        elif isinstance(source, CapturedAnswer):
            self._document = replace(source, answer_ids=None)
            self._open = [()]
        else:
            self._document = replace(
                source, messages=(), answer_ids=None, earlier_answer_ids=(), answer_is_cut=False
            )
            self._open = _questions(source.messages)

    @property
    def is_open(self) -> bool:
        """Whether the target has to answer once more."""
        return bool(self._open)

    @property
    def turn(self) -> int:
        """Number of the next answer, from 0."""
        return self._turn

    @property
    def document(self) -> Document:
        """The document with the answers so far."""
        return self._document

    @property
    def messages(self) -> tuple[Message, ...]:
        """Of a chat: everything said before the next answer."""
        if not isinstance(self._document, Conversation):
            raise TypeError("only a conversation has messages")
        return self._document.messages + self._open[0]

    def prompt_ids(self, target: Target) -> list[int]:
        """Token ids that the target continues with its next answer.

        Raises:
            ConfigError: If the chat template refuses the chat, or the target lacks a token of a
                captured prompt.
        """
        if isinstance(self._document, CapturedAnswer):
            require_known_tokens(
                self._document, vocab_size=target.text_config.vocab_size, target=target.folder
            )
            return list(self._document.prompt_ids)
        if isinstance(self._document, Completion):
            return completion_prompt_ids(target.tokenizer, self._document.prompt)
        return chat_prompt_ids(
            target.tokenizer,
            self.messages,
            enable_thinking=target.enable_thinking,
            place=f"document {self.source.document_id}",
        )

    def seed(self, seed: int) -> int:
        """Seed of the next answer: the same wherever in a run, and beside whatever, it is written.

        Args:
            seed: Seed of the run.
        """
        name = f"{seed}/{self.source.document_id}/{self._turn}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> (32 - _SEED_BITS)

    def answer(self, text: str, ids: tuple[int, ...] | None, *, is_complete: bool) -> None:
        """Take the next answer.

        Args:
            text: What the target says, without its end token.
            ids: Its tokens, the end token included; None where they are not known.
            is_complete: Whether it came to its end, below the token limit.
        """
        if isinstance(self._document, Conversation):
            before = self._document
            earlier = (*before.earlier_answer_ids, before.answer_ids) if self._turn else ()
            messages = (*self.messages, Message("assistant", text))
            self._document = replace(
                before, messages=messages, answer_ids=ids, earlier_answer_ids=earlier
            )
        elif isinstance(self._document, Completion):
            self._document = replace(self._document, completion=text, answer_ids=ids)
        else:
            self._document = replace(self._document, answer_ids=ids)
        self._open.pop(0)
        self._turn += 1
        if not is_complete:
            self.close()

    def close(self) -> None:
        """Ask for no further answer."""
        self._open.clear()


def with_room_for_an_answer(
    target: Target, documents: Sequence[Document], *, max_length: int
) -> list[Document]:
    """Documents whose first prompt leaves room for a token; how many do not is logged.

    Args:
        target: Its tokenizer and chat template make the prompts.
        documents: Prompts; answers in them only say where the assistant speaks.
        max_length: Most tokens of a prompt and its answer together.

    Raises:
        ConfigError: If no document is left, or the chat template refuses one.
    """
    lengths = [len(Dialogue(document).prompt_ids(target)) for document in documents]
    kept = [
        document for document, length in zip(documents, lengths, strict=True) if length < max_length
    ]
    if documents and not kept:
        raise ConfigError(
            f"no prompt leaves room for an answer in {max_length} tokens, the shortest has "
            f"{min(lengths)}. Shorten them, or raise data.vllm.max_model_len if it is set."
        )
    if len(kept) < len(documents):
        logger.warning(
            "%d of %d prompts leave no room for an answer in %d tokens and are not used; the "
            "longest has %d",
            len(documents) - len(kept),
            len(documents),
            max_length,
            max(lengths),
        )
    return kept


def _questions(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    groups: list[list[Message]] = [[]]
    for message in messages:
        if message.role == "assistant":
            groups.append([])
        else:
            groups[-1].append(message)
    return [tuple(group) for group in groups if group]
