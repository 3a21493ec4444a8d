from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from masksearch_jax.retrieval import tool
from masksearch_jax.retrieval.encoders import encoder
from masksearch_jax.retrieval.index import build
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.tool import SearchTool


@pytest.fixture(scope="module", params=["exact", "scann", "tree"])
def directory(request, corpus, tmp_path_factory):
    """An index of each kind; the tree searches all of its leaves, so that all three must agree."""
    if request.param != "exact":
        pytest.importorskip("scann", reason="the extra 'retrieval' is not installed")
    config = {"index": "exact" if request.param == "exact" else "scann", "dims": 512}
    if request.param == "tree":
        config["scann"] = {"method": "tree", "leaves": 10, "leaves_to_search": 10, "reorder": 300}
    directory = tmp_path_factory.mktemp(request.param) / "index"
    build.build_index(directory, corpus, config)
    return directory


@pytest.fixture
def load(directory, store):
    return lambda exclusion="passage": SearchTool.load(directory, store, exclusion)


def ids(hits):
    return [hit.passage_id for hit in hits]


def oracle(directory, corpus, text, k, excluded=()):
    """Ids of the k best passages that are not excluded, by sorting all scores."""
    made = encoder.load(directory / "encoder")
    passages = made.encode_passages([encoder.passage_text(p.title, p.text) for p in corpus])
    scores = passages.astype(np.float64) @ made.encode_queries([text])[0].astype(np.float64)
    scores = np.round(scores, 7)  # the copies tie
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if i not in excluded]
    return order[:k]


def query_for(corpus, about, **source):
    return Query(" ".join(corpus[about].text.split()[3:9]), **source)


def test_hits_carry_the_passage(load, corpus):
    (hits,) = load().search([query_for(corpus, 40)], 3)
    assert hits[0].passage_id == 40 and hits[0].title == corpus[40].title and hits[0].text == corpus[40].text
    assert hits[0].article_id == corpus[40].article_id
    assert hits[0].score > hits[1].score >= hits[2].score


def test_exclusion_leaves_out_the_source_and_its_copies(load, corpus, directory):
    query = query_for(corpus, 10, passage_id=10, article_id=3)
    expected = {
        "none": oracle(directory, corpus, query.text, 4),
        "passage": oracle(directory, corpus, query.text, 4, {10, 290, 291}),
        "article": oracle(directory, corpus, query.text, 4, {9, 10, 11, 290, 291}),
    }
    assert {10, 290, 291} <= set(expected["none"])  # what has to be excluded would be found
    for exclusion, rows in expected.items():
        assert ids(load(exclusion).search([query], 4)[0]) == rows


def test_article_exclusion_hides_its_other_passages(load, corpus):
    query = query_for(corpus, 31, passage_id=30, article_id=10)
    assert 31 in ids(load("passage").search([query], 3)[0])
    assert not {30, 31, 32} & set(ids(load("article").search([query], 20)[0]))


def test_questions_and_unindexed_sources_see_everything(load, corpus):
    for source in ({}, {"passage_id": -1, "article_id": -1}, {"passage_id": 5000, "article_id": 5000}):
        for exclusion in ("none", "passage", "article"):
            assert ids(load(exclusion).search([query_for(corpus, 40, **source)], 1)[0]) == [40]


