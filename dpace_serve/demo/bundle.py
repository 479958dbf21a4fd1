"""Where the bundled models and prompts lie inside the installed package."""

from pathlib import Path

_MODELS = Path(__file__).parent / "models"


def target_folder() -> Path:
    """Folder of the bundled target."""
    return _MODELS / "target"


def drafter_folder(name: str) -> Path:
    """Folder of a bundled drafter, by its name."""
    return _MODELS / "drafters" / name


def prompts_file() -> Path:
    """JSONL file of the held-out prompts."""
    return _MODELS / "prompts.jsonl"
