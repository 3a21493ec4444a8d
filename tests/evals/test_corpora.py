"""Corpora as people have them: each form, what is wrong with a file, and memory that does not grow."""

import gzip
import itertools
import json
import tracemalloc

import pytest

from masksearch_jax.evals import corpora
from masksearch_jax.evals.corpora import Fields

EXPECTED = [("Tolm", "A city. It grew."), ("Karn", "A man.")]


def written(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def lines(*rows):
    return "\n".join(map(json.dumps, rows)) + "\n"


def read(path, *options):
    return list(corpora.read_corpus(path, *options))


@pytest.mark.parametrize(
    "name, content",
    [
        ("c.json", json.dumps({"Tolm": ["A city.", "It grew."], "Karn": "A man."})),  # no space between the sentences
        ("c.json", json.dumps({"Tolm": ["A city.", " It grew. "], "Karn": ["A man."]})),
        ("c.json.gz", json.dumps([{"title": "Tolm", "text": "A city. It grew."}, {"title": "Karn", "text": "A man."}])),
        ("c.jsonl", lines({"title": "Tolm", "text": "A city. It grew."}, {"title": "Karn", "text": ["A man."]})),
        ("c.json", lines({"title": "Tolm", "text": "A city. It grew."}, {"title": "Karn", "text": "A man."})),
        # Search-R1's, cut in the middle of a sentence.
        ("wiki-18.jsonl.gz", lines({"id": "0", "contents": '"Tolm"\nA city. It'},
                                   {"id": "1", "contents": '"Tolm"\ngrew.'},
                                   {"id": "2", "contents": '"Karn"\nA man.'})),
        ("c.jsonl", lines({"contents": "Tolm\nA city. It grew."}, {"title": "Karn", "contents": "Karn\nA man."})),
    ],
)  # fmt: skip
def test_each_form(tmp_path, name, content):
    assert read(written(tmp_path, name, content)) == EXPECTED


def test_parquet(tmp_path):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"id": 1, "head": "Tolm", "body": "A city. It grew."}, {"id": 2, "head": "Karn", "body": "A man."}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet", Fields("head", "body")) == EXPECTED
    with pytest.raises(ValueError, match=r"c.parquet, row 1: there is no field 'title'; its fields are 'body', 'head'"):
        read(tmp_path / "c.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut.parquet is not readable parquet after row 0"):
        read(tmp_path / "cut.parquet")


def test_a_text_file_is_an_article(tmp_path):
    assert read(written(tmp_path, "Karn Velith.txt", "A man.\n\nOf Tolm.")) == [("Karn Velith", "A man.\n\nOf Tolm.")]
    with pytest.raises(ValueError, match="field 'text' must be a non-empty string"):
        read(written(tmp_path, "empty.md", " \n"))


def test_titles_in_quotation_marks(tmp_path):
    path = written(tmp_path, "c.jsonl", lines({"contents": '"""Heroes"" (album)"\nIt was made in Berlin.'}))
    assert read(path) == [('"Heroes" (album)', "It was made in Berlin.")]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("c.jsonl", lines({"title": "A", "text": "B"}) + "{\n", "c.jsonl, line 2: not a line of JSON: it is not JSON"),
        ("c.jsonl", lines({"title": "A", "text": "B"}, ["A"]), "c.jsonl, line 2: expected an object, got list"),
        ("c.jsonl", lines({"title": "A", "body": "B"}), "line 1: there is no field 'text'.*--config.corpus.text=FIELD"),
        ("c.jsonl", lines({"title": "A", "text": 3}), "line 1: field 'text' must be a non-empty string, got 3"),
        ("c.jsonl", lines({"contents": "only a text"}), "line 1: field 'contents' must be a title, a line end"),
        ("c.jsonl", "\n", "c.jsonl is empty"),
        ("c.json", json.dumps({"Tolm": "A city.", "Karn": [3]}), "entry 1: field 'text' must be a non-empty string"),
        ("c.json", json.dumps(["Tolm"]), "entry 0: expected an object, got str; a corpus is"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, name, content))


def test_a_cut_file_and_one_that_is_no_lines(tmp_path, monkeypatch):
    whole = gzip.compress("".join(lines({"title": str(i), "text": f"{i} " * 9}) for i in range(2000)).encode())
    (tmp_path / "c.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"c.jsonl.gz is not a readable file after line \d+ .*fetch it again"):
        read(tmp_path / "c.jsonl.gz")
    monkeypatch.setattr("masksearch_jax.evals.data_rows._LONGEST_LINE", 100)
    with pytest.raises(ValueError, match="d.jsonl, line 1: longer than"):
        read(written(tmp_path, "d.jsonl", json.dumps({"title": "x" * 200, "text": "B"})))


def test_bad_rows_may_be_counted_instead(tmp_path):
    content = (
        lines({"title": "Tolm", "text": "A city. It grew."}) + "{\n[]\n" + lines({"title": "Karn", "text": "A man."})
    )
    found: list[ValueError] = []
    assert read(written(tmp_path, "c.jsonl", content), Fields(), found.append) == EXPECTED
    assert ["line 2" in str(found[0]), "line 3" in str(found[1]), len(found)] == [True, True, 2]


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Twenty times the lines take as much; the bytes that were read are told."""
    peaks = []
    for size in (1000, 20_000):
        rows = ({"id": str(i), "contents": f'"Title {i // 3}"\n' + f"Words of passage {i}. " * 12} for i in range(size))
        path = tmp_path / f"{size}.jsonl.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        told: list[int] = []
        tracemalloc.start()
        articles = sum(1 for _ in corpora.read_corpus(path, Fields(), read_bytes=told.append))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert articles == -(-size // 3) and told == sorted(told) and told[-1] == path.stat().st_size
    assert peaks[1] < 1.5 * peaks[0]


def test_an_article_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "_LARGEST_ARTICLE", 10)
    path = written(tmp_path, "c.jsonl", lines(*({"title": "A", "text": "1234"} for _ in range(5))))
    assert [text for _, text in read(path)] == ["1234 1234", "1234 1234", "1234"]


def test_the_forms_of_real_articles_agree(data_dir, tmp_path):
    """1,000 articles of the real corpus, as Search-R1 would cut and write them: the same words."""
    articles = list(itertools.islice(corpora.read_corpus(data_dir / "2wiki_corpus.json.gz"), 1000))
    with gzip.open(tmp_path / "wiki.jsonl.gz", "wt") as file:
        for title, text in articles:
            words = text.split()
            for start in range(0, len(words), 30):
                row = {"id": str(start), "contents": f'"{title}"\n' + " ".join(words[start : start + 30])}
                file.write(json.dumps(row) + "\n")
    found = read(tmp_path / "wiki.jsonl.gz")
    assert [(title, text.split()) for title, text in found] == [(title, text.split()) for title, text in articles]
