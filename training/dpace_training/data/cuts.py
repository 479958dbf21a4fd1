"""How many documents were split or cut on their way to tokens, told in the log."""

import logging
from collections.abc import Sequence

from dpace_training.data.conversations import Completion, Conversation, Document
from dpace_training.data.tokenize import TokenizedConversation

logger = logging.getLogger(__name__)


def report_splits(
    documents: Sequence[Document], pieces: Sequence[Sequence[TokenizedConversation]]
) -> None:
    """Tell how many conversations and texts became several documents, and why.

    Args:
        documents: As given.
        pieces: What became of each.
    """
    for kind, what, why in (
        (
            Conversation,
            "conversations",
            "later prompts hold earlier answers in other tokens than they were written in",
        ),
        (Completion, "texts", "they are longer than data.max_tokens"),
    ):
        own = [
            len(found)
            for document, found in zip(documents, pieces, strict=True)
            if isinstance(document, kind)
        ]
        split = [number for number in own if number > 1]
        if split:
            logger.info(
                "%d of %d %s were split into %d documents: %s",
                len(split),
                len(own),
                what,
                sum(split),
                why,
            )


def report_cuts(
    documents: Sequence[Document],
    pieces: Sequence[Sequence[TokenizedConversation]],
    *,
    max_tokens: int,
) -> None:
    """Warn of documents that were cut at the limit; a plain text goes on in its next piece.

    Args:
        documents: As given.
        pieces: What became of each.
        max_tokens: The limit.
    """
    num_cut = sum(
        any(len(piece.token_ids) == max_tokens for piece in own)
        for document, own in zip(documents, pieces, strict=True)
        if not (isinstance(document, Completion) and document.is_plain_text)
    )
    if num_cut:
        logger.warning(
            "%d of %d documents fill data.max_tokens = %d tokens and were cut there",
            num_cut,
            len(documents),
            max_tokens,
        )
