"""Split mode: the id of a request and the server's salt decide who serves it."""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine.live.record_sums import require_same_sums

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
NUM_REQUESTS = 12
SALT = "a-salt-of-two-replicas"


@pytest.fixture(scope="module")
def split(open_live_server):
    with open_live_server(
        "--mode", "split", "--share", "0.5", "--set", f"draw_salt={SALT}"
    ) as server:
        yield server


def drawn_to_challenger(name):
    """The documented draw, of the engine's name of a request."""
    hashed = hashlib.blake2b(name.encode(), digest_size=6, key=SALT.encode(), person=b"dpace-split")
    return int.from_bytes(hashed.digest(), "big") / 2**48 < 0.5


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_the_id_of_a_request_decides_who_serves_it(split, alone, texts, path):
    served_by = set()
    for number in range(NUM_REQUESTS):
        text = texts[number % 4]
        given = (
            {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
        )
        body = {**given, "max_tokens": 32, "temperature": 0, "ignore_eos": True}
        request_id = f"user-{number}"
        answer = split.ask(path, request_id=request_id, **body)
        assert answer["choices"] == alone.ask(path, **body)["choices"]
        (record,) = split.records(request_id, 1)[-1:]
        name = record["request_id"]
        assert name == (f"cmpl-{request_id}-0" if path == COMPLETIONS else f"chatcmpl-{request_id}")
        expected = ("dflash", "challenger") if drawn_to_challenger(name) else ("dpace", "champion")
        assert (record["drafter"], record["arm"]) == expected
        served_by.add(record["drafter"])
    assert served_by == {"dpace", "dflash"}


def test_nobody_shadows_and_the_share_is_shown(split, texts):
    for number in range(4):
        split.ask(COMPLETIONS, request_id=f"one-{number}", prompt=texts[0], max_tokens=16)
    split.wait_until_idle()
    assert {record["arm"] for record in split.logged()} <= {"champion", "challenger"}
    assert not any(slot["shadowed"] for slot in split.slots())
    shares = {sample.labels["arm"]: sample.value for sample in split.samples()["dpace_split_share"]}
    assert shares == {"champion": 0.5, "challenger": 0.5}


def log_tau(rows):
    """Logarithm of tau, its standard error with the request as unit, and the requests."""
    pairs = [(row["accepted"], row["steps"]) for row in rows]
    steps, count = sum(steps for _, steps in pairs), len(pairs)
    rate = sum(accepted for accepted, _ in pairs) / steps
    squares = sum((accepted - rate * steps) ** 2 for accepted, steps in pairs)
    error = math.sqrt(count / (count - 1) * squares) / steps
    return math.log(1 + rate), error / (1 + rate), count


def test_the_verdict_is_made_from_both_arms(split, texts):
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda number: split.ask(
                    COMPLETIONS,
                    request_id=f"judged-{number}",
                    prompt=texts[number % len(texts)],
                    max_tokens=12,
                ),
                range(150),
            )
        )
    split.wait_until_idle()
    require_same_sums(split)
    rows = [row for row in split.logged() if row["excluded"] is None]
    (tau_a, error_a, num_a), (tau_b, error_b, num_b) = (
        log_tau([row for row in rows if row["arm"] == arm]) for arm in ("champion", "challenger")
    )
    (verdict,) = split.client.get("/dpace/verdict").json()["comparisons"]
    assert verdict["design"] == "split"
    assert verdict["requests"] == {"champion": num_a, "challenger": num_b}
    # Arms of arXiv 2103.06476, theorem 2.2, with alpha 0.05 and 60 planned requests.
    surprise = -2 * math.log(0.05)
    time = min(num_a, num_b) * (surprise + math.log(surprise + 1)) / 60
    width = math.sqrt(2 * (time + 1) / time * math.log(math.sqrt(time + 1) / 0.05))
    reach = width * math.hypot(error_a, error_b)
    lift = tau_b - tau_a
    expected = [math.expm1(lift + shift) for shift in (-reach, 0, reach)]
    effect = verdict["effect"]
    assert [effect["low"], effect["lift"], effect["high"]] == pytest.approx(expected)


def test_a_second_challenger_that_leaves_the_champion_nothing_is_refused(split):
    before = split.slots()
    response = split.admin.put(
        "/dpace/drafters/challenger", json={"folder": "dpace", "name": "twin"}
    )
    assert response.status_code == 409
    assert "shares must sum to less than 1" in response.json()["error"]["message"]
    assert split.slots() == before


def test_who_is_promoted_serves_the_champions_share(split, texts):
    split.promote("dflash")
    for number in range(NUM_REQUESTS // 2):
        request_id = f"after-{number}"
        split.ask(COMPLETIONS, request_id=request_id, prompt=texts[0], max_tokens=16)
        (record,) = split.records(request_id, 1)
        assert (record["drafter"], record["arm"]) == ("dflash", "champion")
