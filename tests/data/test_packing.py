"""Packing: every token lands once, in order, inside its own segment."""

import numpy as np
import pytest

from masksearch_jax.data import packing


def random_sequences(seed, count, longest):
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(count):
        length = int(rng.integers(1, longest + 1))
        ids = rng.integers(3, 100, length).astype(np.int32)
        sequences.append({"ids": ids, "logprobs": rng.normal(size=length).astype(np.float32)})
    return sequences


def test_pack_first_fit_by_hand():
    assert packing.pack([5, 4, 3, 6, 1], row_length=8) == [[0, 2], [1, 4], [3]]


def test_pack_is_a_partition_within_the_row_length():
    lengths = [len(s["ids"]) for s in random_sequences(0, 200, 30)]
    rows = packing.pack(lengths, 32)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(lengths[i] for i in row) <= 32 for row in rows)
    # First fit leaves at most one row at most half full.
    assert sum(sum(lengths[i] for i in row) <= 16 for row in rows) <= 1


@pytest.mark.parametrize(("length", "words"), [(9, ["demo-7", "9", "8"]), (0, ["demo-7", "no tokens"])])
def test_pack_names_what_does_not_fit(length, words):
    with pytest.raises(ValueError) as error:
        packing.pack([3, length], 8, names=["demo-6", "demo-7"])
    assert all(word in str(error.value) for word in words)


def test_fill_round_trip():
    sequences = random_sequences(1, 50, 20)
    rows = packing.pack([len(s["ids"]) for s in sequences], 24)
    batch = packing.fill(rows, sequences, 24, len(rows) + 2)
    assert {name: (value.dtype, value.shape[0]) for name, value in batch.items()} == {
        "ids": (np.int32, len(rows) + 2),
        "positions": (np.int32, len(rows) + 2),
        "segments": (np.int32, len(rows) + 2),
        "logprobs": (np.float32, len(rows) + 2),
    }
    for row, members in enumerate(rows):
        for segment, index in enumerate(members, start=1):
            here = batch["segments"][row] == segment
            np.testing.assert_array_equal(batch["ids"][row][here], sequences[index]["ids"])
            np.testing.assert_array_equal(batch["logprobs"][row][here], sequences[index]["logprobs"])
            np.testing.assert_array_equal(batch["positions"][row][here], np.arange(here.sum()))
    padding = batch["segments"] == 0
    assert padding.sum() == padding.size - sum(len(s["ids"]) for s in sequences)
    assert all(not value[padding].any() for value in batch.values())


def test_fill_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="no sequences"):
        packing.fill([], [], 8, 1)
    sequence = {"ids": np.arange(3), "trainable": np.ones(2, bool)}
    with pytest.raises(ValueError, match="'trainable' has 2 values for 3 ids"):
        packing.fill([[0]], [sequence], 4, 1)
    with pytest.raises(ValueError, match="rows_count=1"):
        packing.fill([[0], [1]], [{"ids": np.arange(3)}] * 2, 4, 1)
    with pytest.raises(ValueError, match="row 0 holds 6 tokens"):
        packing.fill([[0, 1]], [{"ids": np.arange(3)}] * 2, 4, 1)


def test_of_next_stops_at_segment_ends():
    ids = np.array([[5, 6, 7, 8, 9, 0, 0]])
    segments = np.array([[1, 1, 1, 2, 2, 0, 0]])
    np.testing.assert_array_equal(packing.of_next(ids, segments), [[6, 7, 0, 9, 0, 0, 0]])
    trainable = np.array([[False, True, True, True, True, False, False]])
    # The first token of the second segment is predicted by nothing, trainable or not.
    np.testing.assert_array_equal(packing.of_next(trainable, segments), [[1, 1, 0, 1, 0, 0, 0]])
    assert packing.of_next(trainable, segments).dtype == bool
