"""The binding of a request survives its way to the worker."""

import pytest

from dpace_serve.vllm_engine.row_binding import BINDING, PLAIN, RowBinding, binding_of


@pytest.mark.parametrize("binding", [RowBinding(3, 0, ()), RowBinding(9, 2, (1, 3))])
def test_a_binding_is_read_as_it_was_written(binding):
    assert binding_of({BINDING: binding.to_list(), "other": 1}, num_slots=4) == binding


@pytest.mark.parametrize("extra_args", [None, {}, {"other": 1}])
def test_a_request_without_one_is_served_by_the_first_slot(extra_args):
    assert binding_of(extra_args, num_slots=4) == PLAIN
    assert (PLAIN.serving, PLAIN.shadows) == (0, ())


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([7, 99, 98], RowBinding(7, 0, ())),
        ([7, -1, 1, -1, 3, 4], RowBinding(7, 0, (1, 3))),
        ([7, 3, 2, 2], RowBinding(7, 3, (2,))),  # a slot drafts along once
        ([7, 2, 2, 1], RowBinding(7, 2, (1,))),  # and never with itself
    ],
)
def test_slots_that_do_not_exist_are_never_drafted_with(written, read):
    assert binding_of({BINDING: written}, num_slots=4) == read


@pytest.mark.parametrize(
    "written", [1, "dpace", [], [7], ["7", "1"], [7, 1.0], [7, None], [7, True], {"7": 1}, [[7], 1]]
)
def test_what_we_have_not_written_is_as_nothing(written):
    assert binding_of({BINDING: written}, num_slots=4) == PLAIN
