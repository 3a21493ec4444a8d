from concurrent.futures import ThreadPoolExecutor

import pytest

from masksearch_jax.data import records
from masksearch_jax.retrieval.passage_store import PassageStore


@pytest.mark.parametrize("in_memory", [True, False])
def test_by_id_and_in_order(store, corpus, in_memory):
    opened = PassageStore(store.path, in_memory=in_memory)
    assert len(opened) == len(corpus)
    assert list(opened) == corpus
    assert opened[299] == corpus[299]
    assert opened.get([5, 250, 5]) == [corpus[5], corpus[250], corpus[5]]
    assert opened.get([]) == []
    for wrong in (-1, 300):
        with pytest.raises(IndexError, match=f"passages 0 to 299, asked for {wrong}"):
            opened[wrong]


def test_reading_from_disk_in_threads(store, corpus):
    opened = PassageStore(store.path, in_memory=False)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: opened.get([i % 300, (7 * i) % 300]), range(400)))
    assert found == [[corpus[i % 300], corpus[(7 * i) % 300]] for i in range(400)]


@pytest.mark.parametrize("in_memory", [True, False])
def test_ids_that_are_not_positions_are_refused(tmp_path, corpus, in_memory):
    records.write(tmp_path / "p.array_record", corpus[1:])
    with pytest.raises(ValueError, match="position 3 holds passage 4"):
        PassageStore(tmp_path / "p.array_record", in_memory=in_memory)[3]


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.array_record does not exist"):
        PassageStore(tmp_path / "none.array_record")
