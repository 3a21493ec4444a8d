"""HotpotQA files: the real sample of the data folder, hand-made entries, and every kind of damage."""

import gzip
import json

import pytest

from masksearch_jax.evals import benchmarks, corpora

ENTRY = {"_id": "a1", "question": "Who?", "answer": "Karn Velith", "type": "bridge", "level": "hard", "context": [],
         "supporting_facts": [["B", 0], ["A", 2], ["B", 3]]}  # fmt: skip


def written(folder, entries, name="questions.json"):
    path = folder / name
    text = entries if isinstance(entries, str) else json.dumps(entries)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["questions.json", "questions.json.gz"])
def test_entries_are_read_in_order(tmp_path, name):
    path = written(tmp_path, [ENTRY, {**ENTRY, "_id": "a0"}], name)
    first, second = benchmarks.read_hotpotqa(path)
    details = {"type": "bridge", "level": "hard"}
    assert first == benchmarks.Question("a1", "Who?", ["Karn Velith"], ["B", "A"], None, details) and second.id == "a0"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"answer": None}, "entry 1: field 'answer'"),
        ({"question": " "}, "entry 1: field 'question'"),
        ({"_id": 7}, "entry 1: field '_id'"),
        ({"supporting_facts": None}, "entry 1: field 'supporting_facts'"),
        ({"supporting_facts": [["A"]]}, "entry 1: field 'supporting_facts'"),
        ({}, "entry 1: field '_id' 'a1' is that of entry 0"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        benchmarks.read_hotpotqa(written(tmp_path, [ENTRY, {**ENTRY, **change}]))


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.json does not exist; download"):
        benchmarks.read_hotpotqa(tmp_path / "missing.json")
    for text in ("{", "[]", "{}", '{"_id": 1}\n{"_id": 2}'):
        with pytest.raises(ValueError, match="questions.json"):
            benchmarks.read_hotpotqa(written(tmp_path, text))
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(written(tmp_path, [ENTRY] * 50, "whole.json.gz").read_bytes()[:60])
    with pytest.raises(ValueError, match="cut.json.gz is not a readable"):
        benchmarks.read_hotpotqa(cut)
    with pytest.raises(ValueError, match="entry 0: expected an object"):
        benchmarks.read_hotpotqa(written(tmp_path, [3]))


def test_the_real_corpora(data_dir):
    supporting = {t for q in benchmarks.read_hotpotqa(data_dir / "hotpotqa_100.json.gz") for t in q.supporting_titles}
    articles = list(corpora.read_corpus(data_dir / "hotpotqa_100_corpus.json.gz"))
    assert len(articles) == 994 and supporting <= {title for title, _ in articles}
    assert len(list(corpora.read_corpus(data_dir / "2wiki_corpus.json.gz"))) == 6119


def test_the_real_sample(data_dir):
    questions = benchmarks.read_hotpotqa(data_dir / "hotpotqa_100.json.gz")
    assert len(questions) == len({q.id for q in questions}) == 100
    assert questions[0].answers == ["a spirit"] and questions[0].supporting_titles == ["Alû", "Lilu (mythology)"]
    assert all(len(q.supporting_titles) >= 2 for q in questions)
