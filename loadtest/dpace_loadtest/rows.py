"""RequestRow: what was measured of one request, the same in every file and process of a run.

All times are seconds since the start of the run, on the monotonic clock of the machine that sent
the request. Token counts are the server's own (`usage`), never estimated from chunks: one chunk of
a speculating server carries several tokens.
"""

from dataclasses import dataclass
from typing import Literal

Phase = Literal["warm_up", "measured"]
Outcome = Literal["ok", "refused", "http_error", "timeout", "cut", "unreachable"]
"""How a request ended: `refused` is a 429, `http_error` any other status of 400 and more, `cut` a
stream that ended before its last event, `unreachable` no connection at all."""


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request of a run.

    Attributes:
        response_id: The server's name of the request; the client's own where no answer came.
        arm: Name of the arm of the scenario that it belongs to.
        load: What was offered while it ran: requests/s in an open loop, users in a closed one.
        round: Number of the round of its arm, from 0; arms take turns.
        phase: Whether it counts.
        workload: Workload that it was tagged with.
        prompt_key: The same for the same prompt in every arm; what comparisons are paired by.
        session: Conversation that it belongs to.
        turn: Place in the conversation, from 0.
        scheduled_seconds: When it was to be sent.
        sent_seconds: When it was.
        first_token_seconds: When the first chunk with text came; none without one.
        last_token_seconds: When the last chunk with text, or with the reason of the end, came: the
            token that ends an answer has no text. None without a chunk with text.
        ended_seconds: When the answer, or the attempt, ended.
        chunk_gaps_seconds: Times between chunks with text, one fewer than there are chunks.
        outcome: How it ended.
        status: HTTP status; none where no answer came.
        error: The reason in one line; none if it is ok.
        prompt_tokens: Tokens of the prompt, as the server counts; none where it did not say.
        completion_tokens: Tokens of the answer, as the server counts; none where it did not say.
    """

    response_id: str
    arm: str
    load: float
    round: int
    phase: Phase
    workload: str
    prompt_key: str
    session: int
    turn: int
    scheduled_seconds: float
    sent_seconds: float
    first_token_seconds: float | None
    last_token_seconds: float | None
    ended_seconds: float
    chunk_gaps_seconds: tuple[float, ...]
    outcome: Outcome
    status: int | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def send_lag_seconds(self) -> float:
        """How late it was sent."""
        return self.sent_seconds - self.scheduled_seconds

    @property
    def ttft_from_schedule_seconds(self) -> float | None:
        """Time to the first token, as a user who came at the scheduled time saw it."""
        first = self.first_token_seconds
        return None if first is None else first - self.scheduled_seconds

    @property
    def ttft_from_send_seconds(self) -> float | None:
        """Time to the first token, as the server could be blamed for."""
        first = self.first_token_seconds
        return None if first is None else first - self.sent_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Time per output token after the first; none for answers of fewer than two tokens."""
        first, last, tokens = (
            self.first_token_seconds,
            self.last_token_seconds,
            self.completion_tokens,
        )
        if first is None or last is None or tokens is None or tokens < 2:
            return None
        return (last - first) / (tokens - 1)

    @property
    def end_to_end_seconds(self) -> float:
        """From the scheduled time to the end of the answer."""
        return self.ended_seconds - self.scheduled_seconds
