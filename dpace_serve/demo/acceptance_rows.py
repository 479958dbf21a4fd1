"""The server's own records of finished requests, one per answer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.request_id import hashed_id
from dpace_serve.errors import EngineError

MOST_RECORDS = 256
"""The most that the route returns."""
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class AcceptanceRows:
    """What the server recorded about some answers.

    Attributes:
        num_draft_tokens: Draft positions that the engine uses.
        records: The record of each answer, in the order of the answers. An answer that ended with
            its first token had no verification step, hence no record: none.
    """

    num_draft_tokens: int
    records: tuple[RequestAcceptance | None, ...]


def fetch_rows(url: str, response_ids: Sequence[str], *, timeout_seconds: float) -> AcceptanceRows:
    """Read the records of answers from GET /dpace/acceptance.

    Args:
        url: Address of the server.
        response_ids: The ids that its responses carried.
        timeout_seconds: How long to wait for the record of an answer that just ended.

    Raises:
        EngineError: If the server has no such route, misses an answer, or its counters are not
            the sums of its records.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        report = _get_report(url)
        records = [RequestAcceptance.from_dict(row) for row in report["records"]]
        found = tuple(_find(records, response_id) for response_id in response_ids)
        num_missing = found.count(None)
        num_without_steps: int = report["excluded"]["no_step"]
        if num_missing <= num_without_steps:
            _require_same_sums(report, records, url=url)
            return AcceptanceRows(report["num_draft_tokens"], found)
        if time.monotonic() > deadline:
            raise EngineError(
                f"{url} must have a record of every answer that took a verification step, "
                f"{num_missing} are missing and {num_without_steps} had no step. It keeps the "
                f"newest {MOST_RECORDS} records: ask for fewer prompts, or look into its log."
            )
        time.sleep(POLL_SECONDS)


def _get_report(url: str) -> dict[str, Any]:
    address = f"{url}/dpace/acceptance"
    try:
        response = httpx2.get(address, params={"records": MOST_RECORDS}, trust_env=False)
        response.raise_for_status()
    except httpx2.HTTPError as error:
        raise EngineError(
            f"{address} must answer: {error}. Check that the dpace plugin is installed."
        ) from None
    report: dict[str, Any] = response.json()
    return report


def _find(records: Sequence[RequestAcceptance], response_id: str) -> RequestAcceptance | None:
    # A completion is a list of prompts to the engine: its request is the response's id and "-0".
    # Readers see hashes in place of ids.
    names = (hashed_id(response_id), hashed_id(f"{response_id}-0"))
    return next(
        (
            record
            for record in records
            if record.request_id in names and record.arm != "shadow" and record.excluded is None
        ),
        None,
    )


def _require_same_sums(
    report: dict[str, Any], records: Sequence[RequestAcceptance], *, url: str
) -> None:
    num_draft_tokens: int = report["num_draft_tokens"]
    from_records = AcceptanceCounts.zero(num_draft_tokens)
    for record in records:
        from_records += record.counts(num_draft_tokens)
    from_counters = AcceptanceCounts.zero(num_draft_tokens)
    for row in report["drafters"]:
        if "workload" not in row:
            from_counters += AcceptanceCounts(
                tuple(row["accepted"]), tuple(row["drafted"]), row["steps"], row["emitted_tokens"]
            )
    if from_records != from_counters:
        raise EngineError(
            f"the counters of {url} must be the sums of its records, got {from_counters} and "
            f"{from_records}. Report this with the server's log."
        )
