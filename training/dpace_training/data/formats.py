"""The formats that records of conversations come in, and which one a record is in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpace_serve.errors import ConfigError
from dpace_training.data.captured_answer import ANSWER_KEY, PROMPT_KEY, capture_record
from dpace_training.data.input_config import FormatName, InputConfig
from dpace_training.data.plain_text import cut_text, text_record
from dpace_training.data.sharegpt import sharegpt_record
from dpace_training.data.traffic import UnusableRecordError, traffic_record

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """The keys that every record of a format has, and how one becomes a record of ours."""

    keys: frozenset[str]
    to_ours: Callable[[Record, str], Record]


def _as_it_is(record: Record, _place: str) -> Record:
    return record


# The first whose keys a record has: chats often keep their first question as `prompt` too.
FORMATS: dict[FormatName, RecordFormat] = {
    "messages": RecordFormat(frozenset({"messages"}), _as_it_is),
    "completion": RecordFormat(frozenset({"prompt"}), _as_it_is),
    "sharegpt": RecordFormat(frozenset({"conversations"}), sharegpt_record),
    "traffic": RecordFormat(frozenset({"request"}), traffic_record),
    "capture": RecordFormat(frozenset({PROMPT_KEY, ANSWER_KEY}), capture_record),
    "text": RecordFormat(frozenset({"text"}), text_record),
}


def our_records(record: Record, place: str, options: InputConfig) -> list[Record]:
    """A record of any format as records that `conversations.parse_record` reads.

    Raises:
        ConfigError: If the record is in no known format, or not in the chosen one.
        UnusableRecordError: If it is in order but holds nothing to train on.
    """
    if options.columns:
        record = _renamed(record, options.columns, place)
    name = _format_name(record, options.format, place)
    ours = FORMATS[name].to_ours(record, place)
    if name == "capture" and options.model not in (None, ours.get("model")):
        raise UnusableRecordError("answer of another model")
    if name != "text":
        return [ours]
    return cut_text(ours, text_lines=options.text_lines, prompt_lines=options.prompt_lines)


def _renamed(record: Record, columns: dict[str, str], place: str) -> Record:
    for column in columns.values():
        if column not in record:
            raise ConfigError(
                f"{place}: has no {column}, but {', '.join(record) or 'nothing'}. "
                "Correct input.columns."
            )
    return {ours: record[theirs] for ours, theirs in columns.items()}


def _format_name(record: Record, chosen: FormatName | None, place: str) -> FormatName:
    if chosen is not None:
        missing = FORMATS[chosen].keys - record.keys()
        if missing:
            raise ConfigError(
                f"{place}: a record of input.format={chosen} must have "
                f"{', '.join(sorted(missing))}, has {', '.join(record) or 'nothing'}. "
                "Correct it, or set input.columns."
            )
        return chosen
    for name, form in FORMATS.items():
        if form.keys <= record.keys():
            return name
    raise ConfigError(
        f"{place}: must have messages (a chat), prompt (a text to continue), conversations "
        f"(ShareGPT), request (captured traffic), {PROMPT_KEY} and {ANSWER_KEY} (a capture of "
        f"dpace serve) or text, has {', '.join(record) or 'nothing'}. Correct the line, or set "
        "input.columns."
    )
