"""Comparisons: each challenger of a server against its champion, as drafters come and go.

A comparison is of two revisions and of one way to spread requests: when either changes, it begins
anew. Like the fleet, all of this belongs to the event loop's thread.
"""

from typing import Any

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.live.assignment import Assignment
from dpace_serve.live.comparison import Comparison, PairedComparison, SplitComparison, Terms
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Rivals
from dpace_serve.metrics.verdicts import ChallengerVerdict


class Comparisons:
    """What is counted for the verdicts of one server."""

    def __init__(self, fleet: Fleet, terms: Terms) -> None:
        """Begin with the drafters that the fleet has.

        Args:
            fleet: Who serves and who is compared.
            terms: What verdicts are made by.
        """
        self._fleet = fleet
        self._terms = terms
        self._running: tuple[Comparison[Any], ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Follow the fleet: end what is no longer compared, begin what is new."""
        known = {comparison.rivals: comparison for comparison in self._running}
        self._running = tuple(
            known.get(rivals) or self._begin(rivals) for rivals in self._fleet.rivals()
        )

    def add_served(self, assignment: Assignment, record: RequestAcceptance) -> None:
        """Count the record of the drafter that served a request."""
        for comparison in self._running:
            comparison.add_served(assignment, record)

    def add_shadow(
        self, assignment: Assignment, served: RequestAcceptance, shadow: RequestAcceptance
    ) -> None:
        """Count the record of a challenger in the shadow of a request.

        Args:
            assignment: The drafters of the request.
            served: Record of the drafter that served it.
            shadow: Record of the challenger.
        """
        for comparison in self._running:
            comparison.add_shadow(assignment, served, shadow)

    def verdicts(self) -> list[ChallengerVerdict]:
        """The verdict on each challenger, in the order of their slots."""
        return [
            ChallengerVerdict(
                comparison.rivals.champion.name,
                comparison.rivals.champion.revision,
                comparison.rivals.challenger.name,
                comparison.rivals.challenger.revision,
                comparison.verdict,
            )
            for comparison in self._running
        ]

    def to_dict(self) -> dict[str, Any]:
        """The answer to `GET /dpace/verdict`."""
        return {
            "champion": self._fleet.champion.identity(),
            "time": self._terms.clock(),
            "comparisons": [comparison.to_dict() for comparison in self._running],
        }

    def _begin(self, rivals: Rivals) -> Comparison[Any]:
        design = PairedComparison if rivals.shares is None else SplitComparison
        return design(rivals, self._terms, after_key=self._fleet.num_assigned)
