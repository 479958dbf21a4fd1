"""Each request of a run with the server's own acceptance records of it, or why it has none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dpace_loadtest.rows import RequestRow
from dpace_loadtest.service import ServiceRecords
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.request_id import hashed_id, recorded_id

UnjoinedReason = Literal[
    "no_service", "no_drafter", "not_taken", "missed", "not_found", "several_records"
]
"""Why a request has no record:

- no_service: its server has no records, or they could not be read at all.
- no_drafter: its server drafts nothing.
- not_taken: it failed, and the engine seems never to have seen it.
- missed: the server had forgotten records before they were read, or was restarted.
- not_found: it was answered, and yet no record names it.
- several_records: more than one record names it, since its id was used twice.
"""
UNJOINED_REASONS: tuple[UnjoinedReason, ...] = get_args(UnjoinedReason)

# The engine's name of a request is the response's id; of a completion, which is a list of prompts
# to the engine, the id and the place. A request that got no answer is known to its client only by
# what it sent as X-Request-Id, before which the engine writes the kind (vLLM's serving.py).
_NAMES = ("{}", "{}-0", "chatcmpl-{}", "cmpl-{}-0")


@dataclass(frozen=True, slots=True)
class JoinedRow:
    """One request and its records.

    Attributes:
        row: What the client measured.
        served: Record of the drafter that served it, counted or excluded; none if unjoined.
        shadows: Records of the challengers that were compared on it.
        unjoined: Why it has no record; none if it has one.
    """

    row: RequestRow
    served: RequestAcceptance | None
    shadows: tuple[RequestAcceptance, ...]
    unjoined: UnjoinedReason | None


def join(
    rows: Iterable[RequestRow],
    urls: Mapping[str, str],
    services: Sequence[ServiceRecords],
) -> list[JoinedRow]:
    """Find the records of every row, in the order of the rows.

    Args:
        rows: Requests of a run.
        urls: Address of the server of each arm.
        services: What was read of the servers, by address; an arm without one has no service.
    """
    indexes = {service.url: _Index(service) for service in services}
    return [_join(row, indexes.get(urls[row.arm])) for row in rows]


class _Index:
    def __init__(self, service: ServiceRecords) -> None:
        self.service = service
        self._by_id: dict[str, list[RequestAcceptance]] = {}
        for record in service.records:
            self._by_id.setdefault(record.request_id, []).append(record)

    def find(self, response_id: str) -> list[RequestAcceptance]:
        for name in _NAMES:
            found = self._by_id.get(hashed_id(recorded_id(name.format(response_id))))
            if found:
                return found
        return []


def _join(row: RequestRow, index: _Index | None) -> JoinedRow:
    if index is None or index.service.standing == "no_service":
        return _unjoined(row, "no_service")
    service = index.service
    if service.standing == "no_drafter":
        return _unjoined(row, "no_drafter")
    records = index.find(row.response_id)
    served = [record for record in records if record.arm != "shadow"]
    if len(served) > 1:
        return _unjoined(row, "several_records")
    if served:
        shadows = tuple(record for record in records if record.arm == "shadow")
        return JoinedRow(row, served[0], shadows, None)
    if row.outcome in ("refused", "http_error", "unreachable"):
        return _unjoined(row, "not_taken")
    is_incomplete = service.num_missed or service.num_restarts
    return _unjoined(row, "missed" if is_incomplete else "not_found")


def _unjoined(row: RequestRow, reason: UnjoinedReason) -> JoinedRow:
    return JoinedRow(row, None, (), reason)
