"""Comparison: all that has been counted of one challenger against one champion, and its verdict."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dpace_serve.acceptance.judgement import judge_paired, judge_split
from dpace_serve.acceptance.paired_moments import PairedMoments
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.split_moments import ArmMoments, SplitMoments
from dpace_serve.acceptance.verdict import StepTime, Verdict
from dpace_serve.acceptance.verdict_rule import VerdictRule
from dpace_serve.live.assignment import Assignment
from dpace_serve.live.hosted import HostedDrafter, Rivals
from dpace_serve.live.verdict_history import VerdictHistory

MomentsT = TypeVar("MomentsT", PairedMoments, SplitMoments)


@dataclass(frozen=True, slots=True)
class Terms:
    """What every comparison of a server is judged by.

    Attributes:
        rule: What a verdict asks for.
        weights: Weight of each workload that counts; none pools all.
        num_draft_tokens: Draft positions.
        step_time: Time of the challenger's steps against the champion's, from the steps since the
            comparison began by batch size; none where not known.
        num_steps: Steps of the engine so far, by batch size.
        clock: Seconds since the epoch.
    """

    rule: VerdictRule
    weights: Mapping[str, float] | None
    num_draft_tokens: int
    step_time: Callable[[Rivals, Mapping[int, int]], StepTime | None]
    num_steps: Callable[[], Mapping[int, int]]
    clock: Callable[[], float]


class Comparison(Generic[MomentsT]):
    """A challenger against a champion, from the requests that arrived since it began.

    Attributes:
        rivals: Who is compared.
    """

    def __init__(self, rivals: Rivals, terms: Terms, *, after_key: int) -> None:
        """Begin with nothing counted.

        Args:
            rivals: Who is compared.
            terms: What it is judged by.
            after_key: Requests with this key and earlier ones arrived before.
        """
        self.rivals = rivals
        self._terms = terms
        self._after_key = after_key
        self._since = terms.clock()
        self._steps_before = dict(terms.num_steps())
        self._workloads: dict[str, MomentsT] = {}
        self._verdict: Verdict | None = None
        self._history = VerdictHistory()

    def add_served(self, assignment: Assignment, record: RequestAcceptance) -> None:
        """Count a request that one of the two served, as far as the design looks at it."""

    def add_shadow(
        self, assignment: Assignment, served: RequestAcceptance, shadow: RequestAcceptance
    ) -> None:
        """Count a request that the challenger shadowed, as far as the design looks at it."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on what has been counted; worked out once for each state."""
        if self._verdict is None:
            self._verdict = self._judge()
        return self._verdict

    def to_dict(self) -> dict[str, Any]:
        """The comparison for `GET /dpace/verdict`."""
        return {
            "challenger": self.rivals.challenger.identity(),
            "since": self._since,
            **self.verdict.to_dict(),
            "history": self._history.rows(),
        }

    @abstractmethod
    def _judge(self) -> Verdict: ...

    def _step_time(self) -> StepTime | None:
        num_steps = {
            batch_size: count - self._steps_before.get(batch_size, 0)
            for batch_size, count in self._terms.num_steps().items()
        }
        return self._terms.step_time(self.rivals, num_steps)

    def _is_in_time(self, assignment: Assignment) -> bool:
        # Those that arrived earlier were drawn with other shares, or between other drafters.
        return assignment.key > self._after_key

    def _add(self, workload: str, moments: MomentsT) -> None:
        known = self._workloads.get(workload)
        self._workloads[workload] = moments if known is None else known + moments
        self._changed()

    def _changed(self) -> None:
        self._verdict = None
        num_requests = min(self._num_requests())
        if self._history.wants(num_requests):
            self._history.add(self._terms.clock(), num_requests, self.verdict)

    def _num_requests(self) -> tuple[int, int]:
        numbers = [moments.num_requests for moments in self._workloads.values()]
        return sum(of_a for of_a, _ in numbers), sum(of_b for _, of_b in numbers)


class PairedComparison(Comparison[PairedMoments]):
    """The challenger shadows requests that the champion serves."""

    _num_lost = 0

    def add_shadow(
        self, assignment: Assignment, served: RequestAcceptance, shadow: RequestAcceptance
    ) -> None:
        """Count a pair, or that its shadow was lost."""
        if not (
            self._is_in_time(assignment)
            and served.excluded is None
            and is_by(served, self.rivals.champion)
            and is_by(shadow, self.rivals.challenger)
        ):
            return
        if shadow.excluded is None:
            pair = PairedMoments.from_requests(served, shadow, self._terms.num_draft_tokens)
            self._add(served.workload, pair)
        elif shadow.excluded == "no_shadow":
            self._num_lost += 1
            self._verdict = None

    def _judge(self) -> Verdict:
        return judge_paired(
            self._workloads,
            champion=self.rivals.champion.name,
            challenger=self.rivals.challenger.name,
            rule=self._terms.rule,
            step_time=self._step_time(),
            weights=self._terms.weights,
            num_lost=self._num_lost,
        )


class SplitComparison(Comparison[SplitMoments]):
    """The challenger serves a share of the requests, drawn by chance."""

    # Kept: the requests that raised the alarm stay in the sums, however many healthy ones follow.
    _mismatch: SampleRatio | None = None

    def add_served(self, assignment: Assignment, record: RequestAcceptance) -> None:
        """Count a request of one of the two; those that chose their drafter are no random draw."""
        if not (assignment.is_drawn and self._is_in_time(assignment) and record.excluded is None):
            return
        num_draft_tokens = self._terms.num_draft_tokens
        arm = ArmMoments.from_request(record, num_draft_tokens)
        none = ArmMoments.zero(num_draft_tokens)
        if is_by(record, self.rivals.champion):
            self._add(record.workload, SplitMoments(arm, none))
        elif is_by(record, self.rivals.challenger):
            self._add(record.workload, SplitMoments(none, arm))

    def _changed(self) -> None:
        if self._mismatch is None and (ratio := self._sample_ratio()).is_mismatch:
            self._mismatch = ratio
        super()._changed()

    def _judge(self) -> Verdict:
        return judge_split(
            self._workloads,
            champion=self.rivals.champion.name,
            challenger=self.rivals.challenger.name,
            rule=self._terms.rule,
            step_time=self._step_time(),
            weights=self._terms.weights,
            sample_ratio=self._mismatch or self._sample_ratio(),
        )

    def _sample_ratio(self) -> SampleRatio:
        """Requests of these two among themselves, whoever else serves."""
        if self.rivals.shares is None:
            raise ValueError("a split comparison needs the shares of both drafters")
        total = sum(self.rivals.shares)
        of_champion, of_challenger = (share / total for share in self.rivals.shares)
        return SampleRatio(self._num_requests(), (of_champion, of_challenger))


def is_by(record: RequestAcceptance, drafter: HostedDrafter) -> bool:
    """Whether a record is of this drafter, with this content."""
    return (record.drafter, record.revision) == (drafter.name, drafter.revision)
