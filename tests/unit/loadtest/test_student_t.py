"""Quantiles of Student's t against the table in every textbook."""

import pytest

from dpace_loadtest.student_t import student_t_quantile


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228),
        (29, 2.045), (30, 2.042), (60, 2.000), (120, 1.980), (10**9, 1.962),
    ],
)  # fmt: skip
def test_it_is_that_of_the_table(degrees, expected):
    assert student_t_quantile(0.95, degrees) == pytest.approx(expected, abs=5e-4)


def test_other_confidences_are_those_of_the_table():
    assert student_t_quantile(0.99, 4) == pytest.approx(4.604, abs=5e-4)
    assert student_t_quantile(0.90, 7) == pytest.approx(1.895, abs=5e-4)


@pytest.mark.parametrize(("confidence", "degrees"), [(0, 3), (1, 3), (0.95, 0)])
def test_what_has_no_quantile_is_refused(confidence, degrees):
    with pytest.raises(ValueError, match="confidence must lie"):
        student_t_quantile(confidence, degrees)
