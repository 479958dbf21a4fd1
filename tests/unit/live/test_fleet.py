"""Who serves and who shadows a request, and that it stays so while roles change."""

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.live.hosted import Role
from dpace_serve.live.traffic import draw


def assign(fleet, request_id="r", wanted=None, may_shadow=True):
    return fleet.assign(request_id, wanted=wanted, may_shadow=may_shadow)


def rows(fleet):
    return {row["slot"]: row for row in fleet.drafters()["drafters"]}


def test_a_lone_champion_serves_everything_and_needs_no_salt(fleet):
    assignment = assign(fleet())
    assert (assignment.serving.slot, assignment.serving.drafter.name) == (0, "a")
    assert assignment.serving.arm == "champion"
    assert assignment.shadows == ()
    assert assignment.cache_salt is None


def test_keys_increase(fleet):
    hosted = fleet()
    keys = [assign(hosted).key for _ in range(3)]
    assert keys == sorted(set(keys))


def test_all_challengers_shadow_what_the_champion_serves(fleet):
    assignment = assign(fleet("b", "c"))
    assert [(one.slot, one.drafter.name, one.arm) for one in assignment.shadows] == [
        (1, "b", "shadow"),
        (2, "c", "shadow"),
    ]
    assert assignment.cache_salt == "dpace:0+1+2"


def test_nobody_shadows_a_request_that_cannot_be_judged_or_is_not_drawn(fleet):
    assert assign(fleet("b"), may_shadow=False).shadows == ()
    hosted = fleet("b", shadow_share=0.5)
    for number in range(50):
        is_shadowed = bool(assign(hosted, f"r{number}").shadows)
        assert is_shadowed == (draw(f"r{number}", "shadow", salt=hosted.draw_salt) < 0.5)


def test_in_split_mode_the_draw_decides_who_serves(fleet):
    hosted = fleet("b", "c", mode="split", share=0.3)
    for number in range(100):
        serving = assign(hosted, f"r{number}").serving
        drawn = draw(f"r{number}", "split", salt=hosted.draw_salt)
        expected = "b" if drawn < 0.3 else "c" if drawn < 0.6 else "a"
        assert serving.drafter.name == expected
        assert serving.arm == ("champion" if expected == "a" else "challenger")


def test_the_salt_depends_on_the_drafters_and_not_on_their_arms(fleet):
    hosted = fleet("b", mode="shadow")
    assert assign(hosted, wanted="b").cache_salt == "dpace:1"
    hosted.promote("b")
    assert assign(hosted, "after").cache_salt == "dpace:1"
    hosted.reinstate(0, Role.CHALLENGER)
    again = assign(hosted, "again")
    assert [one.drafter.generation for one in again.bindings] == [1, 0]
    assert again.cache_salt == "dpace:0+1"


def test_a_wanted_drafter_serves_and_is_not_shadowed_unless_it_is_the_champion(fleet):
    hosted = fleet("b", "c")
    assignment = assign(hosted, wanted="c")
    assert (assignment.serving.drafter.name, assignment.serving.arm) == ("c", "challenger")
    assert assignment.shadows == ()
    assert len(assign(hosted, wanted="a").shadows) == 2


def test_an_unknown_drafter_is_refused_with_the_choices_and_counts_nothing(fleet):
    hosted = fleet("b", "c")
    hosted.drop("c")
    with pytest.raises(ValueError, match=r"^the drafter must be one of a, b\. ") as caught:
        assign(hosted, wanted="c")
    assert type(caught.value) is ValueError
    assert [row["running"] for row in rows(hosted).values()] == [0, 0, 0, 0]


def test_running_and_served_requests_are_counted_by_slot(fleet):
    hosted = fleet("b")
    first, _ = assign(hosted, "r1"), assign(hosted, "r2")
    hosted.release(first)
    champion, challenger = rows(hosted)[0], rows(hosted)[1]
    assert (champion["running"], champion["served"], champion["shadowed"]) == (1, 2, 0)
    assert (challenger["running"], challenger["served"], challenger["shadowed"]) == (1, 0, 2)


def test_a_second_release_is_an_error_and_counts_nothing(fleet):
    hosted = fleet("b")
    first, _ = assign(hosted, "r1"), assign(hosted, "r2")
    hosted.release(first)
    with pytest.raises(ValueError, match="released before"):
        hosted.release(first)
    assert rows(hosted)[0]["running"] == 1


def test_an_assignment_of_another_fleet_is_an_error(fleet):
    hosted, other = fleet(), fleet("b")
    assign(hosted)
    with pytest.raises(ValueError, match="not running"):
        hosted.release(assign(other))


def test_a_running_request_keeps_its_drafters_through_a_promotion(fleet):
    hosted = fleet("b")
    before = assign(hosted)
    hosted.promote(None)
    assert (before.serving.slot, before.serving.arm) == (0, "champion")
    after = assign(hosted)
    assert (after.serving.slot, after.serving.arm, after.shadows) == (1, "champion", ())
    assert rows(hosted)[0]["running"] == 1
    hosted.release(before)
    assert [rows(hosted)[slot]["running"] for slot in (0, 1)] == [0, 1]


def test_the_configured_shares_sum_to_one(fleet):
    assert fleet("b", "c").served_shares() == {Role.CHAMPION: 1, Role.CHALLENGER: 0}
    shares = fleet("b", "c", mode="split", share=0.25).served_shares()
    assert shares == {Role.CHAMPION: 0.5, Role.CHALLENGER: 0.5}


def test_no_reader_sees_a_path(fleet):
    assert "/d" not in str(fleet("b").drafters())


def test_two_drafters_of_one_name_are_refused_at_start(fleet):
    with pytest.raises(ConfigError, match="two are called a"):
        fleet("a")
