"""Benchmark readers over mutations of valid files: rows that a record can hold, or a ValueError that names the file."""

import copy
import gzip
import json
import os
import re
import tempfile
from pathlib import Path

import pytest
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st
from test_benchmark_files import FANOUTQA, FRESHQA, MUSIQUE, OFFICIAL, POPQA, TRIVIAQA, TWO_WIKI, lines

from masksearch_jax.data import records
from masksearch_jax.evals import benchmarks

_DEEP = "[" * 40 + "]" * 40
_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1 << 63, 1 << 64, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", " ", "\ud800",
                     "a\x00", [], {}, [None], [[]], [""], ["x", 3], {"title": None}, {"": ""}, json.loads(_DEEP)]),
    st.text(max_size=8),
    st.lists(st.text(max_size=4), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
)  # fmt: skip
_ENTRIES = {
    "hotpotqa": ("dev.json", [{**TWO_WIKI, "level": "hard"}]),
    "two_wiki": ("dev.json", [TWO_WIKI]),
    "fanoutqa": ("dev.json", [FANOUTQA]),
    "bamboogle": ("b.json", [{"question": "Where?", "answer": "Tolm"}]),
    "triviaqa": ("dev.json", TRIVIAQA),
    "musique": ("m.jsonl", [MUSIQUE]),
    "nq": ("n.jsonl", [{"question": "where?", "answer": ["Tolm"]}]),
    "popqa": ("s.jsonl", [{"id": "1", "question": "where?", "golden_answers": ["Tolm"]}]),
}
_TEXTS = {name: (file, content) for name, (file, content, _) in OFFICIAL.items()}
_FOLDER = Path(tempfile.mkdtemp(prefix="benchmarks-"))


