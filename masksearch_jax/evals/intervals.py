"""Means over a few independent runs, with confidence intervals."""

import math
from collections.abc import Sequence
from typing import TypedDict

# Two-sided 95 % quantiles of Student's t for 1, 2, .. degrees of freedom (any statistics textbook). Beyond these, the
# quantile of the normal distribution is used.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL95 = 1.960


class Interval(TypedDict):
    """A mean, and the half-width of the 95 % t interval around it; None for a single value."""

    mean: float
    half_width: float | None


def mean(values: Sequence[float]) -> Interval:
    """Return {'mean', 'half_width'} of the 95 % t interval; half_width is None for a single value.

    Raises ValueError if there are no values.
    """
    if not values:
        raise ValueError("a mean of no values")
    centre = math.fsum(values) / len(values)
    if len(values) == 1:
        return {"mean": centre, "half_width": None}
    spread = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))
    freedom = len(values) - 1
    quantile = _T95[freedom - 1] if freedom <= len(_T95) else _NORMAL95
    return {"mean": centre, "half_width": quantile * spread / math.sqrt(len(values))}
