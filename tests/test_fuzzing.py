"""The tools of the fuzz tests notice what they are for."""

import pytest
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies


def test_growth_tells_linear_from_quadratic():
    assert_grows_like_n_log_n(sorted, lambda n: [str(i * 7919 % n) for i in range(n)])
    with pytest.raises(AssertionError, match="more than n log n"):
        assert_grows_like_n_log_n(lambda n: sum(1 for _ in range(n * n // 50)), lambda n: n)


def test_a_fuzz_test_draws_inputs_and_reports_what_breaks():
    seen = []

    @fuzz(strategies.integers(0, 10**6), examples=30)
    def breaks(value):
        seen.append(value)
        assert value < 1000

    with pytest.raises(AssertionError):
        breaks()
    assert len(set(seen)) > 5
