"""One server with a plain drafter and one with position specialists, in both roles in turn."""

import pytest

from dpace_serve.acceptance.moments import paired_tau_ratio
from tests.engine.live.test_verdict import ask_many, comparison, pairs_of
from tests.engine.specialist_drafters import KINDS, make

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

PLAIN, SPECIALISTS, NEWER, OTHERS = "dpace", "specialists", "newer", "others"


@pytest.fixture(scope="module")
def server(open_live_server, tmp_path_factory):
    """D-PACE serves; a drafter whose last layer is there once per two positions shadows it."""
    folder = make(tmp_path_factory.mktemp("given") / SPECIALISTS, KINDS["last_layer-2"])
    with open_live_server("--challenger", str(folder)) as live:
        live.drop("dflash")
        make(live.root / NEWER, KINDS["last_layer-2"], source="dflash", seed=1)
        make(live.root / OTHERS, KINDS["low_rank-2"])
        yield live


def drafters_of(live, request_ids):
    """Who served and who shadowed, by all records of these requests."""
    records = [record for name in request_ids for record in live.records(name, 2)]
    return {record["arm"]: record["drafter"] for record in records}


def test_both_are_recorded_judged_and_counted(server, texts):
    ids = ask_many(server, texts)
    assert drafters_of(server, ids) == {"champion": PLAIN, "shadow": SPECIALISTS}
    served, shadow = pairs_of(server, ids)
    row = server.wait_for(
        lambda: comparison(server), lambda found: found["requests"]["challenger"] == len(served)
    )
    expected = paired_tau_ratio(served, shadow, 0.95)
    assert row["tau"]["lift"] == pytest.approx(expected.ratio - 1)
    # Another shape takes another time; `dpace tune` would measure it.
    assert (row["decision"], row["cause"]) == ("hold", "step_time_unknown")
    assert "how long its steps take is not known" in row["reason"]
    counted = {
        sample.labels["drafter"]
        for samples in server.samples().values()
        for sample in samples
        if sample.name.startswith("dpace_") and "drafter" in sample.labels and sample.value > 0
    }
    assert {PLAIN, SPECIALISTS} <= counted


def test_specialists_follow_each_other_in_their_slot_and_take_over(server, texts):
    refused = server.admin.put("/dpace/drafters/champion", json={"folder": NEWER})
    assert refused.status_code == 409  # their slot holds the challenger
    (slot,) = [slot["slot"] for slot in server.slots() if slot["name"] == SPECIALISTS]
    server.drop(SPECIALISTS)
    server.wait_until_idle()
    server.challenge(NEWER)
    assert [slot["slot"] for slot in server.slots() if slot["name"] == NEWER] == [slot]
    expected = server.ask("/v1/completions", prompt=texts[0], max_tokens=24)["choices"][0]["text"]
    assert drafters_of(server, ask_many(server, texts)) == {"champion": PLAIN, "shadow": NEWER}

    server.promote(NEWER)
    server.challenge(PLAIN)
    assert drafters_of(server, ask_many(server, texts)) == {"champion": NEWER, "shadow": PLAIN}
    answer = server.ask("/v1/completions", prompt=texts[0], max_tokens=24)["choices"][0]["text"]
    assert answer == expected


def test_specialists_of_another_kind_fit_no_slot(server):
    refused = server.admin.put("/dpace/drafters/challenger", json={"folder": OTHERS})
    assert refused.status_code == 422
    assert "specialists low_rank of rank 16 in groups of 2 instead of" in refused.text
    assert OTHERS not in server.roles()
