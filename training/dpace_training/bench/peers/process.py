"""The side that asks for steps: a process of another interpreter, one step for a line."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dpace_serve.errors import DpaceError

# A second thread would only spin in tensors this small, slowly where cores are shared.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PATIENCE_SECONDS = 10
_INSTALLED_IN = re.compile(r'File ".*/site-packages/')


class SideStoppedError(DpaceError):
    """A side's process ended before it answered; says where and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One step: seconds by the clock and of the processor, loss before it, supervised positions."""

    seconds: float
    processor_seconds: float
    loss: float
    num_supervised: float


class StepProcess:
    """A process that runs `answering.main`.

    Attributes:
        versions: What it runs on, by package.
        num_parameters: Trained weights.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start it and wait until it is ready.

        Raises:
            SideStoppedError: If it ends first.
        """
        # A file, because nobody reads a pipe while the process works.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (see close)
        self._process = subprocess.Popen(  # noqa: S603 (our own modules)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | ONE_THREAD,
        )
        try:
            ready = self._read()
        except SideStoppedError:
            self.close()
            raise
        self.versions: dict[str, str] = ready["versions"]
        self.num_parameters: int = ready["num_parameters"]

    def take_step(self) -> Answer:
        """Have one step taken.

        Raises:
            SideStoppedError: If the process ends first.
        """
        if self._process.stdin is None:
            raise RuntimeError("the process has no input")
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._stopped() from None
        return Answer(**self._read())

    def close(self) -> None:
        """End the process."""
        try:
            self._process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def __enter__(self) -> "StepProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise RuntimeError("the process has no output")
        line = self._process.stdout.readline()
        if not line:
            raise self._stopped()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stopped(self) -> SideStoppedError:
        status = self._process.wait()
        self._errors.seek(0)
        return SideStoppedError(_reason(self._errors.read(), status))


def _reason(errors: str, status: int) -> str:
    """The last error in a traceback and the line that raised it; else how the process ended.

    Files of installed packages are named from their package on: results are for others to read.
    """
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith('File "')]
    if not lines or not places:
        return lines[-1] if lines else f"ended with status {status}"
    place = _INSTALLED_IN.sub('File "', places[-1])
    return f"{lines[-1]} ({place})"
