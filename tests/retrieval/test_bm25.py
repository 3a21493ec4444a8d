import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from masksearch_jax.data import records
from masksearch_jax.retrieval import tool
from masksearch_jax.retrieval.encoders import encoder, lexical
from masksearch_jax.retrieval.index import bm25, build
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.tool import SearchTool

bm25s = pytest.importorskip("bm25s", reason="the extra 'retrieval' is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts(corpus):
    return [encoder.passage_text(p.title, p.text) for p in corpus]


@pytest.fixture(scope="module")
def directory(corpus, tmp_path_factory):
    directory = tmp_path_factory.mktemp("hybrid") / "index"
    build.build_index(directory, corpus, {"index": "exact", "dims": 512, "hybrid": True})
    return directory


@pytest.fixture
def load(directory, store):
    return lambda mode="passage": SearchTool.load(directory, store, mode)


@pytest.fixture(scope="module")
def reference(texts):
    """bm25s as its own documentation uses it, over the same words; float64 scores of every passage for a query."""
    retriever = bm25s.BM25(dtype="float64")
    retriever.index([lexical.words(text) for text in texts], show_progress=False)
    return lambda text: retriever.get_scores(lexical.words(text))


def fused_by_definition(rankings, k):
    """Cormack et al. (2009): each ranking gives 1 / (60 + rank), ranks from 1."""
    totals = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            totals[row] = totals.get(row, 0.0) + 1.0 / (60.0 + rank)
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:k]


def by_words(reference, text, excluded=()):
    scores = np.round(reference(text), 5)
    order = sorted(np.flatnonzero(scores > 0), key=lambda row: (-scores[row], row))
    return [int(row) for row in order if row not in excluded]


def by_vectors(directory, texts, text, excluded=()):
    made = encoder.load(directory / "encoder")
    scores = made.encode_passages(texts).astype(np.float64) @ made.encode_queries([text])[0].astype(np.float64)
    order = np.argsort(-np.round(scores, 7), kind="stable").tolist()
    return [row for row in order if row not in excluded]


def test_word_scores_are_those_of_bm25s(directory, corpus, reference):
    index = bm25.BM25Index.load(directory / "words")
    for i in range(0, 300, 23):
        text = " ".join(corpus[i].text.split()[5:12]) + " notaword"
        rows, scores = index.search(text, 20)
        assert rows.tolist() == by_words(reference, text)[:20]
        np.testing.assert_allclose(scores, reference(text)[rows], rtol=1e-5)
    assert [len(part) for part in index.search("notaword !?", 5)] == [0, 0]
    assert len(index.search(corpus[7].text, 1000)[0]) == np.count_nonzero(reference(corpus[7].text) > 0)


def test_fusion_by_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rankings = [rng.permutation(40)[: rng.integers(0, 30)] for _ in range(2)]
        k = int(rng.integers(1, 40))
        rows, scores = bm25.fuse(rankings, k)
        expected = fused_by_definition([ranking.tolist() for ranking in rankings], k)
        assert rows.tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(scores, [score for _, score in expected], rtol=1e-6)


@pytest.mark.parametrize(
    "mode, excluded", [("none", set()), ("passage", {10, 290, 291}), ("article", {9, 10, 11, 290, 291})]
)
def test_hits_are_the_fusion_of_both_rankings(load, corpus, directory, texts, reference, mode, excluded):
    text = " ".join(corpus[10].text.split()[3:20])
    rankings = [by_vectors(directory, texts, text)[:100], by_words(reference, text)[:100]]
    expected = [row for row, _ in fused_by_definition(rankings, 300) if row not in excluded][:6]
    (hits,) = load(mode).search([Query(text, passage_id=10, article_id=3)], 6)
    assert [hit.passage_id for hit in hits] == expected
    assert not excluded & {hit.passage_id for hit in hits} and len(hits) == 6


