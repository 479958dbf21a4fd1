"""Several drafters, which come and go: whose series exist, and what shadows add."""

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.shadow import ShadowDraft, settle_drafts
from dpace_serve.metrics.drafters import MAX_DRAFTERS, LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics

EVERY_ARM = ("champion", "challenger", "shadow")
ANSWER = (10, 11, 12, 13, 14, 15)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return AcceptanceMetrics(registry, workloads=["json"], num_draft_tokens=3, method="dflash")


def served(drafter, revision="1", arm="champion", *, excluded=None):
    labels = {"drafter": drafter, "revision": revision, "arm": arm, "workload": "json"}
    if excluded:
        return RequestAcceptance.from_exclusion(
            excluded, request_id="r", finish_reason="abort", **labels
        )
    return RequestAcceptance(
        request_id="r",
        per_step_accepted=(2, 0),
        per_step_drafted=(3, 3),
        emitted_tokens=4,
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
        **labels,
    )


def shadowed(drafter, *drafts, revision="1"):
    return RequestAcceptance.from_shadow(
        settle_drafts(ANSWER, [ShadowDraft(*draft) for draft in drafts]),
        request_id="r",
        drafter=drafter,
        revision=revision,
        workload="json",
        finish_reason="stop",
    )


def value(registry, name, drafter, revision="1", arm="champion", **more):
    labels = {"drafter": drafter, "revision": revision, "arm": arm, "workload": "json"}
    return registry.get_sample_value(name, labels | more)


def outcomes(registry, drafter):
    return {
        sample.labels["outcome"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "dpace_shadow_requests_total" and sample.labels["drafter"] == drafter
    }


def named_drafters(registry):
    return {
        sample.labels["drafter"]
        for metric in registry.collect()
        for sample in metric.samples
        if "drafter" in sample.labels
    }


def info(registry):
    return {
        (s.labels["drafter"], s.labels["revision"], s.labels["arm"], s.labels["block_size"])
        for metric in registry.collect()
        for s in metric.samples
        if s.name == "dpace_drafter_info" and s.value == 1
    }


def test_a_drafter_that_is_added_while_the_server_runs_starts_at_0(registry, metrics):
    metrics.add_drafter("old", "1", 4, ["champion"])
    metrics.observe(served("old"))
    metrics.add_drafter("new", "1", 4, ["champion"])
    assert value(registry, "dpace_acceptance_requests_total", "new") == 0
    assert value(registry, "dpace_acceptance_requests_total", "old") == 1


def test_adding_a_drafter_again_changes_nothing_but_its_new_arms(registry, metrics):
    metrics.add_drafter("old", "1", 4, ["champion"])
    metrics.observe(served("old"))
    metrics.add_drafter("old", "1", 4, ["shadow", "champion"])
    assert value(registry, "dpace_acceptance_requests_total", "old") == 1
    assert value(registry, "dpace_acceptance_requests_total", "old", arm="shadow") == 0
    assert outcomes(registry, "old") == {
        "settled": 0, "answer_ended": 0, "excluded": 0, "lost": 0,
    }  # fmt: skip
    totals = [row for row in metrics.snapshot()["drafters"] if "workload" not in row]
    assert [(row["arm"], row["requests"]) for row in totals] == [("champion", 1), ("shadow", 0)]


def test_each_drafter_revision_and_arm_has_its_own_sums(registry, metrics):
    metrics.add_drafter("a", "1", 4, ["champion", "challenger"])
    metrics.add_drafter("a", "2", 4, ["champion"])
    metrics.add_drafter("b", "1", 4, ["champion"])
    for record in (served("a"), served("a", "2"), served("a", "2"), served("a", arm="challenger")):
        metrics.observe(record)
    name = "dpace_acceptance_steps_total"  # two steps each
    assert value(registry, name, "a") == 2
    assert value(registry, name, "a", "2") == 4
    assert value(registry, name, "a", arm="challenger") == 2
    assert value(registry, name, "b") == 0


@pytest.mark.parametrize(
    ("arms", "block_size", "message"),
    [
        ([], 4, "at least 1 arm of champion, challenger, shadow, got"),
        (["champion", "jester"], 4, "jester"),
        (["champion"], 8, "drafter old 1 has block size 4, got 8"),
    ],
)
def test_a_drafter_that_cannot_be_is_refused_and_changes_nothing(
    registry, metrics, arms, block_size, message
):
    metrics.add_drafter("old", "1", 4, ["champion"])
    before = metrics.snapshot()
    with pytest.raises(ValueError, match=message):
        metrics.add_drafter("old", "1", block_size, arms)
    assert metrics.snapshot() == before


def test_the_information_names_exactly_what_is_loaded(registry, metrics):
    metrics.add_drafter("a", "1", 4, EVERY_ARM)
    metrics.add_drafter("b", "2", 6, EVERY_ARM)
    assert info(registry) == set()
    metrics.set_loaded(
        [LoadedDrafter("a", "1", "champion", 4), LoadedDrafter("b", "2", "shadow", 6)]
    )
    assert info(registry) == {("a", "1", "champion", "4"), ("b", "2", "shadow", "6")}
    metrics.observe(served("a"))
    metrics.set_loaded([LoadedDrafter("b", "2", "champion", 6)])
    assert info(registry) == {("b", "2", "champion", "6")}
    assert value(registry, "dpace_acceptance_requests_total", "a") == 1  # its counters stay
    metrics.observe(served("a"))  # and its last requests still count


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (LoadedDrafter("c", "1", "champion", 4), "must have been added"),
        (LoadedDrafter("a", "1", "shadow", 4), "got shadow"),
        (LoadedDrafter("a", "1", "champion", 8), "block size 4, got 8"),
    ],
)
def test_only_what_was_added_can_be_loaded(registry, metrics, row, message):
    metrics.add_drafter("a", "1", 4, ["champion"])
    metrics.add_drafter("b", "1", 4, ["champion"])
    metrics.set_loaded([LoadedDrafter("a", "1", "champion", 4)])
    with pytest.raises(ValueError, match=message):
        metrics.set_loaded([LoadedDrafter("b", "1", "champion", 4), row])
    assert info(registry) == {("a", "1", "champion", "4")}


