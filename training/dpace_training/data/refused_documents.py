"""Documents that the target cannot take: an error, or counted and left out."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from dpace_serve.errors import ConfigError
from dpace_training.data.captured_answer import CapturedAnswer
from dpace_training.data.captured_origin import require_known_tokens
from dpace_training.data.chat_template import ChatTemplate
from dpace_training.data.conversations import Completion, Document
from dpace_training.data.target_model import Target

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


def results_of_accepted(
    documents: Sequence[Document],
    use: Callable[[Document], ResultT],
    *,
    source: object,
    invalid: Literal["refuse", "skip"],
) -> list[tuple[Document, ResultT]]:
    """Documents with what became of them, less those that were refused; how many is logged.

    Args:
        documents: What is used, one after the other.
        use: Raises a ConfigError for a document that it refuses.
        source: Where the documents come from, for messages.
        invalid: Whether a refused document ends the run or is left out.

    Raises:
        ConfigError: If a document is refused and none may be, or if all are.
    """
    kept: list[tuple[Document, ResultT]] = []
    first_refusal = ""
    for document in documents:
        try:
            kept.append((document, use(document)))
        except ConfigError as error:
            if invalid == "refuse":
                raise ConfigError(f"{source}: {error}") from None
            first_refusal = first_refusal or str(error)
    if documents and not kept:
        raise ConfigError(f"{source}: no document can be used. The first: {first_refusal}")
    if len(kept) < len(documents):
        logger.warning(
            "%s: %d of %d documents are not used. The first: %s",
            source,
            len(documents) - len(kept),
            len(documents),
            first_refusal,
        )
    return kept


def require_rendering(target: Target, document: Document) -> None:
    """Find out, before hours of work, whether the target takes a document.

    Raises:
        ConfigError: If there is no chat template, it refuses the first prompt or the whole chat, or
            the target lacks a token of a captured answer.
    """
    if isinstance(document, CapturedAnswer):
        require_known_tokens(
            document, vocab_size=target.text_config.vocab_size, target=target.folder
        )
        return
    if isinstance(document, Completion):
        return
    place = f"document {document.document_id}"
    template = ChatTemplate(target.tokenizer, target.enable_thinking, place)
    messages = document.messages
    roles = [message.role for message in messages]
    first_answer = roles.index("assistant") if "assistant" in roles else len(roles)
    template.render(messages[:first_answer], add_generation_prompt=True)
    template.render(messages, add_generation_prompt=False)
