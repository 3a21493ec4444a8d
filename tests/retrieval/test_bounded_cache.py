"""Caches are bounded by the bytes that they hold, whatever a server or a user writes."""

import sys

import numpy as np

from masksearch_jax.retrieval import bounded_cache, exclusion, query_cache, tool
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.service import search_client
from masksearch_jax.retrieval.service.answer_documents import Document
from masksearch_jax.text import shingles

ENTRY = bounded_cache._ENTRY_BYTES


def test_the_least_recently_used_go_first_and_bytes_add_up():
    cache = bounded_cache.BoundedCache(3 * (100 + ENTRY), lambda key, value: value)
    for key in "abc":
        cache[key] = 100
    assert cache["a"] == 100 and cache.bytes == cache.limit  # a was used last
    cache["d"] = 100
    assert [key in cache for key in "abcd"] == [True, False, True, True]
    cache["d"] = 10
    assert len(cache) == 3 and cache.bytes == 210 + 3 * ENTRY
    cache["e"] = 10_000  # larger than the whole cache: it is not kept
    assert "e" not in cache and len(cache) == 0 == cache.bytes


def test_a_query_cache_of_long_texts_keeps_to_its_bytes():
    cache = query_cache.QueryCache(1 << 20, search_client.bytes_of)
    for i in range(200):
        cache.add({f"query {i}": [Document("t", "日" * 10_000 + str(i), 0.0, -1, -1, titled=True)]}, 3)
        assert cache.bytes <= 1 << 20
    found, missing, hits = cache.split(["query 199", "query 0", "query 199"], 3)
    assert list(found) == ["query 199"] and missing == ["query 0"] and hits == 2
    assert cache.split(["query 199"], 4)[1] == ["query 199"]


def test_sizes_are_those_of_what_is_kept():
    rows, scores = np.zeros(19, np.int64), np.zeros(19, np.float32)
    assert tool._bytes_of((rows, scores)) >= sys.getsizeof(rows) + sys.getsizeof(scores) and tool._bytes_of(None) == 0
    text = "日本" * 500
    document = Document("title", text, 0.5, -1, -1, titled=True)
    assert search_client.bytes_of([document] * 3) >= 3 * (sys.getsizeof(text) + sys.getsizeof("title"))


def test_readings_of_documents_keep_to_their_bytes(store, monkeypatch):
    monkeypatch.setattr(exclusion, "_KEPT_BYTES", 1 << 20)
    excluded = exclusion.ExcludeByText(store, "passage", 0.5)
    verdicts = []
    for i in range(60):
        text = " ".join(f"word{i}x{j}" for j in range(2000))
        verdicts.append(excluded.allows(Query("q", i % 5, 0), f"title {i}", text))
    assert all(verdicts)
    kept = excluded._documents._kept
    assert 0 < len(kept) < 60 and kept.bytes <= 1 << 20
    assert len(excluded._sources._kept) == 5
    assert excluded.allows(Query("q", 0, 0), "title 0", " ".join(f"word0x{j}" for j in range(2000)))  # read again


def test_words_of_any_length_do_not_stay():
    before = shingles._cached_hash.cache_info().currsize
    for i in range(50):
        assert shingles.word_hash(f"{i}" + "a" * 60_000) == shingles._hash(f"{i}" + "a" * 60_000)
    assert shingles._cached_hash.cache_info().currsize == before
    assert shingles.word_hash("karn") == shingles._hash("karn")