def test_the_rows_of_what_is_loaded_come_first_and_then_what_was_last(metrics):
    for name in ("z", "a", "b", "c"):
        metrics.add_drafter(name, "1", 4, ["champion", "challenger"])
    metrics.set_loaded([LoadedDrafter("a", "1", "champion", 4)])
    metrics.set_loaded(
        [LoadedDrafter("c", "1", "champion", 4), LoadedDrafter("b", "1", "challenger", 4)]
    )
    rows = [row for row in metrics.snapshot()["drafters"] if "workload" not in row]
    assert [row["drafter"] for row in rows] == ["c", "c", "b", "b", "a", "a", "z", "z"]


def test_hundreds_of_swaps_keep_the_number_of_series_bounded(registry, metrics):
    sizes = []
    for number in range(200):
        name = f"d{number}"
        metrics.add_drafter(name, "1", 4, EVERY_ARM)
        metrics.set_loaded([LoadedDrafter(name, "1", "champion", 4)])
        metrics.observe(served(name))
        sizes.append(sum(len(metric.samples) for metric in registry.collect()))
    assert named_drafters(registry) == {f"d{number}" for number in range(200 - MAX_DRAFTERS, 200)}
    assert len(set(sizes[MAX_DRAFTERS:])) == 1
    assert len({row["drafter"] for row in metrics.snapshot()["drafters"]}) == MAX_DRAFTERS
    with pytest.raises(ValueError, match="must have been added"):
        metrics.observe(served("d0"))


def test_what_is_loaded_is_never_removed_and_what_was_loaded_last_is_kept_longest(
    registry, metrics
):
    metrics.add_drafter("first", "1", 4, EVERY_ARM)
    metrics.set_loaded([LoadedDrafter("first", "1", "champion", 4)])
    for number in range(2 * MAX_DRAFTERS):
        metrics.add_drafter(f"d{number}", "1", 4, EVERY_ARM)  # none of them could be loaded
    metrics.set_loaded([LoadedDrafter(f"d{2 * MAX_DRAFTERS - 1}", "1", "champion", 4)])
    # It left only now: its last requests still run while the next drafters come.
    for name in ("next", "another"):
        metrics.add_drafter(name, "1", 4, EVERY_ARM)
    metrics.observe(served("first"))
    assert value(registry, "dpace_acceptance_requests_total", "first") == 1


def test_what_is_held_is_never_removed_until_it_is_let_go(registry, metrics):
    """A retired drafter whose request goes on and on, while others come and go."""
    metrics.add_drafter("running", "1", 4, ["champion"])
    metrics.hold([("running", "1"), ("unheard of", "1")])
    for number in range(40):
        metrics.add_drafter(f"swapped{number}", "1", 4, ["champion"])
    assert named_drafters(registry) == {
        "running", *(f"swapped{number}" for number in range(33, 40)),
    }  # fmt: skip
    metrics.observe(served("running"))
    assert value(registry, "dpace_acceptance_requests_total", "running") == 1
    metrics.hold([])
    metrics.add_drafter("swapped40", "1", 4, ["champion"])
    assert "running" not in named_drafters(registry)
    assert len(named_drafters(registry)) == 8


