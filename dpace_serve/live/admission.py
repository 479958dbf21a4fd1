"""Admission: whether a folder may be loaded as a drafter while the server runs."""

import re
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from dpace_serve.config import Config
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.doctor import examine
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.drafter.weight_files import PICKLED_SUFFIXES
from dpace_serve.errors import CheckpointError, SwapError
from dpace_serve.live.hosted import Candidate

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
"""A drafter's name becomes a label and a column of tables."""
REVISION_PATTERN = r"^[0-9a-f]{1,12}$"
"""A revision or how it starts."""
MAX_PATH_LENGTH = 4096


def _one_line(text: str) -> str:
    if not text.isprintable():  # it would break the lines of errors and logs
        raise ValueError("must be one line of printable characters")
    return text


class DrafterRequest(Config):
    """Which drafter shall be loaded."""

    model_config = ConfigDict(strict=True)

    folder: Annotated[
        str, Field(min_length=1, max_length=MAX_PATH_LENGTH), AfterValidator(_one_line)
    ]
    """Folder on the server's machine, below its drafter_root; relative paths start there."""
    name: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    """Its name in labels and results; the folder's own when not given."""
    revision: Annotated[str, Field(pattern=REVISION_PATTERN)] | None = None
    """What its revision must start with; any is right when not given."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The rules of one server.

    Attributes:
        target: Folder or hub name of the target.
        root: Folder that drafters may be loaded from; none refuses all.
        num_draft_tokens: Draft tokens per block that the engine asks for.
        target_layer_ids: Layers whose hidden states the engine gives to drafters.
    """

    target: str
    root: Path | None
    num_draft_tokens: int
    target_layer_ids: tuple[int, ...]

    def admit(self, request: DrafterRequest) -> Candidate:
        """Check a folder; reads all of it, so keep it off the event loop.

        Raises:
            SwapError: With 403, 404 or 422, and no more of the file system than the given path.
        """
        folder = self._find(request.folder)
        name = request.name or folder.name
        if re.fullmatch(NAME_PATTERN, name) is None:
            raise _not_servable(
                f"{request.folder}: the folder's name cannot be the drafter's, which is 1 to 64 "
                "letters, digits, dots, - and _. Give it a name."
            )
        try:
            self._require_plain_files(folder, request.folder)
            candidate = describe(folder, name=name)
            self._require_servable(candidate)
        except CheckpointError as error:
            raise _not_servable(self._redact(str(error), folder, request.folder)) from None
        except OSError as error:
            raise _not_servable(
                f"{request.folder}: must be readable by the server, but: {error.strerror}. Correct "
                "its permissions."
            ) from None
        if not candidate.revision.startswith(request.revision or ""):
            raise _not_servable(
                f"{request.folder}: the revision must start with {request.revision}, is "
                f"{candidate.revision}. Copy the drafter again, or ask for that revision."
            )
        return candidate

    def require_unchanged(self, candidate: Candidate, request: DrafterRequest) -> None:
        """Check, before and after loading, that the folder is still the one that was admitted.

        Raises:
            SwapError: If it is not, so that nobody can say what is or was loaded.
        """
        with suppress(SwapError, CheckpointError, OSError):
            if self._find(request.folder) == candidate.folder:
                self._require_plain_files(candidate.folder, request.folder)
                if checkpoint.revision(candidate.folder) == candidate.revision:
                    return
        raise _not_servable(
            f"{request.folder}: must not change while it is loaded, but it did. Write the drafter "
            "into a new folder and load that."
        )

    def _find(self, given: str) -> Path:
        if self.root is None:
            raise _refused("this server loads no drafters. Start it with drafter_root set.")
        root = self.root.resolve()
        folder = _followed(root / given)
        # The same answer whether there is anything outside or not.
        if folder is None or not folder.is_relative_to(root):
            raise _refused(
                f"{given}: drafters must lie under the server's drafter_root, links followed. "
                "Copy it there."
            )
        try:
            is_there = folder.is_dir()
        except OSError:
            is_there = False
        if not is_there:
            raise SwapError(
                f"{given}: must be a folder on the server's machine, there is none. Correct it.",
                status=HTTPStatus.NOT_FOUND,
            )
        return folder

    def _require_plain_files(self, folder: Path, given: str) -> None:
        root = folder if self.root is None else self.root.resolve()
        for entry in sorted(folder.iterdir()):
            shown = f"{given}: {entry.name!r}"
            if entry.suffix.lower() in PICKLED_SUFFIXES:
                raise _not_servable(
                    f"{shown} must not be there: a pickle can run code when opened. Move it out."
                )
            followed = _followed(entry)
            if followed is None or not followed.is_relative_to(root):
                raise _refused(f"{shown} must not lead out of drafter_root. Copy what it links to.")
            if not entry.is_file() and not entry.is_dir():
                raise _not_servable(f"{shown} must be a file, it is none. Copy the drafter again.")

    def _require_servable(self, candidate: Candidate) -> None:
        # The engine's number is fixed by now: the checks at start would ask for another.
        if candidate.config.num_draft_tokens < self.num_draft_tokens:
            raise CheckpointError(
                f"block_size must be at least {self.num_draft_tokens + 1}, because this server "
                f"drafts {self.num_draft_tokens} tokens per block, got "
                f"{candidate.config.block_size}. Start a server with this drafter."
            )
        for finding in examine(self.target, candidate.folder, self.num_draft_tokens):
            if not finding.ok:
                raise CheckpointError(finding.line())
        layer_ids = candidate.config.target_layer_ids
        if layer_ids != self.target_layer_ids:
            raise CheckpointError(
                f"target_layer_ids must be {list(self.target_layer_ids)}, as of the champion, got "
                f"{list(layer_ids)}. Start a server with this drafter."
            )

    def _redact(self, text: str, folder: Path, given: str) -> str:
        text = text.replace(str(folder), given)
        with suppress(CheckpointError):
            target = find_target_folder(self.target)
            if target is not None:
                text = text.replace(str(target), "the target")
        return " ".join(text.split())


def describe(folder: Path, *, name: str | None = None) -> Candidate:
    """Read what identifies a drafter; its name is the folder's own when not given.

    Raises:
        CheckpointError: If the drafter is missing or damaged.
    """
    folder = folder.resolve()
    # First the revision: a change after it will be seen when it is compared again.
    revision = checkpoint.revision(folder)
    return Candidate(name or folder.name, revision, folder, checkpoint.validate(folder))


def _followed(path: Path) -> Path | None:
    """Where a path leads in the end; None if it is too long or its links go round in circles."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


def _refused(message: str) -> SwapError:
    return SwapError(message, status=HTTPStatus.FORBIDDEN)


def _not_servable(message: str) -> SwapError:
    return SwapError(message, status=HTTPStatus.UNPROCESSABLE_ENTITY)