def test_used_up_overfetch_falls_back_to_both_rankings_of_the_rest(
    load, corpus, directory, texts, reference, monkeypatch
):
    monkeypatch.setattr(tool, "_OVERFETCH", 0)
    monkeypatch.setattr(tool, "_MOST_EXCLUDED", 0)
    text, hidden = " ".join(corpus[10].text.split()[3:20]), {10, 290, 291}
    rankings = [by_vectors(directory, texts, text, hidden)[:100], by_words(reference, text, hidden)[:100]]
    searcher = load()
    (hits,) = searcher.search([Query(text, passage_id=10, article_id=3)], 3)
    assert searcher.stats["exact_fallbacks"] == 1
    assert [hit.passage_id for hit in hits] == [row for row, _ in fused_by_definition(rankings, 3)]


def test_a_result_depends_on_its_query_alone(load, corpus):
    queries = [Query(" ".join(corpus[i].text.split()[:9]), i, i // 3) for i in range(0, 290, 11)]
    together = load().search(queries, 5)
    alone = load()
    assert [alone.search([query], 5)[0] for query in queries] == together
    assert all(len(hits) == 5 for hits in together)


def test_the_folder_moves_and_is_checked(directory, corpus, store, tmp_path):
    contents = json.loads((directory / "index.json").read_text())
    words = {name for name in contents["files"] if name.startswith("words/")}
    assert len(words) >= 4 and contents["settings"]["hybrid"] and contents["report"]["hybrid"]
    config = {"index": "exact", "dims": 512}
    build.build_index(tmp_path / "here", corpus, config | {"hybrid": True})
    again = json.loads((tmp_path / "here" / "index.json").read_text())
    assert again["fingerprint"] == contents["fingerprint"]  # the same bytes, whatever the hash seed
    build.build_index(tmp_path / "plain", corpus, config)
    plain = json.loads((tmp_path / "plain" / "index.json").read_text())
    assert plain["fingerprint"] != contents["fingerprint"]
    (tmp_path / "here").rename(tmp_path / "there")
    query = Query(corpus[5].text[:80])
    assert SearchTool.load(tmp_path / "there", store).search([query], 3) == SearchTool.load(directory, store).search(
        [query], 3
    )
    (tmp_path / "there" / sorted(words)[0]).write_bytes(b"x")
    with pytest.raises(ValueError, match="has changed since the index was built"):
        SearchTool.load(tmp_path / "there", store)


WITHOUT_JAX = """
import sys
{before}
from masksearch_jax.retrieval.index import bm25
assert bm25._bm25s().selection.JAX_IS_AVAILABLE is False
assert ("jax" in sys.modules) == {imported}
import jax
from jax._src import xla_bridge
assert not xla_bridge._backends
assert jax.lax.top_k(jax.numpy.arange(4), 1)[1].tolist() == [3]
print("as it was")
"""


@pytest.mark.parametrize("before, imported", [("", False), ("import jax", True)])
def test_loading_bm25s_starts_no_jax(before, imported):
    """On a TPU host that would take the chips from the process that trains."""
    code = WITHOUT_JAX.format(before=before, imported=imported)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "as it was" in done.stdout, done.stderr


def test_words_help_on_hotpotqa(data_dir, tmp_path):
    """Mean share of supporting titles among the first k; the lexical encoder's 1024 dimensions blur single words."""
    with gzip.open(data_dir / "hotpotqa_100.json.gz") as file:
        asked = [(one["question"], {title for title, _ in one["supporting_facts"]}) for one in json.load(file)]
    with gzip.open(data_dir / "hotpotqa_100_corpus.json.gz") as file:
        corpus = enumerate(json.load(file).items())
    records.write(tmp_path / "p", (records.Passage(i, i, title, "".join(text), "test") for i, (title, text) in corpus))
    store, recalls = PassageStore(tmp_path / "p"), {}
    for words in (False, True):
        build.build_index(tmp_path / "index", store, {"index": "exact", "dims": 1024, "hybrid": words})
        found = SearchTool.load(tmp_path / "index", store).search([Query(question) for question, _ in asked], 10)
        pairs = [([hit.title for hit in hits], titles) for hits, (_, titles) in zip(found, asked, strict=True)]
        recalls[words] = [
            np.mean([len(titles.intersection(hits[:k])) / len(titles) for hits, titles in pairs]) for k in (2, 5, 10)
        ]
    assert recalls[False] == pytest.approx([0.5, 0.7, 0.8], abs=0.01)
    assert recalls[True] == pytest.approx([0.545, 0.77, 0.905], abs=0.01)
