"""Conversation: what is asked in one visit, and the body of each of its requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: Role
    content: str

    def to_dict(self) -> dict[str, str]:
        """As the OpenAI API wants it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One visit: a single prompt, or turns that are asked one after the other.

    Attributes:
        workload: Name of its workload.
        key: The same for the same content, in every run.
        is_chat: Asked through the chat template; otherwise its one turn is continued as it stands.
        history: Messages that stand before the first turn.
        turns: What the user says, in order.
        max_tokens: Longest answer to a turn, in tokens.
        think_seconds: Time between an answer and the next turn.
    """

    workload: str
    key: str
    is_chat: bool
    history: tuple[Message, ...]
    turns: tuple[str, ...]
    max_tokens: int
    think_seconds: float

    @property
    def path(self) -> str:
        """Path of the API that it is asked through."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    def turn_key(self, turn: int) -> str:
        """The same for the same turn in every arm."""
        return self.key if turn == 0 else f"{self.key}-turn-{turn}"

    def body(self, turn: int, answers: Sequence[str]) -> dict[str, Any]:
        """The part of a request's body that says what is asked.

        Args:
            turn: Which turn, from 0.
            answers: The server's own answers to the turns before it.
        """
        if not self.is_chat:
            return {"prompt": self.turns[turn], "max_tokens": self.max_tokens}
        messages = list(self.history)
        for said, answer in zip(self.turns[:turn], answers, strict=True):
            messages += [Message("user", said), Message("assistant", answer)]
        messages.append(Message("user", self.turns[turn]))
        return {
            "messages": [message.to_dict() for message in messages],
            "max_tokens": self.max_tokens,
        }
