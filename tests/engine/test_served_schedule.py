"""`dpace serve --block-schedule`: drafts by batch size, counted with the right denominators."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.bench]

DRAFTER = bundle.drafter_folder("dpace")
LONE, SHARED = 7, 3
QUESTION = "Write as JSON: name Anna King, age 36, city Paris, job lawyer"


@pytest.fixture(scope="module")
def url(serve, tmp_path_factory):
    file = tmp_path_factory.mktemp("schedule") / "schedule.json"
    schedule = {
        "format": 1,
        "target": "target",
        "drafter": "dpace",
        "revision": checkpoint.revision(DRAFTER),
        "num_draft_tokens": 7,
        "machine": {"device": "cpu", "cpu": "any", "num_cores": 1, "engine": "vllm 0.32.0"},
        "schedule": [[1, 1, LONE], [2, 8, SHARED]],
        "measured": [],
    }
    file.write_text(json.dumps(schedule))
    arguments = [
        str(bundle.target_folder()),
        "--drafter", str(DRAFTER),
        "--block-schedule", str(file),
        "--set", "dtype=float32",
        "--set", "eager=true",
        "--", "--max-model-len", "512", "--max-num-seqs", "8",
    ]  # fmt: skip
    with serve(arguments) as (_, url):
        yield url


def test_lengths_follow_the_batch_and_every_position_has_its_own_denominator(url):
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
        answers = [ask(client)]
        with ThreadPoolExecutor(4) as threads:
            answers += list(threads.map(lambda _: ask(client), range(4)))
        found = client.get("/dpace/acceptance", params={"records": 5}).json()
        metrics = client.get("/metrics").text
    # Whatever the batch, the target's own tokens.
    assert len(set(answers)) == 1
    alone, *together = found["records"]
    assert set(alone["per_step_drafted"][:-1]) == {LONE}
    lengths = {length for one in together for length in one["per_step_drafted"][:-1]}
    assert SHARED in lengths
    assert lengths <= {SHARED, LONE}  # the last of them ends alone
    for position in range(1, LONE + 1):
        drafted = sum(
            length >= position for one in found["records"] for length in one["per_step_drafted"]
        )
        assert sample(metrics, "dpace_drafted_tokens_total", position=position) == drafted
    unsettled = sum(one["unsettled_drafted"] for one in found["records"])
    drafted = sum(sum(one["per_step_drafted"]) for one in found["records"])
    assert sample(metrics, "vllm:spec_decode_num_draft_tokens_total") == drafted + unsettled


def ask(client):
    body = {"model": "target", "temperature": 0, "max_tokens": 64}
    asked = {**body, "messages": [{"role": "user", "content": QUESTION}]}
    response = client.post("/v1/chat/completions", json=asked)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def sample(metrics, name, **labels):
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith(name) and all(one in line for one in wanted)
    )
