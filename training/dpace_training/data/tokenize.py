"""Documents as token ids, with the tokens that the assistant wrote marked for training."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from dpace_serve.errors import ConfigError
from dpace_training.data.conversations import Completion, Conversation, Document, Message


@dataclass(frozen=True, slots=True)
class TokenizedConversation:
    """Token ids of a document; `loss_mask` is true on tokens that the assistant wrote."""

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    workload: str
    document_id: int


def tokenize_document(
    tokenizer: PreTrainedTokenizerBase,
    document: Document,
    *,
    end_ids: frozenset[int],
    max_tokens: int,
) -> TokenizedConversation:
    """Mark exactly the tokens that the target generates when it answers this document.

    An assistant turn is the difference between two renderings of the chat template: everything
    before it plus the generation prompt, and the same with the turn. It includes the token that
    ends the turn; what the template puts behind that token is never generated and not marked.
    An answer given as token ids is taken as it is, since text does not always encode back to them.

    Args:
        tokenizer: Hugging Face tokenizer of the target.
        document: Conversation or completion.
        end_ids: Tokens that end an answer.
        max_tokens: The document is cut after this many tokens.

    Raises:
        ConfigError: If the chat template does not render a turn as a continuation of its prompt.
    """
    if isinstance(document, Completion):
        token_ids, loss_mask = _completion_tokens(tokenizer, document)
    else:
        token_ids, loss_mask = _conversation_tokens(tokenizer, document, end_ids)
    return TokenizedConversation(
        token_ids=tuple(token_ids[:max_tokens]),
        loss_mask=tuple(loss_mask[:max_tokens]),
        workload=document.workload,
        document_id=document.document_id,
    )


def documents_digest(documents: Sequence[TokenizedConversation]) -> str:
    """SHA-256 in hex over everything that training reads of the documents, in their order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(repr(document).encode())
    return digest.hexdigest()


def chat_prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat up to where the assistant's next answer starts."""
    return _render(tokenizer, messages, add_generation_prompt=True)


def completion_prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a plain prompt, with the special tokens a server puts before it."""
    ids: list[int] = tokenizer.encode(prompt)
    return ids


def _completion_tokens(
    tokenizer: PreTrainedTokenizerBase, document: Completion
) -> tuple[list[int], list[bool]]:
    prompt = completion_prompt_ids(tokenizer, document.prompt)
    if document.answer_ids is not None:
        answer = list(document.answer_ids)
    else:
        # Encoded apart from the prompt: a server never merges the two either.
        answer = tokenizer.encode(document.completion, add_special_tokens=False)
    return prompt + answer, [False] * len(prompt) + [True] * len(answer)


def _conversation_tokens(
    tokenizer: PreTrainedTokenizerBase, document: Conversation, end_ids: frozenset[int]
) -> tuple[list[int], list[bool]]:
    turns = [i for i, message in enumerate(document.messages) if message.role == "assistant"]
    spans: list[tuple[int, list[int]]] = []
    for turn in turns:
        prompt = chat_prompt_ids(tokenizer, document.messages[:turn])
        if turn == turns[-1] and document.answer_ids is not None:
            spans.append((len(prompt), prompt + list(document.answer_ids)))
        else:
            spans.append((len(prompt), _through_turn(tokenizer, document, turn, prompt, end_ids)))
    if not spans:
        prompt = chat_prompt_ids(tokenizer, document.messages)
        return prompt, [False] * len(prompt)
    token_ids = spans[-1][1]
    loss_mask = [False] * len(token_ids)
    for start, through in spans:
        if token_ids[: len(through)] != through:
            raise ConfigError(
                f"document {document.document_id}: the chat template renders an earlier assistant "
                "turn differently once later turns follow. Split it into one document per answer."
            )
        loss_mask[start : len(through)] = [True] * (len(through) - start)
    return token_ids, loss_mask


def _through_turn(
    tokenizer: PreTrainedTokenizerBase,
    document: Conversation,
    turn: int,
    prompt: list[int],
    end_ids: frozenset[int],
) -> list[int]:
    rendered = _render(tokenizer, document.messages[: turn + 1], add_generation_prompt=False)
    if rendered[: len(prompt)] != prompt:
        raise ConfigError(
            f"document {document.document_id}: the chat template's generation prompt is not how it "
            f"starts assistant message {turn}. Use a template whose two renderings agree."
        )
    for index in range(len(prompt), len(rendered)):
        if rendered[index] in end_ids:
            return rendered[: index + 1]
    raise ConfigError(
        f"document {document.document_id}: assistant message {turn} does not end with one of the "
        f"end tokens {sorted(end_ids)}. Set eos_token_id in the target's generation_config.json."
    )


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )
    # The template writes the special tokens itself, as engines assume too.
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
