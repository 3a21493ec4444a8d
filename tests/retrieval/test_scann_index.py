import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from masksearch_jax.retrieval.index import exact, recall_check, scann_index
from masksearch_jax.retrieval.index.index_settings import ScannSettings

pytest.importorskip("scann", reason="the extra 'retrieval' is not installed")


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    """2,000 vectors around 40 centres, as real passages cluster by subject."""
    rng = np.random.default_rng(0)
    return unit(rng.standard_normal((40, 64)).repeat(50, axis=0) + 0.7 * rng.standard_normal((2000, 64)))


@pytest.fixture(scope="module")
def queries(vectors):
    rng = np.random.default_rng(1)
    return unit(vectors[rng.permutation(2000)[:60]] + 0.05 * rng.standard_normal((60, 64)))


@pytest.fixture(scope="module")
def tree(vectors, tmp_path_factory):
    # Half of the leaves: two builds differ, and with 12 of them one in three came out under 0.95.
    how = scann_index.plan(ScannSettings(method="tree", leaves=40, leaves_to_search=20, reorder=100), len(vectors))
    return scann_index.build_scann(vectors, how, tmp_path_factory.mktemp("tree"))


def test_brute_force_equals_exact_search(tmp_path, vectors, queries):
    index = scann_index.build_scann(vectors, scann_index.plan(ScannSettings(), len(vectors)), tmp_path)
    assert index.plan.method == "brute_force"
    for found, truth in zip(index.search(queries, 10), exact.ExactSearcher(vectors).search(queries, 10), strict=True):
        np.testing.assert_array_equal(found, truth)


def test_tree_with_reordering_comes_close_to_exact_search(tree, vectors, queries):
    truth, best = exact.ExactSearcher(vectors).search(queries, 10)
    rows, scores = tree.search(queries, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), truth.tolist(), strict=True)])
    assert shared >= 0.95
    # Scores are exact inner products of the rows that were found, best first.
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all() and (scores[:, 0] <= best[:, 0]).all()


def test_a_moved_folder_searches_the_same(tmp_path, tree, vectors, queries):
    index = scann_index.build_scann(vectors, tree.plan, tmp_path / "here")
    before = index.search(queries, 5)
    (tmp_path / "here").rename(tmp_path / "there")
    assert not list((tmp_path / "there").glob("*.pkl")) + list((tmp_path / "there").glob("*.pickle"))
    moved = scann_index.ScannIndex.load(tmp_path / "there")
    assert moved.plan == index.plan
    for a, b in zip(before, moved.search(queries, 5), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_row_does_not_depend_on_its_batch(tree, queries):
    rows, scores = tree.search(queries, 10)
    order = np.random.default_rng(2).permutation(len(queries))
    mixed_rows, mixed_scores = tree.search(queries[order], 10)
    np.testing.assert_array_equal(mixed_rows, rows[order])
    np.testing.assert_array_equal(mixed_scores, scores[order])
    for i in range(0, len(queries), 7):
        alone = tree.search(queries[i : i + 1], 10)
        np.testing.assert_array_equal(alone[0][0], rows[i])
        np.testing.assert_array_equal(alone[1][0], scores[i])


def test_threads_find_the_same(tree, queries):
    expected = tree.search(queries, 10)[0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tree.search(queries, 10)[0], range(24)))
    for rows in found:
        np.testing.assert_array_equal(rows, expected)


def test_misses_are_no_rows(tree, queries):
    """One leaf of 40 holds about 50 vectors: the rest of the 300 asked for are misses, which ScaNN calls row 0."""
    rows, scores = tree.searching(1, 300).search(queries, 300)
    assert ((rows == -1) == np.isneginf(scores)).all()
    assert (rows == -1).sum() > 100 * len(queries)
    for row in rows:
        real = row[row >= 0].tolist()
        assert len(set(real)) == len(real) > 0


def test_more_than_there_are(tmp_path, vectors):
    index = scann_index.build_scann(vectors[:3], scann_index.plan(ScannSettings(), 3), tmp_path)
    rows, _ = index.search(vectors[:1], 5)
    assert sorted(rows[0, :3].tolist()) == [0, 1, 2] and rows[0, 3:].tolist() == [-1, -1]


