"""A streamed answer as its bytes arrive: events, texts, and when each of them came."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dpace_serve.outside_text import parse_json

END_OF_STREAM = b"[DONE]"


class EventReader:
    """Splits the bytes of a `text/event-stream` into the data of its events.

    Bytes may be cut anywhere, also inside a character or between the two ends of a line. Comments
    and fields other than `data` carry nothing that is measured here.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._ended_with_return = False

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of each event that these bytes complete."""
        if not received:
            return
        if self._ended_with_return and received.startswith(b"\n"):
            received = received[1:]
        self._ended_with_return = received.endswith(b"\r")
        text = self._rest + received
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            if not line:
                yield from self.close()
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])

    def close(self) -> Iterator[bytes]:
        """The data of an event whose lines are whole, although no empty line followed."""
        if self._data:
            data, self._data = b"\n".join(self._data), []
            yield data


@dataclass(slots=True)
class StreamedAnswer:
    """What a stream has said so far, with the clock's reading for each chunk with text.

    Attributes:
        response_id: The server's name of the request; none before its first chunk.
        texts: Texts of the chunks, without empty ones.
        text_moments: When each of these came, in seconds.
        last_moment: When the last token came: with a text, or with the reason why the answer ends,
            because the token that ends it has no text and is counted; none without a text.
        prompt_tokens: As the server counts; none where it did not say.
        completion_tokens: As the server counts; none where it did not say.
        error: What an error event inside the stream said.
        error_status: The HTTP status that it named.
        is_complete: Whether the last event came.
    """

    response_id: str | None = None
    texts: list[str] = field(default_factory=list)
    text_moments: list[float] = field(default_factory=list)
    last_moment: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    error_status: int | None = None
    is_complete: bool = False

    @property
    def text(self) -> str:
        """The whole answer so far."""
        return "".join(self.texts)

    def take(self, data: bytes, moment: float) -> None:
        """Note one event that came at a moment.

        Raises:
            ValueError: If it is neither the end nor a JSON object.
        """
        if data == END_OF_STREAM:
            self.is_complete = True
            return
        chunk = parse_json(data)
        if not isinstance(chunk, dict):
            raise ValueError(f"an event must be a JSON object, got {data[:40]!r}")  # noqa: TRY004 - as of json
        if chunk.get("error") is not None:
            self._take_error(chunk["error"])
            return
        if self.response_id is None and isinstance(chunk.get("id"), str):
            self.response_id = chunk["id"]
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise ValueError(f"choices must be a list of objects, got {choices!r:.40}")
        for choice in choices[:1]:
            self._take_choice(choice, moment)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
            self.completion_tokens = _count(usage.get("completion_tokens"))

    def _take_choice(self, choice: dict[str, Any], moment: float) -> None:
        text = _text(choice)
        if text:
            self.texts.append(text)
            self.text_moments.append(moment)
        if self.texts and (text or choice.get("finish_reason") is not None):
            self.last_moment = moment

    def _take_error(self, error: object) -> None:
        said = error if isinstance(error, dict) else {"message": str(error)}
        self.error = " ".join(str(said.get("message")).split())
        code = said.get("code")
        self.error_status = code if isinstance(code, int) and 400 <= code < 600 else None


def _text(choice: dict[str, Any]) -> str:
    """What a chunk adds to the answer, thoughts included: they are tokens that the user sees."""
    delta = choice.get("delta")
    said = [choice.get("text")]
    if isinstance(delta, dict):
        said = [delta.get(key) for key in ("content", "reasoning", "reasoning_content")]
    return next((text for text in said if isinstance(text, str) and text), "")


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