def places(value, path=()):
    """Every place of a JSON value below its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def replaced(value, path, change):
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if change is None and isinstance(parent, dict):
        del parent[path[-1]]
    else:
        parent[path[-1]] = change
    return value


def only_rows_or_a_named_error(name: str, file: str, data: bytes) -> None:
    path = _FOLDER / f"{os.getpid()}-{file}"
    path.write_bytes(data)
    try:
        found = benchmarks.read(name, path)
    except ValueError as error:
        message = str(error)
        assert path.name in message and len(message) < 2000, message
        if ", entry " in message:
            assert re.search(r"entry \d+: |entry \d+, ", message), message
        return
    assert found
    for one in found:
        assert one.id and one.question.strip() and one.answers and all(answer.strip() for answer in one.answers)
        task = records.Task(
            one.id, "qa", "test", [1], [1], "whole", [one.answers], ["answer"], one.question, "", "", -1, -1,
            one.supporting_titles, name, one.reference, one.details,
        )  # fmt: skip
        assert records.decode(records.Task, records.encode(task)) == task


@fuzz(st.data(), examples=150)
def test_fuzz_fields_of_benchmark_files(data):
    name = data.draw(st.sampled_from(sorted(_ENTRIES)))
    file, value = _ENTRIES[name]
    for _ in range(data.draw(st.integers(1, 2))):
        where = sorted(places(value), key=str)
        if where:
            value = replaced(value, data.draw(st.sampled_from(where)), data.draw(_ODD))
    text = lines(*value) if file.endswith("jsonl") and isinstance(value, list) else json.dumps(value)
    only_rows_or_a_named_error(name, file, text.encode())


@fuzz(st.sampled_from(sorted(_TEXTS)), st.integers(0, 2000), st.integers(0, 2000), st.binary(max_size=6), st.booleans())
def test_fuzz_bytes_of_benchmark_files(name, start, end, new, zipped):
    file, content = _TEXTS[name]
    data = content.encode()
    start, end = sorted((start % (len(data) + 1), end % (len(data) + 1)))
    data = data[:start] + new + data[end:]
    if zipped:
        file, data = f"{file}.gz", gzip.compress(data)[: -(len(new) or 1) if start % 2 else None]
    only_rows_or_a_named_error(name, file, data)


@pytest.mark.parametrize(
    "name, file, text, message",
    [
        ("fanoutqa", "f.json", json.dumps([{**FANOUTQA, "decomposition": [{"decomposition": [], "evidence": "x"}]}]),
         "entry 0: field 'evidence' must be an object or null, got 'x'"),
        ("fanoutqa", "f.json", json.dumps([{**FANOUTQA, "answer": 10**40}]), "entry 0: field 'answer' must be"),
        ("fanoutqa", "f.json", "[" * 100_000, "f.json is not JSON"),
        ("fanoutqa", "f.json", json.dumps([FANOUTQA]).replace(" 1200,", " " + "9" * 5000 + ","), "is not JSON"),
        ("two_wiki", "w.json", json.dumps([{**TWO_WIKI, "answer_id": ["Q7"]}]), "entry 0: field 'answer_id' must be"),
        ("two_wiki", "w.json", json.dumps([{**TWO_WIKI, "question": "\ud83d?"}]), "field 'question' holds half"),
        ("musique", "m.jsonl", lines({**MUSIQUE, "answerable": "no"}), "entry 0: field 'answerable' must be true"),
        ("freshqa", "f.csv", FRESHQA.replace("1,DEV,Who?,2024,weekly,FALSE,one-hop,fast-changing,u,No,,,", "7"),
         None),  # a row cut short is of no split
        ("freshqa", "f.csv", FRESHQA.replace("answer_10", "answer_²"), None),  # no number, so no answer
        ("freshqa", "f.csv", FRESHQA.replace("answer_1,", "answer_0,"), "f.csv has two columns 'answer_0'"),
        ("bamboogle", "b.csv", "Question,Answer\nWho, then?,Karn\n", "entry 0: 3 cells for the 2 columns"),
        ("bamboogle", "b.csv", f'Question,Answer\n"{"x" * 200_000}",Karn\n', "line 2: not a row of a table"),
        ("popqa", "p.tsv", POPQA.splitlines()[0] + "\n42\tKarn\n", "entry 0: field 'possible_answers' is not JSON"),
    ],
)  # fmt: skip
def test_a_shape_that_ended_in_a_traceback_is_named(tmp_path, name, file, text, message):
    (tmp_path / file).write_text(text, encoding="utf-8", errors="surrogatepass")
    if message is None:
        assert benchmarks.read(name, tmp_path / file)
        return
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        benchmarks.read(name, tmp_path / file)
    assert file in str(raised.value) and len(str(raised.value)) < 1000


def _nested(depth):
    step = {"decomposition": [], "evidence": {"title": "T"}}
    for _ in range(min(depth, 150)):
        step = {"decomposition": [step], "evidence": None}
    return json.dumps([{**FANOUTQA, "id": str(i), "decomposition": [step]} for i in range(1 + depth // 150)])


SHAPES = {
    "aliases of an answer": (
        "musique",
        "m.jsonl",
        lambda n: lines({**MUSIQUE, "answer_aliases": [f"a{i}" for i in range(n)]}),
    ),
    "questions": (
        "two_wiki",
        "w.json",
        lambda n: json.dumps([{**TWO_WIKI, "_id": str(i)} for i in range(n // 4 + 1)]),
    ),
    "deep evidence": ("fanoutqa", "f.json", _nested),
    "columns": (
        "freshqa",
        "f.csv",
        lambda n: (
            ",".join(["id", "split", "question", "answer_0", *(f"answer_{i}" for i in range(1, n))])
            + "\n1,TEST,Who?,"
            + ",".join("b" for _ in range(n))
        ),
    ),
    "rows of a table": ("bamboogle", "b.csv", lambda n: "Question,Answer\n" + "a?,b\n" * n),
    "quotes": ("bamboogle", "b.csv", lambda n: "Question,Answer\n" + '"' * n),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_benchmark_readers_grow_at_most_n_log_n(tmp_path, shape):
    name, file, make = SHAPES[shape]

    def written(size):
        path = tmp_path / f"{size}-{file}"
        path.write_text(make(size))
        return path

    def read(path):
        try:
            benchmarks.read(name, path)
        except ValueError:
            pass

    assert_grows_like_n_log_n(read, written, largest=40_000)


def test_2wiki_aliases_grow_at_most_n_log_n(tmp_path):
    def written(size):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "w.json").write_text(json.dumps([TWO_WIKI]))
        aliases = {"Q_id": "Q7", "aliases": [f"a{i}" for i in range(size)], "demonyms": []}
        (folder / "id_aliases.json").write_text(json.dumps(aliases))
        return folder / "w.json"

    assert_grows_like_n_log_n(lambda path: benchmarks.read("two_wiki", path), written, largest=40_000)
