"""A curve in one line of text."""

import math

from masksearch_jax.runtime.sparkline import sparkline


def test_heights_lie_between_the_lowest_and_the_highest():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3], 8) == "▁▁" and sparkline([], 8) == "" and sparkline([1], 0) == ""


def test_neighbours_are_averaged_and_gaps_stay_gaps():
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([0, math.nan, 1, math.inf], 4) == "▁ █ "
    assert sparkline([math.nan] * 2, 2) == "  "
    assert len(sparkline(range(1000), 33)) == 33
