"""Visit: asks the turns of one conversation, and leaves a row for each."""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpace_loadtest.connections import ConnectionPool
from dpace_loadtest.conversation import Conversation
from dpace_loadtest.exchange import Exchange, exchange
from dpace_loadtest.plan import Arrival, Cell
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.scenario import ScenarioConfig


@dataclass(frozen=True, slots=True)
class ArmAccess:
    """How an arm is asked.

    Attributes:
        pool: Connections to its server.
        model: Model that its requests name.
        api_key: Sent as bearer token; none sends none.
    """

    pool: ConnectionPool
    model: str
    api_key: str | None


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, for one cell of a run.

    Attributes:
        run_id: Begins the id of every request, so that the service's records can be found.
        scenario: How requests are made.
        cell: Which arm and load the rows belong to.
        access: How the arm is asked.
        zero: Reading of the clock at the start of the run, in seconds.
        sleep: Waits for some seconds.
        leave: Takes each row.
    """

    run_id: str
    scenario: ScenarioConfig
    cell: Cell
    access: ArmAccess
    zero: float
    sleep: Callable[[float], None]
    leave: Callable[[RequestRow], None]

    def ask_all(self, arrival: Arrival, conversation: Conversation, scheduled: float) -> bool:
        """Ask every turn of a conversation; a turn that fails is the last.

        Args:
            arrival: Its number and phase.
            conversation: What is asked.
            scheduled: Reading of the clock when its first turn is due.

        Returns:
            Whether every turn was answered.
        """
        answers: list[str] = []
        for turn in range(len(conversation.turns)):
            if turn:
                self.sleep(max(0.0, scheduled - time.perf_counter()))
            done = self._ask(arrival, conversation, turn, answers)
            self.leave(self._row(arrival, conversation, turn, scheduled, done))
            if done.outcome != "ok":
                return False
            answers.append(done.answer.text)
            scheduled = done.ended + conversation.think_seconds
        return True

    def _ask(
        self, arrival: Arrival, conversation: Conversation, turn: int, answers: list[str]
    ) -> Exchange:
        body = conversation.body(turn, answers) | self._settings(arrival, conversation)
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "X-Request-Id": self._request_id(arrival, turn),
        }
        if self.access.api_key is not None:
            headers["Authorization"] = f"Bearer {self.access.api_key}"
        return exchange(
            self.access.pool,
            conversation.path,
            json.dumps(body).encode(),
            headers,
            timeout_seconds=self.scenario.request_timeout_seconds,
        )

    def _settings(self, arrival: Arrival, conversation: Conversation) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "model": self.access.model,
            "temperature": self.scenario.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.scenario.temperature > 0:
            settings["seed"] = self.scenario.seed + arrival.number
        if self.scenario.ignore_end:
            settings["ignore_eos"] = True
        if self.scenario.tag_requests:
            settings["vllm_xargs"] = {"dpace_workload": conversation.workload}
            if self.cell.arm.drafter is not None:
                settings["vllm_xargs"]["dpace_drafter"] = self.cell.arm.drafter
        return settings

    def _request_id(self, arrival: Arrival, turn: int) -> str:
        cell = f"{self.cell.arm.name}-{self.cell.load:g}-{self.cell.round}"
        return f"{self.run_id}-{cell}-{arrival.phase[0]}{arrival.number}-{turn}"

    def _row(
        self,
        arrival: Arrival,
        conversation: Conversation,
        turn: int,
        scheduled: float,
        done: Exchange,
    ) -> RequestRow:
        moments = [moment - self.zero for moment in done.answer.text_moments]
        last = done.answer.last_moment
        return RequestRow(
            response_id=done.answer.response_id or self._request_id(arrival, turn),
            arm=self.cell.arm.name,
            load=self.cell.load,
            round=self.cell.round,
            phase=arrival.phase,
            workload=conversation.workload,
            prompt_key=conversation.turn_key(turn),
            session=arrival.number,
            turn=turn,
            scheduled_seconds=scheduled - self.zero,
            sent_seconds=done.sent - self.zero,
            first_token_seconds=moments[0] if moments else None,
            last_token_seconds=None if last is None else last - self.zero,
            ended_seconds=done.ended - self.zero,
            chunk_gaps_seconds=tuple(
                later - earlier for earlier, later in itertools.pairwise(moments)
            ),
            outcome=done.outcome,
            status=done.status,
            error=done.error,
            prompt_tokens=done.answer.prompt_tokens,
            completion_tokens=done.answer.completion_tokens,
        )
