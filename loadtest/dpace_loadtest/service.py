"""Reads the acceptance records of a server while it is under load, all of them, each once."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.errors import EngineError
from dpace_serve.redaction import without_credentials

POLL_SECONDS = 1.0
"""Time between two looks. The server keeps 4,096 records: enough for thousands a second."""
SETTLE_SECONDS = 2.0
"""How long to look on after the load: a shadow's record comes a moment after the answer."""
_TIMEOUT_SECONDS = 30.0  # a server under load may take its time

Standing = Literal["followed", "no_drafter", "no_service"]
"""Whether a server's records could be followed, it drafts nothing, or it has no such route."""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What a server said of itself at the start and the end.

    Attributes:
        drafters: Champions, as (name, revision, block size): one, or two after a swap.
        method: Its name of the speculation method.
        num_draft_tokens: Draft positions.
        workloads: Labels that its requests had.
    """

    drafters: tuple[tuple[str, str, int], ...]
    method: str
    num_draft_tokens: int
    workloads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceRecords:
    """What was read of one server.

    Attributes:
        url: Its address, without credentials.
        standing: Whether it could be followed.
        facts: What it said of itself; none without a drafter.
        records: Records of all requests in the time, those of others too; ids are hashes.
        num_missed: Records that the server had forgotten before they were read.
        num_restarts: How often it was found restarted; what it had not handed out is lost then.
        num_failed_reads: Reads that failed, each followed by another one.
        problem: The last reason why it could not be read; none if it always could.
    """

    url: str
    standing: Standing
    facts: ServiceFacts | None
    records: tuple[RequestAcceptance, ...]
    num_missed: int
    num_restarts: int
    num_failed_reads: int
    problem: str | None


def server_name(url: str) -> str:
    """What stands for a server in results: its address, without credentials and a last slash."""
    return without_credentials(url.rstrip("/"))


class RecordReader:
    """Follows the records of one server from the moment it is made."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        observation_url: str | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Remember where the records stand now.

        Args:
            url: Address of the server, with the path of its root if it has one.
            key: API key; none sends none.
            observation_url: Where it has its records, if not there.
            transport: How to reach it; the network when not given.

        Raises:
            EngineError: If the server refuses the key.
        """
        self._shown = server_name(url)
        self._client = httpx2.Client(
            base_url=(observation_url or url).rstrip("/"),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT_SECONDS,
            transport=transport,
            trust_env=False,
        )
        self._records: list[RequestAcceptance] = []
        self._num_missed = self._num_restarts = self._num_failed_reads = 0
        self._problem: str | None = None
        self._standing: Standing = "no_service"
        self._boot, self._last = "", 0
        self._at_start = self._read_report()
        try:
            answer = self._get("/dpace/acceptance/records", {"limit": "0"})
        except _UnreadableError as error:
            self._problem = str(error)
            return
        self._standing = "no_drafter" if answer["boot"] is None else "followed"
        if answer["boot"] is not None:
            self._boot, self._last = str(answer["boot"]), int(answer["newest"])

    def poll(self) -> None:
        """Read all that is new; a server that does not answer is asked again at the next call."""
        if self._standing != "followed":
            return
        try:
            while self._read_some():
                pass
        except (_UnreadableError, EngineError) as error:
            self._num_failed_reads += 1
            self._problem = str(error)

    def collect(self) -> ServiceRecords:
        """All that was read until now, with what the server says of itself now."""
        reports = [report for report in (self._at_start, self._read_report()) if report]
        facts = _facts(reports)
        return ServiceRecords(
            url=self._shown,
            standing=self._standing,
            facts=facts,
            records=tuple(self._records),
            num_missed=self._num_missed,
            num_restarts=self._num_restarts,
            num_failed_reads=self._num_failed_reads,
            problem=self._problem,
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _read_some(self) -> bool:
        """Read one answer; whether there may be more."""
        answer = self._get("/dpace/acceptance/records", {"after": str(self._last)})
        if answer["boot"] != self._boot:
            self._num_restarts += 1
            self._boot, self._last = str(answer["boot"]), 0
            return answer["boot"] is not None
        try:
            self._num_missed += max(0, int(answer["oldest"]) - self._last - 1)
            self._last = max(self._last, int(answer["oldest"]) - 1)
            for row in answer["records"]:
                values = dict(row)
                self._last = int(values.pop("sequence"))
                self._records.append(RequestAcceptance.from_dict(values))
            return self._last < int(answer["newest"])
        except (KeyError, TypeError, ValueError) as error:
            raise _UnreadableError(
                f"{self._shown} must give records as this version does: {error}"
            ) from None

    def _read_report(self) -> Mapping[str, Any] | None:
        try:
            return self._get("/dpace/acceptance", {})
        except _UnreadableError:
            return None

    def _get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        try:
            response = self._client.get(path, params=dict(query))
        except httpx2.HTTPError as error:
            raise _UnreadableError(
                f"{self._shown}{path} must answer: {str(error) or type(error).__name__}"
            ) from None
        if response.status_code in (401, 403):
            raise EngineError(
                f"{self._shown}{path} refuses the API key. Give the key that opens its /v1 routes."
            )
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not response.is_success or not isinstance(answer, dict):
            raise _UnreadableError(
                f"{self._shown}{path} answered with status {response.status_code}: only `dpace "
                "serve` of this version has records."
            )
        return answer


class RecordThread:
    """Reads in the background for as long as a `with` lasts, and a moment longer."""

    def __init__(self, reader: RecordReader, *, poll_seconds: float = POLL_SECONDS) -> None:
        """Prepare to read every `poll_seconds`."""
        self._reader = reader
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="dpace-records", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, wait for the last records, and read them; an error of the load passes on."""
        self._stop.set()
        self._thread.join()
        if error is None:
            time.sleep(SETTLE_SECONDS)
            self._reader.poll()

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self._reader.poll()


class _UnreadableError(Exception):
    """One read failed; the next may not."""


def _facts(reports: list[Mapping[str, Any]]) -> ServiceFacts | None:
    champions = [report["drafter"] for report in reports if report.get("drafter")]
    if not champions:
        return None
    found = {(one["name"], one["revision"], one["block_size"]): None for one in champions}
    workloads = {
        row["workload"]: None
        for report in reports
        for row in report.get("drafters", ())
        if "workload" in row
    }
    last = champions[-1]
    return ServiceFacts(tuple(found), last["method"], last["num_draft_tokens"], tuple(workloads))
