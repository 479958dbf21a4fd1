"""Requests and their records: whose is whose, and why a request has none."""

from collections import Counter

import pytest

from dpace_loadtest.acceptance_summary import join_counts
from dpace_loadtest.join import join
from dpace_serve.acceptance.request_id import MAX_LENGTH, recorded_id

from .made_rows import record, row, service  # noqa: TID252 - tests have no package

URLS = {"a": "http://a", "b": "http://b"}


def reasons(joined):
    return [one.unjoined for one in joined]


@pytest.mark.parametrize(
    ("answered", "recorded"),
    [
        ("chatcmpl-7", "chatcmpl-7"),  # a chat: the engine's name is the response's id
        ("cmpl-7", "cmpl-7-0"),  # a completion: one of a list of prompts
        ("run-7", "chatcmpl-run-7"),  # no answer came: the client's own X-Request-Id
        ("run-7", "cmpl-run-7-0"),
    ],
)
def test_a_request_is_found_by_every_name_that_it_can_have(answered, recorded):
    (one,) = join([row(response_id=answered)], URLS, [service(records=[record(recorded)])])
    assert one.served == record(recorded)
    assert one.unjoined is None


def test_an_id_too_long_for_records_is_found_by_its_hash():
    long_id = "chatcmpl-" + "x" * MAX_LENGTH
    found = join(
        [row(response_id=long_id)], URLS, [service(records=[record(recorded_id(long_id))])]
    )
    assert reasons(found) == [None]


def test_records_of_others_are_left_out_and_shadows_go_with_their_request():
    shadow = record("chatcmpl-1", (1, 1), arm="shadow", drafter="other")
    records = [record("chatcmpl-0"), record("chatcmpl-1"), shadow, record("chatcmpl-2")]
    (one,) = join([row(response_id="chatcmpl-1")], URLS, [service(records=records)])
    assert one.served == record("chatcmpl-1")
    assert one.shadows == (shadow,)


def test_the_same_id_at_two_servers_is_two_requests():
    rows = [row(response_id="chatcmpl-1"), row(response_id="chatcmpl-1", arm="b")]
    services = [
        service("http://a", [record("chatcmpl-1", (0,))]),
        service("http://b", [record("chatcmpl-1", (3,))]),
    ]
    joined = join(rows, URLS, services)
    assert [one.served.accepted for one in joined] == [0, 3]


@pytest.mark.parametrize(
    ("outcome", "services", "reason"),
    [
        ("ok", [], "no_service"),
        ("ok", [service(standing="no_service", facts=None)], "no_service"),
        ("ok", [service(standing="no_drafter", facts=None)], "no_drafter"),
        ("refused", [service()], "not_taken"),
        ("http_error", [service(num_missed=9)], "not_taken"),
        ("unreachable", [service()], "not_taken"),
        ("ok", [service()], "not_found"),
        ("timeout", [service()], "not_found"),
        ("ok", [service(num_missed=1)], "missed"),
        ("cut", [service(num_restarts=1)], "missed"),
        ("ok", [service(records=[record("chatcmpl-0.0")] * 2)], "several_records"),
    ],
)
def test_a_request_without_a_record_has_a_reason(outcome, services, reason):
    assert reasons(join([row(outcome=outcome)], URLS, services)) == [reason]


def test_counted_excluded_and_unjoined_are_all_requests():
    rows = [row(response_id=f"chatcmpl-{number}") for number in range(6)]
    shadow = record("chatcmpl-0", arm="shadow", excluded="no_shadow")
    records = [record("chatcmpl-0"), shadow, record("chatcmpl-1"), record("chatcmpl-2")]
    records += [record("chatcmpl-3", excluded="aborted"), record("chatcmpl-4", excluded="no_step")]
    counts = join_counts(join(rows, URLS, [service(records=records)]))
    assert counts.num_counted == 3
    assert counts.excluded == Counter(aborted=1, no_step=1)
    assert counts.unjoined == Counter(not_found=1)
    assert counts.shadows_excluded == Counter(no_shadow=1)
    assert counts.num_requests == 6
