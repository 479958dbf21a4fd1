"""Mix: which conversation the request with a number asks, the same in every process and arm."""

import random

from dpace_loadtest.conversation import Conversation
from dpace_loadtest.workload import WorkloadConfig


class Mix:
    """Draws workloads by their shares, and goes through each one's conversations in turn.

    Every conversation of a workload is asked once, in a drawn order, before any is asked again.

    Args:
        workloads: Names and shares.
        conversations: What each workload has, by its name.
        seed: The same seed gives the same conversation for the same number.
    """

    def __init__(
        self,
        workloads: tuple[WorkloadConfig, ...],
        conversations: dict[str, list[Conversation]],
        *,
        seed: str,
    ) -> None:
        self._seed = seed
        self._names = [workload.name for workload in workloads]
        self._shares = [workload.share for workload in workloads]
        self._conversations = conversations
        self._generator = random.Random(f"{seed}/workloads")
        self._drawn: list[Conversation] = []
        self._waiting: dict[str, list[Conversation]] = {name: [] for name in self._names}
        self._passes = dict.fromkeys(self._names, 0)

    def conversation(self, number: int) -> Conversation:
        """The conversation with a number, from 0."""
        # Drawn in order, so that a number means the same whoever asks for which others.
        while len(self._drawn) <= number:
            self._drawn.append(self._draw())
        return self._drawn[number]

    def _draw(self) -> Conversation:
        (name,) = self._generator.choices(self._names, self._shares)
        waiting = self._waiting[name]
        if not waiting:
            waiting.extend(self._conversations[name])
            random.Random(f"{self._seed}/{name}/{self._passes[name]}").shuffle(waiting)
            self._passes[name] += 1
        return waiting.pop()
