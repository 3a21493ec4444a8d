import numpy as np

from masksearch_jax.rollout import shapes


def test_rungs_hold_their_size_or_are_the_largest():
    ladder = shapes.clipped((4, 16, 64, 256), 100)
    assert ladder == (4, 16, 64, 100)
    assert [shapes.rung(ladder, size) for size in (1, 4, 5, 64, 65, 500)] == [4, 4, 16, 64, 100, 100]


def test_row_chunks_cover_every_row_once():
    for count in range(1, 60):
        chunks = shapes.row_chunks(count, (4, 16))
        assert sum((list(range(count))[part] for part, _ in chunks), []) == list(range(count))
        assert all(part.stop - part.start <= rows for part, rows in chunks)
    assert shapes.row_chunks(19, (4, 16)) == [(slice(0, 16), 16), (slice(16, 19), 4)]


def test_padding_keeps_counts():
    ids, counts = shapes.padded([np.array([7, 8]), np.array([], int)], rows=3, length=4)
    assert ids.tolist() == [[7, 8, 0, 0], [0] * 4, [0] * 4] and counts.tolist() == [2, 0, 0]


def test_prefixes_are_shared_by_neighbours_of_one_group_and_prompt():
    a, b = np.array([1, 2]), np.array([1, 3])
    prefixes = shapes.prefix_batches([0, 0, 1, 1, 1, 0], [a, a, a, b, b, a], rows=2)
    assert prefixes.place == [(0, 0), (0, 0), (0, 1), (1, 0), (1, 0), (1, 1)]
    assert prefixes.first == [[0, 2], [3, 5]]
