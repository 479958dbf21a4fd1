"""What a target's tokenizer files say about tokens and chats, read without a tokenizer library."""

from pathlib import Path
from typing import Any

from dpace_serve.drafter.weight_files import read_json
from dpace_serve.errors import CheckpointError
from dpace_serve.outside_text import MAX_JSON_BYTES, MAX_TABLE_BYTES, read_text

_TOKENIZER = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"


def ordinary_token(folder: Path, token_id: int) -> str | None:
    """The text of a token that ordinary text can produce; None for unused and added ones.

    Raises:
        CheckpointError: If `tokenizer.json` is missing or not a tokenizer.
    """
    if added_token(folder, token_id) is not None:
        return None
    path = folder / _TOKENIZER
    vocabulary = _tokenizer(path)["model"].get("vocab")
    if isinstance(vocabulary, dict):
        return next((text for text, number in vocabulary.items() if number == token_id), None)
    if isinstance(vocabulary, list):  # unigram models list [text, score] in the order of ids
        entry = vocabulary[token_id] if token_id < len(vocabulary) else None
        return str(entry[0]) if isinstance(entry, list) and entry else None
    raise CheckpointError(f"{path}: holds no vocabulary. Copy the target again.")


def added_token(folder: Path, token_id: int) -> str | None:
    """The text of a token that was added beside the vocabulary, such as a turn's end.

    Raises:
        CheckpointError: If `tokenizer.json` is missing or not a tokenizer.
    """
    for token in _tokenizer(folder / _TOKENIZER).get("added_tokens") or []:
        if isinstance(token, dict) and token.get("id") == token_id:
            return str(token.get("content"))
    return None


def declared_mask_token_id(folder: Path) -> int | None:
    """Id of the tokenizer's own mask token; None where it names none.

    Raises:
        CheckpointError: If a tokenizer file is damaged.
    """
    declared = _settings(folder).get("mask_token")
    text = declared.get("content") if isinstance(declared, dict) else declared
    if text is None:
        return None
    for token in _tokenizer(folder / _TOKENIZER).get("added_tokens") or []:
        if isinstance(token, dict) and token.get("content") == text:
            number = token.get("id")
            return number if isinstance(number, int) else None
    return None


def chat_template(folder: Path) -> str | None:
    """The target's chat template, or all of them where it has several; None without one.

    Raises:
        CheckpointError: If a file that may hold it cannot be read.
    """
    path = folder / _TEMPLATE
    if path.exists():
        try:
            return read_text(path, max_bytes=MAX_JSON_BYTES)
        except (OSError, ValueError):
            raise CheckpointError(f"{path}: cannot be read. Copy the target again.") from None
    template = _settings(folder).get("chat_template")
    if isinstance(template, list):
        named = [entry.get("template") for entry in template if isinstance(entry, dict)]
        return "\n".join(str(text) for text in named)
    return template if isinstance(template, str) else None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / _SETTINGS
    return read_json(path) if path.exists() else {}


def _tokenizer(path: Path) -> dict[str, Any]:
    tokenizer = read_json(path, max_bytes=MAX_TABLE_BYTES)
    added, model = tokenizer.get("added_tokens") or [], tokenizer.get("model")
    if not isinstance(added, list) or not isinstance(model, dict):
        raise CheckpointError(f"{path}: not a tokenizer. Copy the target again.")
    return tokenizer
