"""Piece permutation: permutes inside groups, keyed, invertible."""

import json

import numpy as np
import pytest

from masksearch_jax.data import token_permutation

GROUPS = [[10, 11, 12, 13, 14, 15, 16], [20, 25, 30, 35]]


def test_draw_moves_pieces_inside_their_group_only():
    permutation = token_permutation.TokenPermutation(GROUPS, 50).draw(0, 1, 2)
    assert permutation.dtype == np.int32 and permutation.shape == (50,)
    for group in GROUPS:
        assert sorted(permutation[group]) == sorted(group)
    outside = np.setdiff1d(np.arange(50), np.concatenate(GROUPS))
    np.testing.assert_array_equal(permutation[outside], outside)


def test_draw_depends_on_every_part_of_the_key_alone():
    one, two = (
        token_permutation.TokenPermutation(GROUPS, 50),
        token_permutation.TokenPermutation([g[::-1] for g in GROUPS], 50),
    )
    first = one.draw(5, 1, 2, 3)
    one.draw(5, 9, 9, 9)
    np.testing.assert_array_equal(one.draw(5, 1, 2, 3), first)
    np.testing.assert_array_equal(two.draw(5, 1, 2, 3), first)
    for other in [(6, 1, 2, 3), (5, 2, 1, 3), (5, 1, 2, 4), (5, 1, 2)]:
        assert (one.draw(*other) != first).any()


def test_every_arrangement_comes_up_equally_often():
    drawn = [tuple(token_permutation.TokenPermutation([[0, 1, 2]], 3).draw(0, i)) for i in range(1200)]
    counts = [drawn.count(arrangement) for arrangement in sorted(set(drawn))]
    assert len(counts) == 6
    # Chi-square with 5 degrees of freedom: 20.5 is the 0.999 quantile.
    assert sum((count - 200) ** 2 / 200 for count in counts) < 20.5


def test_forms_of_a_member_move_together():
    forms = [[0, 10], [1, 11], [2, 12], [3, 13]]
    for i in range(20):
        permutation = token_permutation.TokenPermutation([forms], 20).draw(0, i)
        np.testing.assert_array_equal(permutation[10:14], permutation[:4] + 10)


def test_inverse():
    permutation = token_permutation.TokenPermutation(GROUPS, 50).draw(3)
    np.testing.assert_array_equal(token_permutation.TokenPermutation.inverse(permutation)[permutation], np.arange(50))


def test_load_and_errors(tmp_path):
    path = tmp_path / "augment.json"
    with pytest.raises(FileNotFoundError, match="augment.json"):
        token_permutation.load(path, 50)
    path.write_text(json.dumps({"groups": GROUPS}))
    assert token_permutation.load(path, 50).describe() == [[[i] for i in group] for group in GROUPS]
    with pytest.raises(ValueError, match=r"groups\[1\]: id 35 is outside the vocabulary of 32"):
        token_permutation.load(path, 32)
    with pytest.raises(ValueError, match=r"groups\[1\]: id 4 is listed twice"):
        token_permutation.TokenPermutation([[3, 4], [4, 5]], 50)
