import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.report.histogram import BARS, FINE, Histogram, draw

NAMES = ("kept", "by threshold", "otherwise")
VALUES = st.lists(st.tuples(st.floats(-1.0, 1.0, width=32) | st.just(float("nan")), st.integers(0, 2)), max_size=60)


def filled(rows):
    histogram = Histogram(3)
    histogram.add(np.array([value for value, _ in rows], float), np.array([stack for _, stack in rows], int))
    return histogram


@given(VALUES, st.lists(st.floats(-1, 1), max_size=2))
def test_a_drawing_shows_every_value_once_in_its_stack_and_place(rows, thresholds):
    drawing = draw(filled(rows), NAMES, thresholds)
    measured = [(value, stack) for value, stack in rows if value == value]
    if not measured:
        assert drawing is None
        return
    assert len(drawing.bars) <= BARS
    said = dict.fromkeys(NAMES, 0)
    for bar in drawing.bars:
        span, numbers = bar.says.split(": ")
        low, high = map(float, span.split(" to "))
        for shown in numbers.split(", "):
            number, name = shown.split(" ", 1)
            said[name] += int(number)
        inside = [value for value, _ in measured if low - FINE <= value <= high + FINE]
        assert inside
        heights = [height for _, _, height in bar.blocks]
        lowest_top = min(y for _, y, _ in bar.blocks)
        assert sum(heights) == pytest.approx(100 - lowest_top, abs=0.01)
        assert -0.01 <= bar.x <= bar.x + bar.width <= 100.01
    assert said == {name: sum(stack == number for _, stack in measured) for number, name in enumerate(NAMES)}
    for mark in (*drawing.thresholds, *drawing.x_ticks, *drawing.y_ticks):
        assert -0.2 <= mark.at <= 100.2


@given(VALUES, st.floats(-1, 1))
def test_no_bar_lies_on_both_sides_of_the_threshold(rows, threshold):
    drawing = draw(filled(rows), NAMES, [threshold])
    if drawing is None:
        return
    at = drawing.thresholds[0].at
    # A threshold within a counted bin is drawn up to FINE beside the bar's edge.
    slack = 100 * FINE / drawing.bin_width / (100 / drawing.bars[0].width) + 0.01
    for bar in drawing.bars:
        assert at <= bar.x + slack or at >= bar.x + bar.width - slack


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=200), st.sampled_from([0.05, 0.5, 0.95]))
def test_quantiles_are_numpys_to_within_a_counted_bin(values, share):
    histogram = Histogram(1)
    # In two helpings, as parts come.
    for half in (values[::2], values[1::2]):
        histogram.add(np.array(half, float), np.zeros(len(half), int))
    expected = np.quantile(values, share, method="inverted_cdf")
    assert histogram.quantile(share) == pytest.approx(expected, abs=1.01 * FINE)


def test_values_pushed_over_the_end_by_rounding_count_and_nothing_is_no_quantile():
    histogram = filled([(float("nan"), 0)])
    histogram.add(np.array([1.0000001, -1.0000001]), np.array([0, 2]))
    assert histogram.counts.sum(axis=1).tolist() == [1, 0, 1]
    assert histogram.missing == 1
    assert histogram.quantile(0.5, 1) is None
