"""Whether captured answers can be the target's own, as far as their records tell."""

import logging
from collections.abc import Sequence
from pathlib import Path

from dpace_serve.errors import ConfigError
from dpace_training.data.captured_answer import CapturedAnswer

logger = logging.getLogger(__name__)


def require_known_tokens(document: CapturedAnswer, *, vocab_size: int, target: Path) -> None:
    """Check that a target has all tokens of a captured answer.

    Args:
        document: The answer.
        vocab_size: Tokens that the target has.
        target: Its folder, for the message.

    Raises:
        ConfigError: If a token lies outside its vocabulary.
    """
    highest = max((*document.prompt_ids, *(document.answer_ids or ())))
    if highest >= vocab_size:
        raise ConfigError(
            f"document {document.document_id}: holds token {highest}, the vocabulary of "
            f"{target} has {vocab_size}. Give the target that was served, or captures of this one."
        )


def require_one_model(documents: Sequence[object], source: object) -> None:
    """Check that captured answers are all of one model; other documents do not count.

    Raises:
        ConfigError: If they are of several.
    """
    names = _models(documents)
    if len(names) > 1:
        raise ConfigError(
            f"{source}: holds answers of the models {', '.join(names)}. Set input.model to the "
            "name of the target among them."
        )


def warn_of_other_name(documents: Sequence[object], target: Path, source: object) -> None:
    """Tell in the log if captured answers are of a model that is not called as the target."""
    for name in _models(documents):
        if name.rpartition("/")[2] != target.resolve().name:
            logger.warning(
                "%s: holds answers of a model served as %s, the target is %s. If that is the same "
                "model, say so with input.model=%s; another one teaches the drafter wrong tokens.",
                source,
                name,
                target,
                name,
            )


def _models(documents: Sequence[object]) -> list[str]:
    captured = [document for document in documents if isinstance(document, CapturedAnswer)]
    return sorted({document.model for document in captured if document.model is not None})
