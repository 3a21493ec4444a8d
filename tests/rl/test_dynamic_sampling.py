"""Which groups survive dynamic sampling, and what becomes of the surplus."""

import numpy as np
import pytest

from masksearch_jax.rl.dynamic_sampling import informative, keep_groups, select


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.3, 1 / 3])
def test_constant_groups_go(value):
    # numpy's std of such a group is above zero in floating point for some of these values.
    assert not informative([value] * 3)
    assert not informative(np.full(7, value, np.float32))


def test_float_rounding_would_have_kept_a_constant_group():
    assert np.std([0.1] * 3) > 0 and not informative([0.1] * 3)


def test_a_spread_is_kept_and_failed_rewards_do_not_count():
    assert informative([0.0, 0.0, 0.1])
    assert not informative([np.nan, 0.5, 0.5])
    assert informative([np.nan, 0.5, 0.6])
    assert not informative([np.nan, 0.5])
    assert not informative([1.0])


def test_kept_ids_are_ordered_by_id_and_not_by_arrival():
    scores = {7: [0, 1], 2: [1, 1], 5: [0.2, 0.4], 1: [0, 1]}
    assert keep_groups(scores) == [1, 5, 7]
    assert keep_groups(dict(reversed(scores.items()))) == [1, 5, 7]
    assert keep_groups({(1, 3): [0, 1], (0, 9): [0, 1]}) == [(0, 9), (1, 3)]


def test_surplus_is_thrown_away_by_default():
    found = select({4: 3, 1: 3, 9: 3}, target=2, version=3)
    assert (found.batch, found.carried, found.dropped) == ([1, 4], [], [9])


def test_carried_groups_are_at_most_one_version_old():
    first = select({4: 3, 1: 3, 9: 3, 8: 3}, target=2, version=3, carry_over=True)
    assert (first.batch, first.carried, first.dropped) == ([1, 4], [8, 9], [])
    kept = {**{group: 3 for group in first.carried}, 12: 4, 10: 4}
    second = select(kept, target=1, version=4, carry_over=True)
    # 9 has waited once and is not carried again.
    assert (second.batch, second.carried, second.dropped) == ([8], [10, 12], [9])
    # A group two versions old is not trained on, even where groups are short.
    third = select({9: 3, 10: 4}, target=2, version=5, carry_over=True)
    assert (third.batch, third.carried, third.dropped) == ([10], [], [9])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="target"):
        select({1: 0}, target=0, version=0)
    with pytest.raises(ValueError, match=r"groups \[1, 2, 3, 4\] were .* later policy version"):
        select(dict.fromkeys(range(1, 7), 2), target=1, version=1)
    with pytest.raises(ValueError, match="later policy version"):
        select({1: 2}, target=1, version=1)