def test_exclusions_are_counted_by_revision_and_their_sum_outlives_the_series(registry, metrics):
    def counted(revision, reason="aborted"):
        labels = {"drafter": "old", "revision": revision, "arm": "champion", "reason": reason}
        return registry.get_sample_value("dpace_requests_excluded_total", labels)

    metrics.add_drafter("old", "1", 4, ["champion"])
    metrics.add_drafter("old", "2", 4, ["champion"])
    assert (counted("1"), counted("2"), counted("2", "no_record")) == (0, 0, 0)
    metrics.exclude(served("old", "1", excluded="aborted"))
    metrics.exclude(served("old", "2", excluded="aborted"))
    metrics.exclude(served("old", "2", excluded="aborted"))
    assert (counted("1"), counted("2"), counted("2", "no_record")) == (1, 2, 0)
    for number in range(8):
        metrics.add_drafter(f"newer{number}", "1", 4, ["champion"])
    assert (counted("1"), counted("2")) == (None, None)
    assert metrics.snapshot()["excluded"]["aborted"] == 3


def test_more_drafters_than_the_bound_are_kept_while_all_are_loaded(registry, metrics):
    rows = []
    for number in range(MAX_DRAFTERS + 3):
        metrics.add_drafter(f"d{number}", "1", 4, ["challenger"])
        rows.append(LoadedDrafter(f"d{number}", "1", "challenger", 4))
        metrics.set_loaded(rows)
    assert len(named_drafters(registry)) == MAX_DRAFTERS + 3
    metrics.set_loaded(rows[:1])
    metrics.add_drafter("next", "1", 4, ["challenger"])
    assert len(named_drafters(registry)) == MAX_DRAFTERS
    assert {"d0", "next"} <= named_drafters(registry)


def test_a_drafter_that_was_removed_can_come_back_and_starts_at_0(registry, metrics):
    metrics.add_drafter("a", "1", 4, ["champion"])
    metrics.observe(served("a"))
    for number in range(MAX_DRAFTERS):
        metrics.add_drafter(f"d{number}", "1", 4, ["champion"])
    assert value(registry, "dpace_acceptance_requests_total", "a") is None
    metrics.add_drafter("a", "1", 4, ["champion"])
    assert value(registry, "dpace_acceptance_requests_total", "a") == 0


def test_open_positions_of_a_shadow_are_unsettled_and_never_rejected(registry, metrics):
    metrics.add_drafter("new", "1", 4, ["shadow"])
    # Anchor 0: right, then wrong: 1 of 3. Anchor 3: right until the answer ends: 2 of 2, 1 open.
    metrics.observe(shadowed("new", (0, (11, 99, 13)), (3, (14, 15, 16))))
    drafted, accepted = (
        [
            value(registry, f"dpace_{kind}_tokens_total", "new", arm="shadow", position=str(p))
            for p in (1, 2, 3)
        ]
        for kind in ("drafted", "accepted")
    )
    assert (drafted, accepted) == ([2, 2, 1], [2, 1, 0])
    unsettled = "dpace_unsettled_tokens_total"
    assert value(registry, unsettled, "new", arm="shadow", kind="drafted") == 1
    assert value(registry, unsettled, "new", arm="shadow", kind="accepted") == 0
    assert value(registry, "dpace_emitted_tokens_total", "new", arm="shadow") == 0
    assert value(registry, "dpace_acceptance_accepted_total", "new", arm="shadow") == 3
    assert value(registry, "dpace_acceptance_steps_total", "new", arm="shadow") == 2


def test_each_shadowed_request_has_exactly_one_outcome(registry, metrics):
    metrics.add_drafter("new", "1", 4, ["shadow", "champion"])
    metrics.observe(shadowed("new", (0, (11, 12, 13))))  # complete before the end
    metrics.observe(shadowed("new", (0, (11, 12, 13)), (3, (14, 15, 16))))
    metrics.observe(shadowed("new", (3, (14, 15, 16))))
    metrics.exclude(shadowed("new", (5, (16, 17))))  # nothing of it was compared
    metrics.exclude(served("new", arm="shadow", excluded="aborted"))
    metrics.exclude(served("new", arm="shadow", excluded="no_shadow"))
    metrics.observe(served("new"))  # what it served is no shadow
    metrics.exclude(served("new", excluded="aborted"))
    assert outcomes(registry, "new") == {
        "settled": 1, "answer_ended": 2, "excluded": 2, "lost": 1,
    }  # fmt: skip
    reasons = {
        reason: registry.get_sample_value(
            "dpace_requests_excluded_total",
            {"drafter": "new", "revision": "1", "arm": "shadow", "reason": reason},
        )
        for reason in ("no_step", "aborted", "no_shadow")
    }
    assert reasons == {"no_step": 1, "aborted": 1, "no_shadow": 1}
    assert metrics.snapshot()["excluded"]["aborted"] == 2


def test_an_excluded_shadow_of_an_unknown_drafter_is_counted_nowhere(registry, metrics):
    metrics.add_drafter("new", "1", 4, ["champion"])
    for drafter in ("new", "other"):
        with pytest.raises(ValueError, match="add_drafter"):
            metrics.exclude(served(drafter, arm="shadow", excluded="no_shadow"))
    assert sum(metrics.snapshot()["excluded"].values()) == 0
