"""Gaps between chunks, sorted by what happened meanwhile."""

import pytest

from dpace_serve.demo.chunk_gaps import GapFigures, spans_between, split_gaps


def test_a_gap_belongs_to_a_span_that_it_touches():
    gaps = [(0.0, 1.0), (1.0, 2.0), (2.0, 6.0), (6.0, 7.0), (8.0, 9.0)]
    touched, others = split_gaps(gaps, [(1.5, 1.6), (3.0, 4.0), (6.5, 7.5)])
    assert touched == [(1.0, 2.0), (2.0, 6.0), (6.0, 7.0)]
    assert others == [(0.0, 1.0), (8.0, 9.0)]


def test_sorting_gaps_agrees_with_looking_at_every_span(random_gaps_and_spans):
    gaps, spans = random_gaps_and_spans
    touched, others = split_gaps(gaps, spans)
    expected = [
        gap for gap in gaps if any(begin <= gap[1] and gap[0] <= end for begin, end in spans)
    ]
    assert touched == expected
    assert others == [gap for gap in gaps if gap not in expected]
    assert touched
    assert others


@pytest.fixture
def random_gaps_and_spans():
    import random

    generator = random.Random(0)
    gaps = [
        (begin, begin + generator.random())
        for begin in (generator.uniform(0, 50) for _ in range(200))
    ]
    edges = sorted(generator.uniform(0, 50) for _ in range(40))
    return gaps, list(zip(edges[::4], edges[1::4], strict=True))


def test_comparison_spans_are_as_long_and_far_from_the_others():
    spans = [(0.0, 1.0), (11.0, 13.0), (14.0, 15.0)]
    # From 1 to 11 there is room for one second; from 13 to 14 none for two.
    assert spans_between(spans) == [(5.5, 6.5)]


def test_the_figures_are_in_milliseconds():
    gaps = [(0.0, number / 1000) for number in range(101)]
    assert GapFigures.of(gaps) == GapFigures(
        101, p50_ms=pytest.approx(50), p99_ms=pytest.approx(99), longest_ms=pytest.approx(100)
    )


def test_a_lone_gap_is_all_of_its_figures():
    assert GapFigures.of([(1.0, 1.5)]) == GapFigures(1, 500, 500, 500)


def test_no_gap_has_no_figures():
    assert GapFigures.of([]) == GapFigures(0, None, None, None)
