"""Two entries of one name, of which one would be lost, are refused where users' files are read, and the file named."""

import json

import pytest

from masksearch_jax.agents import masksearch_format
from masksearch_jax.evals import benchmarks, corpora
from masksearch_jax.prep.splits import Splits

SHARES = {"train": 1.0, "validation": 0.0, "test": 0.0}


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def read_corpus(path):
    return list(corpora.read_corpus(path))


def read_records(path):
    (found,) = masksearch_format.read_lines(path, masksearch_format.read_pair)
    raise found


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("corpus.json", '{"Tolm": ["A city."], "Karn": "A man.", "Tolm": ["Another."]}', read_corpus),
        ("corpus.json", '[{"title": "Tolm", "text": "A city.", "text": "Another."}]', read_corpus),
        ("q.json", '[{"_id": "a", "answer": "x", "answer": "y"}]', lambda path: benchmarks.read("hotpotqa", path)),
        ("q.jsonl", '{"id": "a", "answer": "x", "answer": "y"}', lambda path: benchmarks.read("musique", path)),
        ("b.json", '[{"Question": "a", "question": "b", "answer": "c"}]', lambda p: benchmarks.read("bamboogle", p)),
        ("splits.json", '{"Tolm": "train", "Tolm": "test"}', lambda path: Splits(path, SHARES, 0)),
        ("r.jsonl", '{"query": "a", "answer": "b", "answer": "c", "ext": {}}', read_records),
    ],
)  # fmt: skip
def test_two_entries_of_one_name_are_refused(tmp_path, name, text, read):
    with pytest.raises(ValueError, match=rf"{name}.*two (entries|fields)?.*of which one would be lost"):
        read(written(tmp_path, name, text))


def test_articles_of_a_list_stay_apart(tmp_path):
    """Corpora of passages repeat the title of their article."""
    entries = [{"title": "Tolm", "text": "A city."}, {"title": "Tolm", "text": "It has a river."}]
    found = read_corpus(written(tmp_path, "corpus.json", json.dumps(entries)))
    assert found == [("Tolm", "A city."), ("Tolm", "It has a river.")]


def test_an_entity_with_two_lines_of_aliases_has_the_names_of_both(tmp_path):
    lines = [{"Q_id": "Q7", "aliases": [name], "demonyms": []} for name in ("A. Bee", "Annie Bee")]
    written(tmp_path, "id_aliases.json", "\n".join(map(json.dumps, lines)))
    entry = {
        "_id": "w1", "type": "comparison", "question": "Who is older?", "answer": "Ann Bee", "context": [],
        "supporting_facts": [["Ann Bee", 0]], "evidences": [], "answer_id": "Q7",
    }  # fmt: skip
    (question,) = benchmarks.read("two_wiki", written(tmp_path, "dev.json", json.dumps([entry])))
    assert question.answers == ["Ann Bee", "A. Bee", "Annie Bee"]
