"""The held-out prompts of the demo, and which of them one run sends."""

import logging
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from dpace_serve.config import Config
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import MAX_TABLE_BYTES, json_problem, parse_json, read_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DemoPrompt:
    """One prompt, the same for every arm.

    Attributes:
        workload: Label that the request carries.
        number: Its place among the prompts of its workload, from 0.
        text: What the model is given.
        is_chat: Sent through the chat template; otherwise continued as it stands.
        expected: The only right answer, where there is one.
    """

    workload: str
    number: int
    text: str
    is_chat: bool
    expected: str | None

    @property
    def key(self) -> str:
        """Its name in requests and results."""
        return f"{self.workload}-{self.number:03d}"

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is asked for as a stream: every second prompt of each workload."""
        return self.number % 2 == 1


# Engines do some work only once, when they see their first request of a kind.
WARM_UP_PROMPTS = (
    DemoPrompt("letters", 0, "Spell the word harbour.", is_chat=True, expected=None),
    DemoPrompt("letters", 1, "Spell the word lantern.", is_chat=True, expected=None),
    DemoPrompt("code", 0, "import os\nimport sys\n\n\ndef main():\n", is_chat=False, expected=None),
    DemoPrompt("code", 1, "class Queue:\n    def put(self", is_chat=False, expected=None),
)


class LibraryLines(Config):
    """Lines of the running interpreter's own standard library, so that no such text is shipped."""

    library_file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*\.py$")]
    """File below the library's folder, and nowhere else: a prompt leaves this machine."""
    first_line: Annotated[int, Field(ge=1)]
    """The first of them, counted from 1."""
    num_lines: Annotated[int, Field(ge=1)]
    """How many."""

    def text(self) -> str:
        """The lines; empty where this interpreter's library has no such file or lines."""
        path = Path(sysconfig.get_path("stdlib")) / self.library_file
        if not path.is_file():
            return ""
        first = self.first_line - 1
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except UnicodeDecodeError:  # Python's own tests have files in other encodings
            return ""
        return "".join(lines[first : first + self.num_lines])


def read_prompts(path: Path) -> list[DemoPrompt]:
    """Read held-out prompts from a JSONL file; empty lines are skipped.

    Each line carries a `workload` and is one of

    - `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}`: a chat question; the
      answer, where given, is the right one;
    - `{"prompt": ...}`: a text to continue;
    - `{"library_file": "json/decoder.py", "first_line": 1, "num_lines": 12}`: lines of the running
      interpreter's own standard library to continue, so that no such text is shipped. Where
      another release has no such lines, the prompt is left out with a warning.

    Raises:
        ConfigError: If the file cannot be read, has no prompt, or a line is none of these.
    """
    numbers: Counter[str] = Counter()
    prompts = []
    for line_number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        record = _parse(line, place=f"{path}:{line_number}")
        prompt = _to_prompt(record, number=numbers[record.workload])
        if prompt is None:
            logger.warning("%s:%d: left out, this Python has no such lines", path, line_number)
            continue
        prompts.append(prompt)
        numbers[record.workload] += 1
    if not prompts:
        raise ConfigError(f"{path}: holds no usable prompt. Write one JSON object per line.")
    return prompts


def choose_prompts(prompts: Sequence[DemoPrompt], *, per_workload: int) -> list[DemoPrompt]:
    """Take the first prompts of each workload, in the file's order.

    Raises:
        ConfigError: If a workload has fewer.
    """
    for workload, count in Counter(prompt.workload for prompt in prompts).items():
        if count < per_workload:
            raise ConfigError(
                f"prompts per workload must be at most {count}, which is what {workload} has, "
                f"got {per_workload}. Ask for fewer."
            )
    return [prompt for prompt in prompts if prompt.number < per_workload]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        return read_text(path, max_bytes=MAX_TABLE_BYTES).split("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}). Check the path.") from None


class _Message(Config):
    role: Literal["user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class _ChatRecord(Config):
    workload: str
    messages: Annotated[list[_Message], Field(min_length=1, max_length=2)]


class _TextRecord(Config):
    workload: str
    prompt: Annotated[str, Field(min_length=1)]


class _LibraryRecord(LibraryLines):
    workload: str


_Record = _ChatRecord | _TextRecord | _LibraryRecord
_RECORD_KINDS: dict[str, TypeAdapter[_Record]] = {
    "messages": TypeAdapter(_ChatRecord),
    "prompt": TypeAdapter(_TextRecord),
    "library_file": TypeAdapter(_LibraryRecord),
}


def _parse(line: str, *, place: str) -> _Record:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ConfigError(
            f"{place}: not valid JSON ({json_problem(error)}). Correct the line."
        ) from None
    kinds = [kind for kind in _RECORD_KINDS if isinstance(values, dict) and kind in values]
    if len(kinds) != 1:
        raise ConfigError(
            f"{place}: must be an object with one of {', '.join(_RECORD_KINDS)}. Correct the line."
        )
    try:
        return _RECORD_KINDS[kinds[0]].validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}: {key}: {first['msg']}. Correct the line.") from None


def _to_prompt(record: _Record, *, number: int) -> DemoPrompt | None:
    workload = record.workload
    if isinstance(record, _ChatRecord):
        question = record.messages[0].content
        expected = record.messages[1].content if len(record.messages) == 2 else None
        return DemoPrompt(workload, number, question, is_chat=True, expected=expected)
    text = record.prompt if isinstance(record, _TextRecord) else record.text()
    return DemoPrompt(workload, number, text, is_chat=False, expected=None) if text else None
