"""A drafter's files, opened and hashed beside the engine's steps, to be loaded between two."""

import logging
import threading
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

from dpace_serve.drafter.content import PinnedWeights, pinned_weights
from dpace_serve.errors import CheckpointError, SwapError

logger = logging.getLogger(__name__)


class OpenedDrafter:
    """The weights of a drafter of this revision, as soon as a thread of its own has checked them.

    A large checkpoint takes seconds to hash: no step waits for that.
    """

    def __init__(self, folder: Path, revision: str) -> None:
        """Begin to check.

        Args:
            folder: Folder of the drafter.
            revision: What its files must be.
        """
        self._folder, self._revision = folder, revision
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._is_closed = False
        self._weights: PinnedWeights | None = None
        self._problem: str | None = None
        threading.Thread(target=self._check, name="dpace-check", daemon=True).start()

    @property
    def verdict(self) -> str | None:
        """None while it is checked; then why it is refused, empty if it is not."""
        with self._lock:
            return "" if self._weights is not None else self._problem

    def weights(self, folder: Path, revision: str) -> PinnedWeights:
        """The checked weights, to be read before `close`.

        Raises:
            SwapError: If another drafter was opened, or this one is not checked yet, or refused.
        """
        with self._lock:
            is_asked_for = (folder, revision) == (self._folder, self._revision)
            if not is_asked_for or self._weights is None:
                raise not_opened(folder)
            return self._weights

    def close(self) -> None:
        """Give the files back, at once or when the thread is done with them; again: nothing."""
        with self._lock:
            self._is_closed = True
            self._weights = None
            self._stack.close()

    def _check(self) -> None:
        with ExitStack() as stack:
            try:
                weights = stack.enter_context(pinned_weights(self._folder, self._revision))
            except CheckpointError as error:
                self._refuse(str(error))
            except Exception as error:
                logger.exception("%s cannot be checked", self._folder)
                self._refuse(f"{self._folder}: cannot be checked ({error}). The log says more.")
            else:
                with self._lock:
                    if not self._is_closed:
                        self._weights = weights
                        self._stack = stack.pop_all()

    def _refuse(self, problem: str) -> None:
        with self._lock:
            self._problem = problem


def not_opened(folder: Path) -> SwapError:
    """What is said of a drafter that is to be loaded and was not opened and checked before."""
    return SwapError(
        f"{folder}: must be opened and checked before it is loaded, and is not. Load it again.",
        status=HTTPStatus.CONFLICT,
    )
