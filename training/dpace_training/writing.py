"""What a disk that refuses to write means to a run: one line, and nothing that is saved is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dpace_serve.errors import CheckpointError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that the body could not write.

    Args:
        path: What the body writes, for the message.

    Raises:
        CheckpointError: If the disk is full, or refuses for another reason.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({' '.join(str(error).split())}). Free space or mend the "
            "path, and run the same command again; it goes on from what was saved before."
        ) from None
