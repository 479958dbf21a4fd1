"""Documents as token ids, with the tokens that the assistant wrote marked for training."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from dpace_serve.errors import ConfigError
from dpace_training.data.captured_answer import CapturedAnswer
from dpace_training.data.chat_template import ChatTemplate, RenderedAnswer, rendered_answer
from dpace_training.data.conversations import Completion, Conversation, Document, Message


@dataclass(frozen=True, slots=True)
class TokenizedConversation:
    """Token ids of a document; `loss_mask` is true on tokens that the assistant wrote.

    Of a document that had to be split, the last piece keeps its id and the others add their number.
    """

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    workload: str
    document_id: int | str

    @property
    def answer_start(self) -> int:
        """Where the last answer starts; the document's length if it was cut before that."""
        start = len(self.loss_mask)
        while start > 0 and self.loss_mask[start - 1]:
            start -= 1
        return start


def tokenize_document(
    tokenizer: PreTrainedTokenizerBase,
    document: Document,
    *,
    end_ids: frozenset[int],
    max_tokens: int,
    enable_thinking: bool | None = None,
) -> TokenizedConversation:
    """The document up to its last answer, as `tokenize_pieces` marks it: its last piece."""
    pieces = tokenize_pieces(
        tokenizer,
        document,
        end_ids=end_ids,
        max_tokens=max_tokens,
        enable_thinking=enable_thinking,
    )
    return pieces[-1]


def tokenize_pieces(
    tokenizer: PreTrainedTokenizerBase,
    document: Document,
    *,
    end_ids: frozenset[int],
    max_tokens: int,
    enable_thinking: bool | None = None,
) -> list[TokenizedConversation]:
    """Mark exactly the tokens that the target generates when it answers this document.

    An assistant turn is the difference between two renderings of the chat template: everything
    before it plus the generation prompt, and the same with the turn. It includes the token that
    ends the turn; what the template puts behind that token is never generated and not marked.
    Generation markers in the template are checked against that, and used where it cannot tell.
    An answer given as token ids is taken as it is, since text does not always encode back to them,
    and so is all of a captured one.

    A conversation is one piece, unless the template renders an earlier answer differently once
    later turns follow, as those do that drop earlier thinking, or the target wrote it in other
    tokens than its text is encoded in. Then it is split there: every answer stands behind exactly
    the prompt that the target had. A plain text is cut into pieces of at most
    `max_tokens` tokens; of everything else, what lies behind them is left out.

    Args:
        tokenizer: Hugging Face tokenizer of the target.
        document: Conversation or completion.
        end_ids: Tokens that end an answer.
        max_tokens: Most tokens of a piece.
        enable_thinking: What the chat template is told about thinking; None tells it nothing.

    Raises:
        ConfigError: If there is no chat template, or it refuses the chat, does not tell where an
            answer lies or tells it in two ways that differ, or does not write a message's
            reasoning.
    """
    if isinstance(document, CapturedAnswer):
        marked = [_captured_tokens(document)]
    elif isinstance(document, Completion):
        marked = _completion_tokens(tokenizer, document, max_tokens)
    else:
        place = f"document {document.document_id}"
        template = ChatTemplate(tokenizer, enable_thinking, place)
        marked = _conversation_tokens(template, document, end_ids)
    last = len(marked) - 1
    return [
        TokenizedConversation(
            token_ids=tuple(token_ids[:max_tokens]),
            loss_mask=tuple(loss_mask[:max_tokens]),
            workload=document.workload,
            document_id=document.document_id if i == last else f"{document.document_id}.{i}",
        )
        for i, (token_ids, loss_mask) in enumerate(marked)
    ]


def require_verification_steps(
    documents: Sequence[TokenizedConversation], *, source: object
) -> None:
    """Refuse held-out answers on which nothing can be measured.

    An answer's first token comes with the prompt; a drafter has its turn from the second on.

    Args:
        documents: Answered prompts.
        source: Where the prompts come from, for the message.

    Raises:
        ConfigError: If no answer has a second token.
    """
    if not any(len(document.token_ids) - document.answer_start > 1 for document in documents):
        raise ConfigError(
            f"{source}: no answer of the target has a second token, so no draft could be measured "
            "on it. Check the prompts, the chat template and the limits of tokens."
        )


