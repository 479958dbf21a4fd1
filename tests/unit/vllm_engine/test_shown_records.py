"""What readers of the newest records see of the requests."""

from types import SimpleNamespace


def params():
    return SimpleNamespace(
        n=1,
        extra_args=None,
        output_kind=SimpleNamespace(name="FINAL_ONLY"),
        structured_outputs=None,
        logprob_token_ids=None,
    )


async def finish(recorder, request_id):
    counts = SimpleNamespace(histogram=[0, 1], per_step_accepted=[1], per_step_drafted=[7])
    answer = SimpleNamespace(
        finish_reason="length", stop_reason=None, spec_decode_metrics=counts, token_ids=[]
    )

    async def generate(*_):
        yield SimpleNamespace(finished=True, outputs=[answer], prompt_token_ids=[1, 2, 3])

    async for _ in recorder.recording(generate, ())("p", params(), request_id):
        pass


async def test_readers_see_a_hash_in_place_of_the_id(make_bench):
    recorder = make_bench(num_challengers=0).recorder
    await finish(recorder, "resp_0123_0")
    await finish(recorder, "resp_4567_0")
    hashed, other = recorder.snapshot(2)["records"]
    full, _ = recorder.snapshot(2, shows_ids=True)["records"]
    assert full["request_id"] == "resp_0123_0"
    assert "0123" not in hashed["request_id"]
    assert hashed["request_id"] != other["request_id"]
    assert {**hashed, "request_id": full["request_id"]} == full
    assert list(hashed) == list(full)
