import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpace_loadtest.stream import EventReader, StreamedAnswer


def events(*pieces):
    reader = EventReader()
    found = [data for piece in pieces for data in reader.feed(piece)]
    return found + list(reader.close())


def answer(*chunks):
    """What a stream came to whose n-th event, from 0, came at second n."""
    said = StreamedAnswer()
    for moment, chunk in enumerate(chunks):
        said.take(chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode(), float(moment))
    return said


def delta(text, **rest):
    return {"id": "chatcmpl-1", "choices": [{"delta": {"content": text}}], **rest}


def test_an_event_is_there_with_its_empty_line_and_not_before():
    reader = EventReader()
    assert list(reader.feed(b"data: a")) == []
    assert list(reader.feed(b"b\n")) == []
    assert list(reader.feed(b"\n")) == [b"ab"]


def test_one_read_may_hold_several_events():
    assert events(b"data: a\n\ndata: b\n\ndata: [DONE]\n\n") == [b"a", b"b", b"[DONE]"]


def test_the_space_after_the_colon_is_no_part_of_the_data_and_a_second_one_is():
    assert events(b"data:a\n\ndata:  b\n\n") == [b"a", b" b"]


def test_lines_of_one_event_are_joined():
    assert events(b"data: a\ndata: b\n\n") == [b"a\nb"]


def test_comments_and_other_fields_carry_nothing():
    assert events(b": keep-alive\n\nevent: x\nid: 7\nretry: 5\ndata: a\n\n") == [b"a"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_all_line_ends_of_the_standard_end_a_line(end):
    assert events(b"data: a" + end + end + b"data: b" + end + end) == [b"a", b"b"]


def test_a_line_end_cut_in_two_is_one():
    assert events(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [b"a\nb"]
    assert events(b"data: a\r", b"\n", b"\ndata: b\n\n") == [b"a", b"b"]


def test_an_event_whose_last_empty_line_is_missing_counts_and_half_a_line_does_not():
    assert events(b"data: [DONE]\n") == [b"[DONE]"]
    assert events(b"data: [DO") == []


@given(
    st.lists(st.sampled_from(["né", "d😀", "", "x: y"]), min_size=1),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 200)),
)
def test_where_the_bytes_are_cut_changes_nothing(texts, end, cuts):
    whole = b"".join(b"data: " + text.encode() + b"!" + end + end for text in texts)
    places = sorted({cut % (len(whole) + 1) for cut in cuts} | {0, len(whole)})
    pieces = [whole[begin:stop] for begin, stop in itertools.pairwise(places)]
    assert events(*pieces) == [text.encode() + b"!" for text in texts]


def test_the_first_token_comes_with_the_first_text_and_not_with_the_role():
    role = {"id": "chatcmpl-1", "choices": [{"delta": {"role": "assistant", "content": ""}}]}
    said = answer(role, delta("He"), delta("llo"), b"[DONE]")
    assert said.text_moments == [1.0, 2.0]
    assert said.text == "Hello"
    assert said.response_id == "chatcmpl-1"
    assert said.is_complete


def test_the_token_that_ends_an_answer_comes_last_although_it_has_no_text():
    end = {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}
    said = answer(delta("a"), delta("b"), delta(""), end, usage, b"[DONE]")
    assert said.text_moments == [0.0, 1.0]
    assert said.last_moment == 3.0
    assert answer(end).last_moment is None  # an answer without text has no first token either


def test_texts_of_completions_and_thoughts_count():
    thought = {"choices": [{"delta": {"reasoning": "hm"}}]}
    assert answer({"choices": [{"text": "a"}]}, thought).texts == ["a", "hm"]


def test_tokens_are_those_that_the_server_counted_and_not_the_chunks():
    usage = {"prompt_tokens": 5, "completion_tokens": 12}
    said = answer(delta("abc"), {"choices": [], "usage": usage}, b"[DONE]")
    assert (said.prompt_tokens, said.completion_tokens) == (5, 12)
    assert len(said.texts) == 1


def test_without_usage_there_are_no_counts():
    said = answer(delta("abc", usage=None), b"[DONE]")
    assert (said.prompt_tokens, said.completion_tokens) == (None, None)


def test_a_stream_without_its_last_event_is_not_complete():
    assert not answer(delta("a")).is_complete


def test_an_error_event_is_kept_in_one_line_with_its_status():
    said = answer(delta("a"), {"error": {"message": "engine\ndead", "code": 500}})
    assert (said.error, said.error_status) == ("engine dead", 500)
    assert answer({"error": "bad"}).error == "bad"
    assert answer({"error": {"message": "m", "code": "overloaded"}}).error_status is None


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": None}}]},
        {"choices": [{"text": 3}]},
        {"usage": {"completion_tokens": "many"}},
    ],
)
def test_what_a_chunk_does_not_say_is_not_known(chunk):
    said = answer(chunk, b"[DONE]")
    assert (said.text, said.completion_tokens, said.is_complete) == ("", None, True)


@pytest.mark.parametrize("choices", [{"a": 1}, [1], "x"])
def test_choices_of_another_shape_are_a_fault_of_the_stream(choices):
    with pytest.raises(ValueError, match="choices must be a list of objects"):
        answer({"choices": choices})


@pytest.mark.parametrize("data", [b"[1]", b"{", b"hello"])
def test_an_event_that_is_no_object_is_a_fault_of_the_stream(data):
    with pytest.raises(ValueError, match=r"JSON object|Expecting"):
        answer(data)