def documents_digest(documents: Sequence[TokenizedConversation]) -> str:
    """SHA-256 in hex over everything that training reads of the documents, in their order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(repr(document).encode())
    return digest.hexdigest()


def chat_prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    enable_thinking: bool | None = None,
    place: str = "the chat",
) -> list[int]:
    """Token ids of a chat up to where the assistant's next answer starts.

    Args:
        tokenizer: Hugging Face tokenizer of the target.
        messages: The chat so far.
        enable_thinking: What the chat template is told about thinking; None tells it nothing.
        place: Name of the chat in error messages.

    Raises:
        ConfigError: If there is no chat template, or it refuses the chat.
    """
    return ChatTemplate(tokenizer, enable_thinking, place).prompt_ids(messages)


def completion_prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a plain prompt, with the special tokens a server puts before it."""
    ids: list[int] = tokenizer.encode(prompt)
    return ids


_MarkedTokens = tuple[list[int], list[bool]]


def _captured_tokens(document: CapturedAnswer) -> _MarkedTokens:
    prompt, answer = list(document.prompt_ids), list(document.answer_ids or ())
    return prompt + answer, [False] * len(prompt) + [True] * len(answer)


def _completion_tokens(
    tokenizer: PreTrainedTokenizerBase, document: Completion, max_tokens: int
) -> list[_MarkedTokens]:
    prompt = completion_prompt_ids(tokenizer, document.prompt)
    if document.answer_ids is not None:
        answer = list(document.answer_ids)
    else:
        # Encoded apart from the prompt: a server never merges the two either.
        answer = tokenizer.encode(document.completion, add_special_tokens=False)
    if not document.is_plain_text:
        return [(prompt + answer, [False] * len(prompt) + [True] * len(answer))]
    size = max(1, max_tokens - len(prompt))
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    return [(prompt + piece, [False] * len(prompt) + [True] * len(piece)) for piece in pieces]


def _conversation_tokens(
    template: ChatTemplate, document: Conversation, end_ids: frozenset[int]
) -> list[_MarkedTokens]:
    _check_reasoning(template, document)
    answers = [
        _answer(template, document, turn, end_ids)
        for turn, message in enumerate(document.messages)
        if message.role == "assistant"
    ]
    if not answers:
        prompt = template.prompt_ids(document.messages)
        return [(prompt, [False] * len(prompt))]
    pieces: list[list[RenderedAnswer]] = [[answers[0]]]
    for before, answer in pairwise(answers):
        if answer.token_ids[: len(before.token_ids)] == before.token_ids:
            pieces[-1].append(answer)
        else:
            pieces.append([answer])
    return [_marked(piece) for piece in pieces]


def _answer(
    template: ChatTemplate, document: Conversation, turn: int, end_ids: frozenset[int]
) -> RenderedAnswer:
    written = document.ids_by_turn.get(turn)
    if written is not None:
        prompt = template.prompt_ids(document.messages[:turn])
        return RenderedAnswer(prompt + list(written), start=len(prompt))
    is_last = all(message.role != "assistant" for message in document.messages[turn + 1 :])
    answer = rendered_answer(
        template,
        document.messages[: turn + 1],
        end_ids=end_ids,
        place=f"document {document.document_id}, assistant message {turn}",
    )
    if is_last and document.answer_is_cut:
        return RenderedAnswer(answer.token_ids[:-1], start=answer.start)
    return answer


def _marked(piece: Sequence[RenderedAnswer]) -> _MarkedTokens:
    token_ids = piece[-1].token_ids
    loss_mask = [False] * len(token_ids)
    for answer in piece:
        end = len(answer.token_ids)
        loss_mask[answer.start : end] = [True] * (end - answer.start)
    return token_ids, loss_mask


def _check_reasoning(template: ChatTemplate, document: Conversation) -> None:
    if not any(message.reasoning_content for message in document.messages):
        return
    if "reasoning_content" not in template.source:
        raise ConfigError(
            f"document {document.document_id}: has reasoning_content, which the chat template does "
            "not write. Put it into content as the target writes it, or remove it."
        )
