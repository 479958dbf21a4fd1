"""The verdict of a running server is made from the requests that both drafters drafted for."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from dpace_serve.acceptance.moments import paired_tau_ratio

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_REQUESTS = 56


def comparison(live):
    (row,) = live.client.get("/dpace/verdict").json()["comparisons"]
    return row


def ask_many(live, texts):
    """Ask short requests, some at a time; returns their ids."""
    ids = [live.new_id() for _ in range(NUM_REQUESTS)]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda index: live.ask(
                    "/v1/completions",
                    request_id=ids[index],
                    prompt=texts[index % len(texts)],
                    max_tokens=12,
                ),
                range(NUM_REQUESTS),
            )
        )
    return ids


def pairs_of(live, ids):
    """(accepted, steps) of champion and challenger for the requests that both are counted for."""
    served, shadow = [], []
    for request_id in ids:
        of_served, of_shadow = live.records(request_id, 2)
        if of_served["excluded"] is of_shadow["excluded"] is None:
            served.append((of_served["accepted"], of_served["steps"]))
            shadow.append((of_shadow["accepted"], of_shadow["steps"]))
    return served, shadow


def test_the_verdict_is_made_from_the_pairs_and_begins_anew_with_the_drafters(live, texts):
    live.drop("dflash")
    assert live.client.get("/dpace/verdict").json()["comparisons"] == []
    live.challenge("dflash")
    before = comparison(live)
    assert (before["cause"], before["effect"], before["history"]) == ("too_little_data", None, [])
    served, shadow = pairs_of(live, ask_many(live, texts))
    assert len(served) >= 50
    row = live.wait_for(
        lambda: comparison(live), lambda found: found["requests"]["challenger"] == len(served)
    )
    expected = paired_tau_ratio(served, shadow, 0.95)
    assert row["design"] == "paired"
    assert row["step_time"] == {"ratio": 1.0, "source": "same_shape"}
    assert row["effect"]["lift"] == pytest.approx(expected.ratio - 1)
    # A sequence is wider than an interval that is looked at once.
    assert row["effect"]["low"] < expected.low - 1 < expected.high - 1 < row["effect"]["high"]
    assert row["tau"]["champion"]["tau"] == pytest.approx(
        1 + sum(accepted for accepted, _ in served) / sum(steps for _, steps in served)
    )
    assert row["history"][-1]["requests"] == len(served)
    assert_gauges_agree(live, row)

    live.promote("dflash")
    assert live.client.get("/dpace/verdict").json()["champion"]["name"] == "dflash"
    assert live.client.get("/dpace/verdict").json()["comparisons"] == []


def assert_gauges_agree(live, row):
    samples = live.samples()
    lifts = {sample.labels["bound"]: sample.value for sample in samples["dpace_verdict_lift"]}
    assert lifts == {
        "estimate": row["effect"]["lift"],
        "low": row["effect"]["low"],
        "high": row["effect"]["high"],
    }
    decisions = {
        sample.labels["decision"]: sample.value for sample in samples["dpace_verdict_decision"]
    }
    assert decisions == {
        decision: float(decision == row["decision"]) for decision in ("promote", "hold", "rollback")
    }
    champion = live.client.get("/dpace/verdict").json()["champion"]
    rivals = {
        "champion": champion["name"],
        "champion_revision": champion["revision"],
        "challenger": row["challenger"]["name"],
        "revision": row["challenger"]["revision"],
    }
    for sample in (*samples["dpace_verdict_lift"], *samples["dpace_verdict_decision"]):
        assert rivals.items() <= sample.labels.items()
