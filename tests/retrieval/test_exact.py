import numpy as np
import pytest

from masksearch_jax.retrieval.index import exact


def unit(rng, *shape):
    x = rng.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    return unit(np.random.default_rng(0), 500, 32)


@pytest.fixture(scope="module")
def queries():
    return unit(np.random.default_rng(1), 40, 32)


@pytest.mark.parametrize("at_once", [1 << 23, 40 * 64, 1])
def test_equals_argsort_for_any_chunk(monkeypatch, vectors, queries, at_once):
    monkeypatch.setattr(exact, "_SCORES_AT_ONCE", at_once)
    rows, scores = exact.ExactSearcher(vectors).search(queries, 12)
    truth = queries.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_array_equal(rows, np.argsort(-truth, axis=1, kind="stable")[:, :12])
    np.testing.assert_allclose(scores, -np.sort(-truth, axis=1)[:, :12], atol=1e-6)


def test_equal_scores_go_by_row_across_chunks(monkeypatch, vectors):
    copies = vectors.copy()
    copies[[7, 99, 300, 499]] = vectors[3]
    for at_once in (1 << 23, 37):
        monkeypatch.setattr(exact, "_SCORES_AT_ONCE", at_once)
        rows, scores = exact.ExactSearcher(copies).search(vectors[3:4], 4)
        assert rows.tolist() == [[3, 7, 99, 300]]
        assert len(set(scores[0].tolist())) == 1


def test_bits_do_not_depend_on_the_batch(vectors, queries):
    searcher = exact.ExactSearcher(vectors)
    rows, scores = searcher.search(queries, 5)
    for i in range(len(queries)):
        alone_rows, alone_scores = searcher.search(queries[i : i + 1], 5)
        np.testing.assert_array_equal(alone_rows[0], rows[i])
        np.testing.assert_array_equal(alone_scores[0], scores[i])


@pytest.mark.parametrize("at_once", [1 << 23, 2 * 50])
def test_excluded_rows_never_appear(monkeypatch, vectors, queries, at_once):
    monkeypatch.setattr(exact, "_SCORES_AT_ONCE", at_once)
    searcher = exact.ExactSearcher(vectors)
    best = searcher.search(queries[:2], 20)[0]
    rows, _ = searcher.search(queries[:2], 10, [best[0, :10], None])
    np.testing.assert_array_equal(rows, [best[0, 10:], best[1, :10]])


def test_fewer_rows_than_k(vectors, queries):
    searcher = exact.ExactSearcher(vectors[:4])
    rows, scores = searcher.search(queries[:1], 6, [np.array([2])])
    assert sorted(rows[0, :3].tolist()) == [0, 1, 3]
    assert rows[0, 3:].tolist() == [-1] * 3 and np.isneginf(scores[0, 3:]).all()


def test_save_and_load(tmp_path, vectors, queries):
    made = exact.ExactSearcher.build(vectors, tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / "moved")
    for a, b in zip(
        made.search(queries, 3), exact.ExactSearcher.load(tmp_path / "moved").search(queries, 3), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_refuses_other_shapes(vectors, queries):
    with pytest.raises(ValueError, match=r"queries must be \[Q, 32\]"):
        exact.ExactSearcher(vectors).search(queries[:, :8], 1)
    with pytest.raises(ValueError, match="float64"):
        exact.ExactSearcher(vectors.astype(np.float64))


def test_many_queries_are_rescored_as_each_alone(monkeypatch, vectors, queries):
    monkeypatch.setattr(exact, "_RESCORED_AT_ONCE", 17)
    vectors = vectors.copy()
    vectors[[5, 6]] = vectors[4]  # equal scores
    rng = np.random.default_rng(2)
    candidates = [rng.permutation(500)[: rng.integers(0, 30)] for _ in queries]
    candidates[3] = np.array([6, 4, 5])
    of = np.repeat(np.arange(len(queries)), [len(one) for one in candidates])
    shuffled = rng.permutation(len(of))
    rows, scores = exact.rescore_each(vectors, queries, np.concatenate(candidates)[shuffled], of[shuffled], 10)
    for i, one in enumerate(candidates):
        wanted_rows, wanted_scores = exact.rescore(vectors, queries[i], one)
        found = min(10, len(one))
        np.testing.assert_array_equal(rows[i], [*wanted_rows[:10], *[-1] * (10 - found)])
        np.testing.assert_array_equal(scores[i], [*wanted_scores[:10], *[-np.inf] * (10 - found)])
