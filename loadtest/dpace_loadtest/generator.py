"""Generator: one worker's part of a run, as it sends when it is told to."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from dpace_loadtest.arrivals import read_trace
from dpace_loadtest.conversation import Conversation
from dpace_loadtest.mix import Mix
from dpace_loadtest.plan import Arrival, Cell, Place, open_schedule, worker_share
from dpace_loadtest.prompts import load_conversations, scenario_workloads
from dpace_loadtest.rows import Phase, RequestRow
from dpace_loadtest.scenario import ScenarioConfig
from dpace_loadtest.visit import ArmAccess, Visitor

PAUSE_AFTER_FAILURE_SECONDS = 1.0
"""How long a user of a closed loop waits after a failure, or a dead server would be asked without
end."""


class Crew(Protocol):
    """Does many things at a time."""

    def spawn(self, function: Callable[..., object], *arguments: Any) -> None:  # noqa: ANN401 - those of any function
        """Begin one; waits while there are as many as there may be."""

    def join(self) -> None:
        """Return when all have ended."""

    def sleep(self, seconds: float) -> None:
        """Let the others go on for some time."""


class Generator:
    """Sends the requests of one worker.

    Args:
        run_id: Begins the id of every request.
        scenario: What is sent.
        place: Which part of it is this worker's.
        accesses: How each arm is asked, by its name.
        crew: Sends many at a time.
        leave: Takes each row.

    Raises:
        ConfigError: If prompts or a trace cannot be read.
    """

    def __init__(
        self,
        run_id: str,
        scenario: ScenarioConfig,
        place: Place,
        accesses: dict[str, ArmAccess],
        crew: Crew,
        leave: Callable[[RequestRow], None],
    ) -> None:
        self._run_id = run_id
        self._scenario = scenario
        self._place = place
        self._accesses = accesses
        self._crew = crew
        self._leave = leave
        self._recorded = read_trace(scenario.arrivals)
        self.conversations: dict[str, list[Conversation]] = load_conversations(scenario)

    def run(self, cell: Cell, *, zero: float, start: float) -> None:
        """Send one cell's requests, and return when all have ended.

        Args:
            cell: Arm, load and round.
            zero: Reading of the clock at the start of the run, in seconds.
            start: Reading of the clock at the start of the cell, in seconds.

        Raises:
            ConfigError: If the scenario's trace is too short.
        """
        visitor = Visitor(
            self._run_id,
            self._scenario,
            cell,
            self._accesses[cell.arm.name],
            zero,
            self._crew.sleep,
            self._leave,
        )
        if self._scenario.mode == "open":
            self._send_when_due(visitor, start)
        else:
            mixes: dict[Phase, Mix] = {
                "warm_up": self._mix(cell, "warm_up"),
                "measured": self._mix(cell, "measured"),
            }
            for user in worker_share(range(int(cell.load)), self._place):
                self._crew.spawn(self._use, visitor, mixes, user, start)
        self._crew.join()

    def _send_when_due(self, visitor: Visitor, start: float) -> None:
        schedule = open_schedule(self._scenario, visitor.cell, self._recorded)
        mix = self._mix(visitor.cell, "measured")
        for arrival in worker_share(schedule, self._place):
            conversation = mix.conversation(arrival.number)
            self._wait_until(start + arrival.seconds)
            self._crew.spawn(visitor.ask_all, arrival, conversation, start + arrival.seconds)

    def _use(self, visitor: Visitor, mixes: dict[Phase, Mix], user: int, start: float) -> None:
        """One user of a closed loop: asks, waits for the answer, asks again."""
        scenario = self._scenario
        begin = start + scenario.warm_up_seconds
        self._wait_until(start)
        self._use_while(lambda _: time.perf_counter() < begin, visitor, mixes, user, "warm_up")
        if scenario.num_requests is not None:
            wanted = scenario.num_requests
            self._use_while(lambda number: number < wanted, visitor, mixes, user, "measured")
        elif scenario.duration_seconds is not None:
            end = begin + scenario.duration_seconds
            self._use_while(lambda _: time.perf_counter() < end, visitor, mixes, user, "measured")

    def _use_while(
        self,
        is_wanted: Callable[[int], bool],
        visitor: Visitor,
        mixes: dict[Phase, Mix],
        user: int,
        phase: Phase,
    ) -> None:
        number = user
        while is_wanted(number):
            now = time.perf_counter()
            arrival = Arrival(number, now, phase)
            if not visitor.ask_all(arrival, mixes[phase].conversation(number), now):
                self._crew.sleep(PAUSE_AFTER_FAILURE_SECONDS)
            number += int(visitor.cell.load)

    def _mix(self, cell: Cell, phase: Phase) -> Mix:
        return Mix(
            scenario_workloads(self._scenario), self.conversations, seed=f"{cell.seed}/{phase}"
        )

    def _wait_until(self, moment: float) -> None:
        # A sleep may end a little early, where it is counted from the last turn of an event loop.
        while (wait := moment - time.perf_counter()) > 0:
            self._crew.sleep(wait)
