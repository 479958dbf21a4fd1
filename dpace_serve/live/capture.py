"""Finished requests kept as token ids: traffic that the next drafter is trained on."""

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from dpace_serve.errors import ConfigError
from dpace_serve.live.line_writer import LineWriter, LossReason
from dpace_serve.live.numbered_files import NumberedFiles
from dpace_serve.serve_config import CaptureConfig

CAPTURE_TAG = "dpace_capture"
"""Key of a request's `vllm_xargs` with which it refuses to be kept."""
FILE_STEM = "capture"
FINISHED = ("stop", "length")
"""Finish reasons of answers that are kept: those that the target ended, or a token limit."""
MAX_WAITING = 256
"""Requests that wait for the disk at most; 4 bytes a token."""
MEGABYTE = 1_000_000
_YES = frozenset({"1", "1.0", "true", "yes", "on"})

CaptureLoss = Literal[LossReason, "too_long"]
"""Why a request that was to be kept was not; `too_long` is one beyond `max_tokens`."""


@dataclass(frozen=True, slots=True)
class CapturedRequest:
    """A finished request as the engine saw it.

    Attributes:
        prompt_token_ids: The whole prompt, chat template and special tokens included.
        output_token_ids: The whole answer, its end token included where it has one.
        finish_reason: One of `FINISHED`.
        workload: Its label.
        model: Name under which the target is served.
        drafter: Name of the drafter that served it.
        revision: Revision of that drafter.
        temperature: Sampling temperature of the answer.
    """

    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]
    finish_reason: str
    workload: str
    model: str
    drafter: str
    revision: str
    temperature: float


class CaptureWriter:
    """Keeps finished requests of allowed workloads in the files of a folder.

    Writing never waits and never fails: what could not be kept is counted.
    """

    def __init__(
        self,
        config: CaptureConfig,
        on_lost: Callable[[CaptureLoss], None],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Make the folder and start the thread that writes.

        Args:
            config: Where, what and how much.
            on_lost: Called once for each request that was to be kept and was not, from the caller's
                thread or the writer's.
            now: Time of a request's end.

        Raises:
            ConfigError: If the folder cannot be made or read.
        """
        self._workloads = frozenset(config.workloads)
        self._max_tokens = config.max_tokens
        self._on_lost = on_lost
        self._now = now
        try:
            files = NumberedFiles(
                config.folder,
                FILE_STEM,
                max_bytes=config.max_megabytes * MEGABYTE,
                max_file_bytes=config.max_file_megabytes * MEGABYTE,
            )
        except OSError as error:
            raise ConfigError(
                f"capture.folder must be a folder that can be written, {config.folder} is not "
                f"({error.strerror}). Choose another."
            ) from None
        self._writer = LineWriter(files, name="capture", max_waiting=MAX_WAITING, on_lost=on_lost)

    def allows(self, workload: str, *, refused: bool) -> bool:
        """Whether a request may be kept, as far as is known when it arrives.

        Args:
            workload: Its label.
            refused: What `is_refused` says of it.
        """
        return workload in self._workloads and not refused

    def wants(self, workload: str, *, refused: bool, finish_reason: str | None) -> bool:
        """Whether a request is to be kept, now that it has ended.

        Args:
            workload: Its label.
            refused: What `is_refused` says of it.
            finish_reason: How it ended; aborted and failed ones are not kept.
        """
        return finish_reason in FINISHED and self.allows(workload, refused=refused)

    def write(self, request: CapturedRequest) -> None:
        """Have a request kept that `wants` has said yes to; returns at once."""
        prompt, answer = request.prompt_token_ids, request.output_token_ids
        if len(prompt) + len(answer) > self._max_tokens:
            self._on_lost("too_long")
            return
        # Copied now, small: the engine's own lists are long gone or changed when the disk is ready.
        prompt, answer = array("I", prompt), array("I", answer)
        facts = {
            "finish_reason": request.finish_reason,
            "workload": request.workload,
            "model": request.model,
            "drafter": request.drafter,
            "revision": request.revision,
            "temperature": request.temperature,
            "time": self._now().isoformat(timespec="milliseconds"),
        }
        self._writer.put(lambda: _line(prompt, answer, facts))

    def close(self, timeout_seconds: float) -> None:
        """Write what waits, for so long at most, and keep nothing from now on."""
        self._writer.close(timeout_seconds)


def is_refused(extra_args: Mapping[str, Any] | None) -> bool:
    """Whether a request says that it must not be kept.

    `vllm_xargs: {"dpace_capture": 0}` says so, and so does any value but an explicit yes (1, true,
    yes, on): what was meant as a no must never be read as a yes. A yes adds nothing, since only the
    server's operator switches capture on.

    Args:
        extra_args: The request's `vllm_xargs`.
    """
    if not extra_args or CAPTURE_TAG not in extra_args:
        return False
    return str(extra_args[CAPTURE_TAG]).strip().lower() not in _YES


def _line(prompt: "array[int]", answer: "array[int]", facts: dict[str, Any]) -> str:
    ids = {"prompt_token_ids": prompt.tolist(), "output_token_ids": answer.tolist()}
    return json.dumps(ids | facts, separators=(",", ":"))
