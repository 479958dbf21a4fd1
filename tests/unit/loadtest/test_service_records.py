"""Following a server's records: all of them, each once, and what is missed is said."""

import asyncio
import contextlib
import time

import httpx2
import pytest
from fastapi import FastAPI

from dpace_loadtest import service as service_module
from dpace_loadtest.service import RecordReader, RecordThread
from dpace_serve.errors import EngineError
from dpace_serve.live import record_ring
from dpace_serve.live.record_ring import RecordRing
from dpace_serve.web import routes

from .made_rows import record  # noqa: TID252 - tests have no package

REPORT = {
    "drafter": {
        "name": "dpace", "revision": "1", "arm": "champion", "method": "dflash", "block_size": 4,
        "num_draft_tokens": 3,
    },
    "num_draft_tokens": 3,
    "drafters": [{"drafter": "dpace"}, {"workload": "code"}, {"workload": "sql"}],
}  # fmt: skip


class Recorder:
    """What the real routes ask, on a real ring."""

    def __init__(self, boot="first"):
        self.ring = RecordRing(boot)

    def add(self, *numbers):
        for number in numbers:
            self.ring.append(record(f"r{number}", hashes=False))

    def snapshot(self, num_records, *, shows_ids):
        return REPORT

    def records_after(self, sequence, limit, *, shows_ids):
        return self.ring.after(sequence, limit, shows_ids=shows_ids)


class Server(httpx2.BaseTransport):
    """The real routes in this process; may be switched off."""

    def __init__(self, recorder, keys=()):
        self.app = FastAPI()
        self.app.state.dpace = recorder
        routes.attach(self.app, keys)
        self.is_up = True

    def handle_request(self, request):
        if not self.is_up:
            raise httpx2.ConnectError("connection refused")
        answer = asyncio.run(self._ask(request))
        return httpx2.Response(answer.status_code, content=answer.content)

    async def _ask(self, request):
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport) as client:
            return await client.get(str(request.url), headers=dict(request.headers))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def server(recorder):
    return Server(recorder)


def reader_of(server, key=None):
    return RecordReader("http://server/", key=key, transport=server)


def ids(reader):
    return [one.request_id for one in reader.collect().records]


def hashed(*numbers):
    return [record(f"r{number}").request_id for number in numbers]


def test_records_from_before_are_not_read_and_later_ones_once(recorder, server):
    recorder.add(1, 2)
    reader = reader_of(server)
    recorder.add(3)
    reader.poll()
    reader.poll()
    recorder.add(4, 5)
    reader.poll()
    assert ids(reader) == hashed(3, 4, 5)
    found = reader.collect()
    assert (found.standing, found.num_missed, found.num_restarts) == ("followed", 0, 0)
    assert found.url == "http://server"


def test_more_than_one_answer_holds_are_all_read(recorder, server):
    reader = reader_of(server)
    recorder.add(*range(600))
    reader.poll()
    assert ids(reader) == hashed(*range(600))


def test_forgotten_records_are_counted_as_missed(recorder, server, monkeypatch):
    monkeypatch.setattr(record_ring, "KEPT_RECORDS", 4)
    reader = reader_of(server)
    recorder.add(*range(10))
    reader.poll()
    assert ids(reader) == hashed(6, 7, 8, 9)
    assert reader.collect().num_missed == 6
    reader.poll()
    assert reader.collect().num_missed == 6


def test_nothing_but_missed_records_is_said_too(recorder, server, monkeypatch):
    monkeypatch.setattr(record_ring, "KEPT_STEPS", 1)
    reader = reader_of(server)
    recorder.add(1)  # two steps: too long to be kept at all
    reader.poll()
    assert reader.collect().num_missed == 1


def test_a_restart_is_noticed_and_read_from_its_first_record(recorder, server):
    recorder.add(1, 2, 3)
    reader = reader_of(server)
    server.app.state.dpace = after = Recorder("second")
    after.add(4)
    reader.poll()
    assert reader.collect().num_restarts == 1
    assert ids(reader) == hashed(4)


def test_a_server_that_is_away_for_a_while_costs_nothing(recorder, server):
    reader = reader_of(server)
    recorder.add(1)
    server.is_up = False
    reader.poll()
    server.is_up = True
    recorder.add(2)
    reader.poll()
    found = reader.collect()
    assert ids(reader) == hashed(1, 2)
    assert found.num_failed_reads == 1
    assert "connection refused" in found.problem


def test_what_a_server_says_of_itself_is_kept(server):
    facts = reader_of(server).collect().facts
    assert facts.drafters == (("dpace", "1", 4),)
    assert (facts.num_draft_tokens, facts.workloads) == (3, ("code", "sql"))


def test_a_server_without_a_drafter_says_so():
    found = reader_of(Server(None)).collect()
    assert (found.standing, found.facts, found.records) == ("no_drafter", None, ())


def test_another_server_has_no_such_route():
    class Other(httpx2.BaseTransport):
        def handle_request(self, request):
            return httpx2.Response(404, text="no such page")

    reader = reader_of(Other())
    reader.poll()
    found = reader.collect()
    assert found.standing == "no_service"
    assert "status 404" in found.problem


def test_the_key_is_sent_and_a_wrong_one_is_an_error_at_once(recorder):
    server = Server(recorder, keys=["right"])
    reader = reader_of(server, key="right")
    recorder.add(1)
    reader.poll()
    assert ids(reader) == hashed(1)
    with pytest.raises(EngineError, match="refuses the API key"):
        reader_of(server, key="wrong")


def test_records_of_another_shape_are_a_failed_read(recorder, server):
    reader = reader_of(server)
    recorder.add(1)
    shape = recorder.records_after

    def other_shape(sequence, limit, *, shows_ids):
        answer = shape(sequence, limit, shows_ids=shows_ids)
        return answer | {"records": [row | {"tau": 99.0} for row in answer["records"]]}

    recorder.records_after = other_shape
    reader.poll()
    assert reader.collect().num_failed_reads == 1
    assert "as this version does" in reader.collect().problem


def test_a_thread_reads_while_load_runs_and_once_more_at_the_end(recorder, server, monkeypatch):
    monkeypatch.setattr(service_module, "SETTLE_SECONDS", 0.0)
    reader = reader_of(server)
    with RecordThread(reader, poll_seconds=0.01):
        recorder.add(1, 2)
        deadline = time.monotonic() + 10
        while len(ids(reader)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        recorder.add(3)
    assert ids(reader) == hashed(1, 2, 3)


def test_records_are_read_where_the_server_has_them_and_shown_as_the_servers():
    asked = []

    def answer(request):
        asked.append(str(request.url.copy_with(query=None)))
        return httpx2.Response(404)

    reader = RecordReader(
        "http://a.example:8000/",
        key=None,
        observation_url="http://a.example:8001/behind/",
        transport=httpx2.MockTransport(answer),
    )
    with contextlib.closing(reader):
        assert reader.collect().url == "http://a.example:8000"
    assert {url.partition("/dpace/")[0] for url in asked} == {"http://a.example:8001/behind"}
