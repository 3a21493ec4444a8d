"""Filters of training passages: MinHash against exact similarity, benchmark titles and words, counts in the report."""

import contextlib
import json
import random

import numpy as np
import pytest
import tensorflow as tf

from configs import prepare as page
from masksearch_jax import toywiki
from masksearch_jax.data import records
from masksearch_jax.prep import filters, preparation
from masksearch_jax.prep.spans import annotated_passages
from masksearch_jax.prep.splits import Splits
from masksearch_jax.prep.tasks import registry
from masksearch_jax.prep.wiki import dump_reader
from masksearch_jax.workflows import data_preparation

VOCABULARY = [f"w{i}" for i in range(5000)]


def passage(id, text, split="train", title=""):
    return records.Passage(id, id, title or f"Title {id}", text, split)


def jaccard(a, b):
    """By sets of five words in a row, counted without the code under test."""
    left, right = ({tuple(t[i : i + 5]) for i in range(len(t) - 4)} for t in (a.split(), b.split()))
    return len(left & right) / len(left | right)


def changed(words, times, rng):
    words = list(words)
    for place in rng.sample(range(len(words)), times):
        words[place] = rng.choice(VOCABULARY)
    return " ".join(words)


def test_a_signature_estimates_the_similarity():
    rng = random.Random(0)
    errors = []
    for times in (0, 1, 2, 4, 8, 16):
        for _ in range(10):
            words = rng.choices(VOCABULARY, k=100)
            one, other = " ".join(words), changed(words, times, rng)
            same = (filters.signature(one) == filters.signature(other)).mean()
            errors.append(same - jaccard(one, other))
    # 64 draws: a standard deviation of at most 1/16.
    assert abs(np.mean(errors)) < 0.02 and np.std(errors) < 1 / 16 and np.max(np.abs(errors)) < 0.25
    assert filters.signature("..") is None


def test_copies_are_dropped_and_the_first_stays():
    rng = random.Random(1)
    texts = [rng.choices(VOCABULARY, k=90) for _ in range(60)]
    corpus = [passage(i, " ".join(words)) for i, words in enumerate(texts)]
    corpus += [passage(60 + i, changed(texts[i], 1, rng)) for i in range(10)]  # of passages 0 to 9
    corpus += [passage(70, " ".join(texts[20]), "test"), passage(71, " ".join(texts[0]), "validation")]
    corpus += [passage(72, changed(texts[30], 40, rng)), passage(73, "")]
    dropped = filters.near_duplicates(lambda: iter(corpus), 0.75)
    # A held-out copy counts as the earlier one: 20 repeats the test split, 0 and 60 the validation split.
    assert dropped == {*range(60, 70), 20, 0}
    for one in corpus:
        others = [jaccard(one.text, o.text) for o in corpus if o.id != one.id and one.text and o.text]
        assert one.id not in dropped or max(others) > 0.75
    assert filters.near_duplicates(lambda: iter(corpus[10:20]), 0.75) == frozenset()
    assert filters.near_duplicates(lambda: iter([]), 0.75) == frozenset()
    chosen = filters.Filter(repeats=dropped)
    assert {p.id for p in corpus if chosen.reason(p) == "near_duplicate"} == dropped


def test_boilerplate_does_not_cost_its_square():
    same = [filters.sign(passage(i, "x"), filters.signature("one text for all of these passages")) for i in range(5000)]
    assert filters.repeats_among(same, 0.8) == list(range(1, 5000))


def settings(**changes):
    config = page.get_config().filters
    config.update(changes)
    return config


def write_questions(path, questions):
    entries = [
        {"_id": str(i), "question": text, "answer": "a", "supporting_facts": [[title, 0] for title in titles]}
        for i, (text, titles) in enumerate(questions)
    ]
    path.write_text(json.dumps(entries))
    return f"hotpotqa={path}"


def test_what_benchmarks_ask_about_is_dropped_from_training_alone(tmp_path):
    asked = "In which year did the harbour town of Velith first join the northern league of river ports?"
    entry = write_questions(tmp_path / "q.json", [(asked, ["São Karn", "Velith"]), ("Who was it?", [])])
    chosen = filters.of_benchmarks(settings(benchmarks=(entry,)))
    near = "It is said in which year did the HARBOUR town of Velith, first join the northern league of ships."
    short = "The harbour town of Velith first join the northern league of ships. Who was it?"
    assert chosen.reason(passage(0, "Text.", title="Sao Karn")) == "benchmark_title"
    assert chosen.reason(passage(0, near)) == "benchmark_ngram"
    assert chosen.reason(passage(0, short)) == "" == chosen.reason(passage(0, "Text.", title="Karn"))
    assert filters.of_benchmarks(settings(benchmarks=(entry,), ngram=9)).reason(passage(0, short)) == "benchmark_ngram"
    for split in ("validation", "test"):
        assert chosen.reason(passage(0, near, split, "Velith")) == ""
    assert filters.of_benchmarks(settings()) == filters.Filter()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"near_duplicate": 1.5}, r"filters\.near_duplicate=1\.5: it has to be a number of at least 0 and at most 1"),
        ({"ngram": 1}, r"filters\.ngram=1"),
        ({"benchmarks": ("q.json",)}, "'q.json' is not NAME=FILE with a NAME of .*hotpotqa"),
        ({"benchmarks": ("hotpotqa=missing.json",)}, "missing.json does not exist; download"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(tmp_path, changes, message):
    config = page.get_config()
    config.filters.update(changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data_preparation.run(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_filtered_passages_stay_in_the_store_and_are_counted(tmp_path):
    config = page.get_config()
    toy = toywiki.generate(tmp_path, 120, 0, config.shares.to_dict())
    splits = json.loads(toy.splits.read_text())
    wanted = sorted(title for title, split in splits.items() if split == "train")[:5]
    entry = write_questions(tmp_path / "q.json", [("Who?", [title, "Elsewhere"]) for title in wanted])
    found = {}
    for name, benchmarks in (("plain", ()), ("filtered", (entry,))):
        config.filters.benchmarks = benchmarks
        data = tmp_path / name
        data.mkdir()
        chosen, stats = Splits(toy.splits, config.shares, 0), dump_reader.DumpStats()
        total, annotation = preparation.annotate(config, [toy.dump], chosen, data, stats, no_bar, preparation.Clock())
        file = str(registry.passage_file(data, "train"))
        examples = [tf.train.Example.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(file)]
        titles = {example.features.feature["title"].bytes_list.value[0].decode() for example in examples}
        assert annotation.kept["train"] == len(examples) and total == 120
        found[name] = (data / annotated_passages.PASSAGES).read_bytes(), titles, dict(annotation.dropped)
    assert found["plain"][0] == found["filtered"][0]
    assert found["plain"][1] - found["filtered"][1] == set(wanted) <= found["plain"][1]
    assert found["plain"][2] == {} and found["filtered"][2] == {"benchmark_title": 5}


@contextlib.contextmanager
def no_bar(total, label):
    yield lambda done: None
