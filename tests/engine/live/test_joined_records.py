"""A client finds the records of exactly its own requests, by what it was answered."""

import time

import httpx2
import pytest

from dpace_loadtest.join import join
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.service import RecordReader
from dpace_serve.acceptance.request_id import hashed_id
from tests.engine.conftest import API_KEY

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WAIT_SECONDS = 60


def row(response_id, outcome="ok"):
    return RequestRow(
        response_id=response_id,
        arm="a",
        load=1.0,
        round=0,
        phase="measured",
        workload="code",
        prompt_key="p",
        session=0,
        turn=0,
        scheduled_seconds=0.0,
        sent_seconds=0.0,
        first_token_seconds=None,
        last_token_seconds=None,
        ended_seconds=1.0,
        chunk_gaps_seconds=(),
        outcome=outcome,
        status=None,
        error=None,
        prompt_tokens=None,
        completion_tokens=None,
    )


@pytest.fixture
def follow(live):
    """What the server recorded since the reader was made, once it has so many records."""
    url = str(live.client.base_url).rstrip("/")
    reader = RecordReader(url, key=API_KEY)

    def records(count):
        deadline = time.monotonic() + WAIT_SECONDS
        while len((found := reader.collect()).records) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
            reader.poll()
        return found

    yield records
    reader.close()


def test_every_kind_of_request_is_joined_with_its_own_records(live, texts, follow):
    chat = [{"role": "user", "content": texts[2]}]
    answers = [
        live.ask(COMPLETIONS, prompt=texts[1], max_tokens=30),
        live.ask(CHAT, messages=chat, max_tokens=20),
        live.ask(CHAT, request_id="x" * 128, messages=chat, max_tokens=10),
    ]
    with live.stream(CHAT, request_id=live.new_id(), messages=chat, max_tokens=25) as chunks:
        answers.append(list(chunks)[-1])
    with live.stream(
        COMPLETIONS, request_id="left", prompt=texts[1], max_tokens=400, ignore_eos=True
    ) as chunks:
        next(chunks)
    rows = [row(answer["id"]) for answer in answers]
    # Of the one that left early the client knows only what it sent; of the last not even that.
    rows += [row("left", outcome="cut"), row("never-sent")]
    service = follow(10)  # five requests, each with the champion and a shadow
    found = join(rows, {"a": service.url}, [service])
    assert [one.unjoined for one in found] == [None] * 5 + ["not_found"]
    assert [one.served.excluded for one in found[:5]] == [None] * 4 + ["aborted"]
    for one in found[:4]:
        (shadow,) = one.shadows
        assert (one.served.drafter, shadow.drafter) == ("dpace", "dflash")
        assert one.served.steps == shadow.steps > 0
    tokens = [answer["usage"]["completion_tokens"] for answer in answers[:3]]
    # One token comes from the prompt's own pass.
    assert [one.served.emitted_tokens + 1 for one in found[:3]] == tokens
    assert (service.num_missed, service.num_restarts, service.problem) == (0, 0, None)
    assert service.facts.drafters[0][0] == "dpace"


def test_the_followed_records_are_those_of_the_log_and_ids_are_for_the_admin_only(
    live, texts, follow
):
    for _ in range(3):
        live.ask(COMPLETIONS, prompt=texts[3], max_tokens=12)
    followed = follow(6).records
    logged = live.wait_for(live.logged, lambda rows: len(rows) >= 6)[-6:]
    assert [one.request_id for one in followed] == [hashed_id(one["request_id"]) for one in logged]
    path = "/dpace/acceptance/records"
    url = str(live.client.base_url).rstrip("/") + path
    assert httpx2.get(url, trust_env=False).status_code == 401
    newest = live.admin.get(path, params={"limit": 0}).json()["newest"]
    rows = live.admin.get(path, params={"after": newest - 6}).json()["records"]
    assert [one["request_id"] for one in rows] == [one["request_id"] for one in logged]
