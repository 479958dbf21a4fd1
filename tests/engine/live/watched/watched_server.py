"""A server as Prometheus, its log and its clients saw it, and what it was started with."""

from dataclasses import dataclass
from typing import Any

import httpx2

from dpace_serve.acceptance.moments import AcceptanceMoments

NUM_DRAFT_TOKENS = 7
STEP_MS = {length: 20.0 + 3 * length for length in range(NUM_DRAFT_TOKENS + 1)}
"""Made-up calibrated step times, the same at each batch size, so that break-even can be told."""
REFUSED = {"route": 1, "request": 2}
"""Requests among the traffic that the gate refuses, by its reason."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the server said of its traffic, and Prometheus' answers about it.

    Attributes:
        prometheus: Client of Prometheus.
        start: Time before the first request.
        end: Time of the last scrape, after all of it was scraped and the rules were evaluated.
        most_extrapolated: Factor of `increase` in a rule, which is evaluated between two scrapes,
            over the count, at most.
        answers: What clients were answered.
        instance: Label of the server.
        records: The acceptance log.
        acceptance: GET /dpace/acceptance at the end.
        verdict: GET /dpace/verdict at the end.
        slots: Drafters of GET /dpace/drafters at the end.
        samples: Samples of /metrics at the end, by name.
        rules: What Prometheus said of its rules at the end.
    """

    prometheus: httpx2.Client
    start: float
    end: float
    most_extrapolated: float
    answers: list[dict[str, Any]]
    instance: str
    records: list[dict[str, Any]]
    acceptance: dict[str, Any]
    verdict: dict[str, Any]
    slots: list[dict[str, Any]]
    samples: dict[str, list[Any]]
    rules: list[dict[str, Any]]

    def counted(self, **labels: str) -> list[dict[str, Any]]:
        """Records in the statistics with these values."""
        return [
            record
            for record in self.records
            if record["excluded"] is None
            and all(record[label] == value for label, value in labels.items())
        ]

    def moments(self, **labels: str) -> AcceptanceMoments:
        return AcceptanceMoments.from_pairs(
            (sum(record["per_step_accepted"]), len(record["per_step_accepted"]))
            for record in self.counted(**labels)
        )

    def steps_at(self, position: int, what: str, **labels: str) -> int:
        """Steps whose drafts, or accepted drafts, reach this position."""
        return sum(
            length >= position
            for record in self.counted(**labels)
            for length in record[f"per_step_{what}"]
        )

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Series of an instant query at the end."""
        return self._data("query", query=expression, time=self.end)["result"]

    def ask_range(self, expression: str) -> list[dict[str, Any]]:
        """Series from start to end, a value each second."""
        given = {"query": expression, "start": self.start, "end": self.end, "step": 1}
        return self._data("query_range", **given)["result"]

    def value(self, expression: str) -> float:
        (series,) = self.ask(expression)
        return float(series["value"][1])

    def label_values(self, selector: str, label: str) -> list[str]:
        return self._data(f"label/{label}/values", **{"match[]": selector})

    def sample(self, name: str, **labels: str) -> float:
        """Sum of the samples of /metrics with these labels."""
        return sum(
            sample.value
            for sample in self.samples[name]
            if all(sample.labels[label] == value for label, value in labels.items())
        )

    def _data(self, path: str, **params: Any) -> Any:
        response = self.prometheus.get(f"/api/v1/{path}", params=params)
        assert response.status_code == 200, (params, response.text)
        return response.json()["data"]
