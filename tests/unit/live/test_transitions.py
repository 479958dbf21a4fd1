"""How drafters change their roles: as a whole or not at all."""

from dataclasses import replace

import pytest

from dpace_serve.errors import SwapError
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Role
from dpace_serve.live.traffic import Traffic


def roles(fleet):
    return [(row["role"], row["name"]) for row in fleet.drafters()["drafters"]]


def load(fleet, candidate, role=Role.CHAMPION):
    slot = fleet.reserve(candidate.config)
    fleet.install(slot, candidate, role)
    return slot


def refusal(transition, *arguments):
    with pytest.raises(SwapError) as caught:
        transition(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_swap_takes_the_spare_slot_and_retires_the_champion(fleet, candidate):
    hosted = fleet()
    assert load(hosted, candidate("b")) == 1
    assert roles(hosted) == [("retired", "a"), ("champion", "b")]
    assert hosted.champion.generation == 1


def test_the_next_swap_takes_the_slot_of_the_retired_one(fleet, candidate):
    hosted = fleet()
    load(hosted, candidate("b"))
    assert load(hosted, candidate("c")) == 0
    assert roles(hosted) == [("champion", "c"), ("retired", "b")]
    assert hosted.champion.generation == 2  # slot 0 again, yet nobody reads the keys of a


def test_of_several_retired_the_longest_retired_goes_first(fleet, candidate):
    hosted = fleet("b", spare=1)
    load(hosted, candidate("c"))  # retires a in slot 0
    hosted.promote("b")  # retires c in slot 2
    assert load(hosted, candidate("d")) == 0
    assert roles(hosted) == [("champion", "d"), ("retired", "b"), ("retired", "c")]


def test_a_slot_with_running_requests_is_not_taken(fleet, candidate):
    hosted = fleet()
    running = [hosted.assign(name, wanted=None, may_shadow=True) for name in ("r1", "r2")]
    load(hosted, candidate("b"))
    before = hosted.drafters()
    error = refusal(hosted.reserve, candidate("c").config)
    assert error.status == 409
    assert "2 running requests" in str(error)
    assert hosted.drafters() == before
    assert hosted.count_draining(candidate("c").config) == 2
    for assignment in running:
        hosted.release(assignment)
    assert load(hosted, candidate("c")) == 0


def test_without_a_free_slot_it_says_what_holds_them(fleet, candidate):
    error = refusal(fleet("b", spare=0).reserve, candidate("c").config)
    assert error.status == 409
    assert "hold the champion or a challenger" in str(error)


def test_a_reserved_slot_is_not_given_twice_and_abandoned_ones_are_empty(fleet, candidate, config):
    hosted = fleet()
    load(hosted, candidate("b"))
    slot = hosted.reserve(config)
    assert hosted.drafters()["drafters"][slot]["is_loading"]
    assert refusal(hosted.reserve, config).status == 409
    hosted.abandon(slot)
    assert roles(hosted) == [("empty", None), ("champion", "b")]
    assert hosted.reserve(config) == slot


def test_only_a_reserved_slot_can_be_filled_or_given_back(fleet, candidate):
    hosted = fleet()
    for act in (lambda: hosted.abandon(1), lambda: hosted.install(1, candidate("b"), "champion")):
        with pytest.raises(ValueError, match="slot 1 is not reserved"):
            act()


def test_another_shape_does_not_fit_and_its_difference_is_named(fleet, config):
    other = replace(config, intermediate_size=config.intermediate_size * 2)
    error = refusal(fleet().reserve, other)
    assert error.status == 422
    sizes = f"{other.intermediate_size} instead of {config.intermediate_size}"
    assert f"intermediate_size {sizes}" in str(error)


def test_who_holds_a_slot_and_for_how_long_is_said(fleet, candidate):
    seconds = iter([100.0, 700.0, 940.0, 2500.0])
    hosted = fleet("b", spare=1, clock=lambda: next(seconds))
    both = hosted.assign("both", wanted=None, may_shadow=True)  # holds the slots of a and b
    hosted.assign("one", wanted=None, may_shadow=False)
    hosted.drop("b")
    load(hosted, candidate("c"))
    error = refusal(hosted.reserve, candidate("d").config)
    assert error.status == 409
    assert "2 running requests still use" in str(error)
    assert "the oldest for 2400 s" in str(error)
    assert "a client that does not read its answer" in str(error)
    assert hosted.count_draining(candidate("d").config) == 2
    hosted.release(both)
    assert hosted.count_draining(candidate("d").config) == 1


def test_more_spare_slots_are_advised_only_where_they_would_fit(candidate, config):
    """They are built like the first drafter."""
    other = replace(config, intermediate_size=config.intermediate_size * 2)
    traffic = Traffic(mode="shadow", share=0.1, shadow_share=1.0, draw_salt="a salt")
    given = [candidate("b"), candidate("c", shape=other)]
    hosted = Fleet(candidate("a"), given, num_spare_slots=0, traffic=traffic)
    same, unlike = (refusal(hosted.reserve, shape) for shape in (config, other))
    assert (same.status, unlike.status) == (409, 409)
    assert "or start with more spare_drafter_slots." in str(same)
    assert "or start with one more challenger of its shape." in str(unlike)


def test_facts_of_the_training_do_not_change_the_shape(fleet, config):
    other = replace(
        config, objective="other", target_name="t", target_revision="r", enable_thinking=True
    )
    assert fleet().reserve(other) == 1


def test_each_slot_keeps_the_shape_it_was_built_with(candidate, config):
    other = replace(config, intermediate_size=config.intermediate_size * 2)
    hosted = Fleet(
        candidate("a"),
        [candidate("b", shape=other)],
        num_spare_slots=1,
        traffic=Traffic(mode="shadow", share=0.1, shadow_share=1.0, draw_salt="a salt"),
    )
    assert refusal(hosted.reserve, other).status == 409  # the empty slot has the shape of a
    hosted.drop("b")
    assert load(hosted, candidate("c", shape=other)) == 1
    assert load(hosted, candidate("d")) == 2


def test_the_same_drafter_is_found_and_another_of_its_name_refused(fleet, candidate):
    hosted = fleet("b")
    assert hosted.seat(candidate("b")) == 1
    assert hosted.seat(candidate("c")) is None
    error = refusal(hosted.seat, candidate("b", "r2"))
    assert error.status == 409
    assert "revision r1 is loaded as b too" in str(error)


def test_a_retired_drafter_makes_room_for_another_of_its_name(fleet, candidate):
    """Its slot is taken, though another one has been retired for longer."""
    hosted = fleet("b", spare=1)
    load(hosted, candidate("c"))  # retires a in slot 0
    hosted.drop("b")
    newer = candidate("b", "r2")
    assert hosted.seat(newer) is None
    slot = hosted.reserve(newer.config, name="b")
    hosted.install(slot, newer, Role.CHALLENGER)
    assert slot == 1
    assert roles(hosted) == [("retired", "a"), ("challenger", "b"), ("champion", "c")]
    assert hosted.challengers[0].revision == "r2"


def test_a_retired_namesake_of_another_slot_is_forgotten_once_the_newer_one_is_there(
    fleet, candidate
):
    hosted = fleet("b", spare=1)
    hosted.drop("b")
    newer = candidate("b", "r2")
    slot = hosted.reserve(newer.config, name="b")  # an empty slot costs nothing if loading fails
    assert slot == 2
    assert roles(hosted)[1] == ("retired", "b")
    hosted.install(slot, newer, Role.CHALLENGER)
    assert roles(hosted) == [("champion", "a"), ("empty", None), ("challenger", "b")]


def test_a_drafter_may_be_compared_with_itself_under_another_name(fleet, candidate):
    hosted = fleet()
    load(hosted, candidate("again", "r1"), Role.CHALLENGER)
    assert roles(hosted) == [("champion", "a"), ("challenger", "again")]


def test_a_retired_drafter_comes_back_with_its_generation(fleet, candidate):
    hosted = fleet()
    load(hosted, candidate("b"))
    hosted.reinstate(0, Role.CHAMPION)
    assert roles(hosted) == [("champion", "a"), ("retired", "b")]
    assert hosted.champion.generation == 0
    hosted.reinstate(1, Role.CHALLENGER)
    assert roles(hosted) == [("champion", "a"), ("challenger", "b")]


def test_the_same_role_again_changes_nothing(fleet):
    hosted = fleet("b")
    before = hosted.drafters()
    hosted.reinstate(0, Role.CHAMPION)
    hosted.reinstate(1, Role.CHALLENGER)
    assert hosted.drafters() == before


def test_the_champion_cannot_challenge_itself(fleet):
    hosted = fleet("b")
    assert refusal(hosted.reinstate, 0, Role.CHALLENGER).status == 409
    assert roles(hosted)[0] == ("champion", "a")


def test_a_challenger_without_a_share_left_is_refused(fleet, candidate):
    hosted = fleet("b", mode="split", share=0.5)
    slot = hosted.reserve(candidate("c").config)
    assert refusal(hosted.install, slot, candidate("c"), Role.CHALLENGER).status == 409
    assert roles(hosted) == [("champion", "a"), ("challenger", "b"), ("empty", None)]
    hosted.install(slot, candidate("c"), Role.CHAMPION)


def test_promotion_and_drop_take_the_only_challenger(fleet):
    hosted = fleet("b")
    assert hosted.promote(None) == 1
    assert roles(hosted) == [("retired", "a"), ("champion", "b"), ("empty", None)]
    hosted = fleet("b")
    assert hosted.drop(None) == 1
    assert roles(hosted) == [("champion", "a"), ("retired", "b"), ("empty", None)]


@pytest.mark.parametrize("name", ["promote", "drop"])
@pytest.mark.parametrize(
    ("challengers", "asked", "status", "text"),
    [
        ((), None, 404, "none is loaded"),
        ((), "b", 404, "none is loaded"),
        (("b",), "a", 404, "must be a challenger's: b."),
        (("b", "c"), None, 422, "several challengers: b, c"),
    ],
)
def test_which_challenger_must_be_clear(fleet, name, challengers, asked, status, text):
    hosted = fleet(*challengers)
    before = hosted.drafters()
    error = refusal(getattr(hosted, name), asked)
    assert error.status == status
    assert text in str(error)
    assert hosted.drafters() == before


@pytest.mark.parametrize("name", ["promote", "drop"])
def test_another_revision_under_the_same_name_is_not_taken_for_the_one_that_is_meant(
    fleet, candidate, name
):
    hosted = fleet()
    load(hosted, candidate("b", "fedcba987654"), Role.CHALLENGER)
    before = hosted.drafters()
    for asked in ("b", None):
        error = refusal(getattr(hosted, name), asked, "0123")
        assert error.status == 409
        assert "the revision of b must start with 0123, is fedcba987654" in str(error)
    assert hosted.drafters() == before
    assert getattr(hosted, name)("b", "fedc") == 1
