"""Which finished requests the capture of training data is given."""

from types import SimpleNamespace

import pytest

from dpace_serve.vllm_engine.bound_request import BoundRequest, is_beam
from dpace_serve.vllm_engine.traffic_capture import TrafficCapture

DRAFTER = SimpleNamespace(name="dpace", revision="31de")
ASSIGNMENT = SimpleNamespace(serving=SimpleNamespace(drafter=DRAFTER))


class Writer:
    """Keeps what it is given in memory."""

    def __init__(self):
        self.kept = []

    def wants(self, workload, *, refused, finish_reason):
        return not refused

    def write(self, request):
        self.kept.append(request)


def num_kept(*, request_id="cmpl-r1-0", n=1, has_plain_prompt=True, **tags):
    request = BoundRequest(
        request_id,
        ASSIGNMENT,
        "json",
        has_plain_prompt=has_plain_prompt,
        is_beam=is_beam(request_id),
        prompt_token_ids=[1, 2],
        token_ids=[3],
    )
    writer = Writer()
    sampling = SimpleNamespace(n=n, extra_args=tags or None, temperature=0.0)
    TrafficCapture(writer, "tiny").keep(request, "length", sampling)
    return len(writer.kept)


def test_a_plain_request_is_kept_unless_it_refuses():
    assert num_kept() == 1
    assert num_kept(dpace_capture=0) == 0
    assert num_kept(n=2) == 0
    assert num_kept(has_plain_prompt=False) == 0


@pytest.mark.parametrize("number", [0, 7, 12])
def test_a_beam_is_never_kept_because_the_engine_drops_what_its_request_said(number):
    beam = f"cmpl-r1-0-0123456789abcdef-beam-{number}"
    assert num_kept(request_id=beam) == 0
    assert num_kept(request_id=f"{beam}-0") == 1
    assert num_kept(request_id=f"chatcmpl-{beam.replace('beam-', 'beam')}") == 1


def test_a_beam_is_known_by_its_whole_name_however_long(make_bench):
    arrivals = make_bench(num_challengers=0).recorder._arrivals
    sampling = SimpleNamespace(
        n=1, extra_args=None, structured_outputs=None, logprob_token_ids=None
    )
    prompt = {"type": "token", "prompt_token_ids": [1]}
    for name, is_one in (("b-beam-3", True), ("b" * 500 + "-beam-3", True), ("b" * 500, False)):
        assert arrivals.bind(prompt, sampling, name).is_beam == is_one