@pytest.mark.parametrize("reordering", ["float32", "bfloat16", "int8"])
def test_shards_find_what_one_finds(tmp_path, vectors, queries, reordering):
    """700 to a shard, of which the last is smaller, from a file: each part of the answer comes from its own shard."""
    np.save(tmp_path / "all.npy", vectors)
    mapped = np.load(tmp_path / "all.npy", mmap_mode="r")
    truth = recall_check.Truth(vectors, queries)
    measured = {}
    for size in (2000, 700):
        settings = ScannSettings("tree", leaves=16, leaves_to_search=16, reordering=reordering, shard_size=size)
        index = scann_index.build_scann(mapped, scann_index.plan(settings, 2000), tmp_path / str(size))
        assert len(list((tmp_path / str(size)).glob("shard-*"))) == index.plan.shards == -(-2000 // size)
        measured[size] = truth.measure(index)
    assert measured[2000] >= 0.95 and measured[700] >= 0.95
    rows, scores = index.search(queries, 10)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    assert {0, 1, 2} == set((rows // 667).ravel().tolist())


def test_shards_of_brute_force_equal_exact_search(tmp_path, vectors, queries):
    index = scann_index.build_scann(vectors, scann_index.plan(ScannSettings(shard_size=700), 2000), tmp_path)
    for found, truth in zip(index.search(queries, 10), exact.ExactSearcher(vectors).search(queries, 10), strict=True):
        np.testing.assert_array_equal(found, truth)


def test_plan_follows_the_number_of_vectors():
    methods = [scann_index.plan(ScannSettings(), count).method for count in (10, 19_999, 20_000, 99_999, 100_000)]
    assert methods == ["brute_force", "brute_force", "hashing", "hashing", "tree"]
    large = scann_index.plan(ScannSettings(), 1_000_000)
    assert (large.leaves, large.leaves_to_search, large.training_sample, large.shards) == (2000, 125, 250_000, 1)
    clamped = scann_index.plan(ScannSettings("tree", leaves=500, leaves_to_search=900, reorder=5000), 100)
    assert (clamped.leaves, clamped.leaves_to_search, clamped.reorder, clamped.training_sample) == (100, 100, 100, 100)
    with pytest.raises(ValueError, match="'hashing' but there are only 20 passages, it needs 32"):
        scann_index.plan(ScannSettings("hashing"), 20)
    with pytest.raises(ValueError, match="only 10 passages in each of 10 shards.*raise retrieval.scann.shard_size"):
        scann_index.plan(ScannSettings("tree", shard_size=10), 100)


@pytest.mark.parametrize("method", ["hashing", "tree"])
def test_least_number_that_can_be_trained(tmp_path, vectors, method):
    # All leaves: the nearest of 6 is not always the leaf of the vector itself (16 of 100 builds; with all, none).
    index = scann_index.build_scann(
        vectors[:32], scann_index.plan(ScannSettings(method, leaves_to_search=32), 32), tmp_path
    )
    assert index.search(vectors[:1], 1)[0].tolist() == [[0]]


def test_refuses_other_shapes_and_nan(tree, queries):
    with pytest.raises(ValueError, match=r"finite \[Q, 64\]"):
        tree.search(queries[:, :8], 1)
    with pytest.raises(ValueError, match=r"finite \[Q, 64\]"):
        tree.search(np.full((1, 64), np.nan, np.float32), 1)


_WITHOUT_TENSORFLOW = """
import sys, tempfile
import numpy as np
from masksearch_jax.retrieval.index import scann_index
from masksearch_jax.retrieval.index.index_settings import ScannSettings
index = scann_index.build_scann(np.eye(8, dtype=np.float32), scann_index.plan(ScannSettings(), 8), tempfile.mkdtemp())
assert index.search(np.eye(8, dtype=np.float32), 1)[0].tolist() == [[i] for i in range(8)]
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
"""


def test_scann_comes_without_tensorflow():
    subprocess.run([sys.executable, "-c", _WITHOUT_TENSORFLOW], check=True)


@pytest.mark.slow  # imports TensorFlow
def test_scann_after_tensorflow():
    """Preparation has TensorFlow in the same process: the import must neither fail nor lose it."""
    pytest.importorskip("tensorflow", reason="the extra 'prep' is not installed")
    program = (
        "import tensorflow\n"
        + _WITHOUT_TENSORFLOW.rpartition("assert")[0]
        + "assert sys.modules['tensorflow'] is tensorflow"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
