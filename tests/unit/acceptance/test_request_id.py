"""Ids of requests as records keep them: never long, never the same for two requests."""

from dpace_serve.acceptance.request_id import hashed_id, recorded_id


def test_an_id_of_usual_length_is_kept_as_it_is():
    for request_id in ("", "chatcmpl-1", "ü" * 128, "x" * 128):
        assert recorded_id(request_id) == request_id


def test_a_long_id_is_cut_to_128_characters_and_keeps_its_beginning():
    kept = recorded_id("chatcmpl-" + "i" * 3_500_000)
    assert len(kept) == 128
    assert kept.startswith("chatcmpl-iii")
    assert recorded_id("chatcmpl-" + "i" * 3_500_000) == kept


def test_long_ids_that_differ_anywhere_stay_different():
    ids = {"a" * 129, "a" * 130, "a" * 128 + "b", "b" + "a" * 128, "a" * 5000 + "\ud800"}
    assert len({recorded_id(one) for one in ids}) == len(ids)


def test_a_hashed_id_tells_requests_apart_and_nothing_else():
    ids = [f"resp_{number:032x}" for number in range(1000)]
    hashed = {hashed_id(one) for one in ids}
    assert len(hashed) == 1000
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in hashed)
    assert hashed_id("") != hashed_id(" ")
    assert hashed_id("resp_1") == hashed_id("resp_1")