def test_exclusion_comes_after_the_cache(load, corpus, directory):
    searcher = load()
    text = query_for(corpus, 10).text
    for source, excluded in ((10, {10, 290, 291}), (50, {50}), (-1, set()), (290, {10, 290, 291})):
        hits = searcher.search([Query(text, passage_id=source, article_id=source // 3)], 3)[0]
        assert ids(hits) == oracle(directory, corpus, text, 3, excluded)
    assert searcher.stats["cache_hits"] == 3 and searcher.stats["queries"] == 4


@pytest.mark.parametrize("most", [1000, 0])
def test_used_up_overfetch_is_refilled(load, corpus, directory, monkeypatch, most):
    """With nothing over-fetched, the index is asked again, or exact search where too much is excluded for that."""
    monkeypatch.setattr(tool, "_OVERFETCH", 0)
    monkeypatch.setattr(tool, "_MOST_EXCLUDED", most)
    searcher = load("article")
    query = query_for(corpus, 10, passage_id=10, article_id=3)
    hits = searcher.search([query], 3)[0]
    assert ids(hits) == oracle(directory, corpus, query.text, 3, {9, 10, 11, 290, 291})
    assert (searcher.stats["refetches"], searcher.stats["exact_fallbacks"]) == ((1, 0) if most else (0, 1))


def test_k_beyond_what_is_left(load, corpus):
    query = query_for(corpus, 10, passage_id=10, article_id=3)
    hits = load().search([query], 400)[0]
    assert len(hits) == 297 and not {10, 290, 291} & set(ids(hits))


def test_a_result_depends_on_its_query_alone(load, corpus):
    queries = [query_for(corpus, i, passage_id=i + i % 2, article_id=(i + i % 2) // 3) for i in range(0, 290, 3)]
    together = load().search(queries, 5)
    alone = load()
    assert [alone.search([query], 5)[0] for query in queries] == together
    order = np.random.default_rng(0).permutation(len(queries))
    assert load().search([queries[i] for i in order], 5) == [together[i] for i in order]
    warm = load()
    assert warm.search(queries, 5) == warm.search(queries, 5) == together


def test_threads_get_the_same(load, corpus):
    searcher = load()
    batches = [[query_for(corpus, (i * j) % 280, passage_id=j, article_id=j // 3) for j in range(4)] for i in range(60)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda batch: searcher.search(batch, 3), batches))
    alone = load()
    assert found == [alone.search(batch, 3) for batch in batches]
    assert searcher.stats["queries"] == 240


def test_empty_and_unknown_queries_have_no_hits(load, corpus):
    searcher = load()
    queries = [Query(""), Query("  "), Query("!?"), Query("zzzzzzz", passage_id=3, article_id=1), query_for(corpus, 5)]
    assert [len(hits) for hits in searcher.search(queries, 2)] == [0, 0, 0, 0, 2]
    assert searcher.stats["empty"] == 4
    assert searcher.search([], 2) == []
    with pytest.raises(ValueError, match="k is 0"):
        searcher.search(queries, 0)


def test_cache_is_bounded_and_keeps_what_was_used_last(load, corpus, monkeypatch):
    monkeypatch.setattr(tool, "_CACHED_BYTES", 2100)  # two queries and their 17 rows: some 800 bytes each
    searcher = load()
    a, b, c = (query_for(corpus, i) for i in (1, 2, 3))
    for query in (a, b, a, c):  # c pushes out b
        searcher.search([query], 1)
    assert searcher.stats["cache_hits"] == 1
    for query in (a, b):
        searcher.search([query], 1)
    assert searcher.stats["cache_hits"] == 2


def test_fingerprint_covers_the_exclusion_mode(load, directory, store):
    tools = [load(exclusion) for exclusion in ("none", "passage", "article")]
    assert len({searcher.fingerprint for searcher in tools}) == 3
    default = SearchTool.load(directory, store)
    assert default.exclusion == "passage" and default.fingerprint == tools[1].fingerprint
    with pytest.raises(ValueError, match="exclusion is 'all', known are none, passage, article"):
        load("all")


def test_an_index_over_one_split_excludes_by_passage_id(tmp_path, corpus, store):
    """Rows of a split index are not passage ids."""
    build.build_index(tmp_path / "index", corpus[100:], {"dims": 512})
    searcher = SearchTool.load(tmp_path / "index", store)
    assert len(searcher) == 200
    hits = searcher.search([query_for(corpus, 150), query_for(corpus, 150, passage_id=150, article_id=50)], 2)
    assert ids(hits[0])[0] == 150 and 150 not in ids(hits[1])
    assert min(ids(hits[0]) + ids(hits[1])) >= 100
    # A source that is not indexed excludes nothing, whatever row its id would be.
    assert {290, 291} == set(ids(searcher.search([query_for(corpus, 290, passage_id=90, article_id=30)], 2)[0]))
