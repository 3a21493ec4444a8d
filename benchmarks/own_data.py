"""Read every form of a corpus and of questions that people bring, and print what happened to each.

    MASKSEARCH_DATA=DATA python -m benchmarks.own_data                the forms, written from DATA
    MASKSEARCH_DATA=DATA python -m benchmarks.own_data --copies=20    memory against twenty times the lines

A row for each form: what was read, the seconds, the most memory that Python held, or the error. The last lines are
forms that are not known. Time and memory are those of a reading under tracemalloc, which slows it. Prints tables of
Markdown, and the results as one line of JSON.
"""

import dataclasses
import gzip
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from absl import app, flags

from masksearch_jax.evals import corpora, question_forms
from masksearch_jax.runtime.types import Json, JsonObject

_LINES = flags.DEFINE_integer(
    "lines", 10_000, "Lines of Search-R1's corpus, of passages of 2WikiMultiHopQA's articles."
)
_COPIES = flags.DEFINE_integer("copies", 4, "How many times as many lines the larger file of the memory check has.")
_WORDS = 30  # of a passage; the articles are short, and 10,000 lines are wanted of them


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened to one file. found: how many articles or questions. peak_mb: of Python's memory."""

    form: str
    rows: int
    found: int
    seconds: float
    peak_mb: float
    error: str = ""


def measure(form: str, rows: int, read: Callable[[], Iterable[object]]) -> Outcome:
    """Count what a reader yields, and measure its time and memory."""
    tracemalloc.start()
    started, found, error = time.perf_counter(), 0, ""
    try:
        for _ in read():
            found += 1
    except (ValueError, OSError) as raised:
        error = str(raised)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return Outcome(form, rows, found, round(time.perf_counter() - started, 2), round(peak, 1), error)


def write_lines(path: Path, rows: Iterable[Json]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, rows: list[JsonObject]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def search_r1_lines(articles: list[tuple[str, str]], count: int) -> Iterator[JsonObject]:
    """Yield `count` lines of Search-R1's corpus; the articles begin anew, under other titles, when they are used up."""
    number, turn = 0, 0
    while number < count:
        for title, text in articles:
            words = text.split()
            for start in range(0, len(words), _WORDS):
                if number == count:
                    return
                called = f"{title} ({turn})" if turn else title
                yield {"id": str(number), "contents": f'"{called}"\n' + " ".join(words[start : start + _WORDS])}
                number += 1
        turn += 1


def corpus_rows(data: Path, folder: Path) -> list[Outcome]:
    articles = list(corpora.read_corpus(data / "2wiki_corpus.json.gz"))
    rows = [{"title": title, "text": text} for title, text in articles]
    lines, more = _LINES.value, _LINES.value * _COPIES.value
    files = [
        ("Search-R1's wiki-18.jsonl", write_lines(folder / "wiki.jsonl", search_r1_lines(articles, lines)), lines),
        ("the same, .gz", write_lines(folder / "wiki.jsonl.gz", search_r1_lines(articles, lines)), lines),
        (f"the same, {_COPIES.value} times", write_lines(folder / "more.jsonl", search_r1_lines(articles, more)), more),
        ("JSON lines of title, text", write_lines(folder / "titled.jsonl", rows), len(rows)),
        ("parquet of title, text", write_parquet(folder / "titled.parquet", rows), len(rows)),
        ("{title: [sentences]}", data / "2wiki_corpus.json.gz", len(rows)),
    ]
    made = [measure(form, count, lambda path=path: corpora.read_corpus(path)) for form, path, count in files]
    named = write_lines(folder / "named.jsonl", ({"head": r["title"], "body": r["text"]} for r in rows))
    fields = corpora.Fields("head", "body")
    made.append(measure("JSON lines of named fields", len(rows), lambda: corpora.read_corpus(named, fields)))
    made.append(measure("the same, fields not named", len(rows), lambda: corpora.read_corpus(named)))
    (folder / "texts").mkdir()
    for place, row in enumerate(rows[:500]):
        (folder / "texts" / f"{place}.txt").write_text(row["text"], encoding="utf-8")
    texts = sorted((folder / "texts").iterdir())
    made.append(measure("a folder of .txt", 500, lambda: (one for path in texts for one in corpora.read_corpus(path))))
    return made


def question_rows(data: Path, folder: Path) -> list[Outcome]:
    official: list[JsonObject] = json.loads(gzip.decompress((data / "hotpotqa_100.json.gz").read_bytes()))
    pairs = [(entry["question"], entry["answer"]) for entry in official]
    hub = [
        {k: e[k] for k in ("question", "answer", "type", "level")}
        | {"id": e["_id"], "supporting_facts": _by_column(e["supporting_facts"])}
        for e in official
    ]
    trained = [
        {
            "data_source": "hotpotqa",
            "prompt": [{"role": "user", "content": f"Answer the given question. Question: {question}\n"}],
            "ability": "fact-reasoning",
            "reward_model": {"style": "rule", "ground_truth": {"target": [answer]}},
            "extra_info": {"split": "train", "index": place},
        }
        for place, (question, answer) in enumerate(pairs)
    ]
    musique = [
        {"id": e["_id"], "question": e["question"], "answer": e["answer"], "answer_aliases": [], "answerable": True,
         "question_decomposition": [{}, {}],
         "paragraphs": [{"title": title, "is_supporting": True} for title, _ in e["supporting_facts"]]}
        for e in official
    ]  # fmt: skip
    searched = [
        {"question": q, "answer": [a], "aug_answer": [a.lower()], "source": "hotpotqa", "qid": str(i)}
        for i, (q, a) in enumerate(pairs)
    ]
    wiki = [{k: v for k, v in e.items() if k != "context"} | {"evidences": [], "answer_id": "Q1"} for e in official]
    files = [
        ("HotpotQA, official", data / "hotpotqa_100.json.gz"),
        ("HotpotQA of the Hub, .jsonl", write_lines(folder / "hub.jsonl", hub)),
        ("HotpotQA of the Hub, .parquet", write_parquet(folder / "hub.parquet", hub)),
        ("2WikiMultiHopQA", write_lines(folder / "2wiki.jsonl", wiki)),
        ("MuSiQue", write_lines(folder / "musique.jsonl", musique)),
        ("NQ-open", write_lines(folder / "nq.jsonl", ({"question": q, "answer": [a]} for q, a in pairs))),
        ("Search-R1, .jsonl", write_lines(folder / "r1.jsonl", trained)),
        ("Search-R1, .parquet", write_parquet(folder / "r1.parquet", trained)),
        ("Search-R1's downloads", write_lines(folder / "flash.jsonl", (
            {"id": f"train_{i}", "question": q, "golden_answers": [a]} for i, (q, a) in enumerate(pairs)))),
        ("ASearcher", write_lines(folder / "asearcher.jsonl", searched)),
        ("plain, with aliases", write_lines(folder / "plain.jsonl", (
            {"question": q, "answer": a, "aliases": [a.lower()]} for q, a in pairs))),
        ("other names of fields", write_lines(folder / "odd.jsonl", ({"query": q, "label": a} for q, a in pairs))),
        ("the original Natural Questions", write_lines(folder / "orig.jsonl", (
            {"question_text": q, "annotations": [], "document_text": ""} for q, _ in pairs))),
        ("an answer that is an object", write_lines(folder / "obj.jsonl", (
            {"question": q, "answer": {"value": a}} for q, a in pairs))),
    ]  # fmt: skip
    return [measure(form, len(pairs), lambda path=path: question_forms.read_questions(path)) for form, path in files]


def _by_column(facts: list[list[Json]]) -> JsonObject:
    return {"title": [title for title, _ in facts], "sent_id": [number for _, number in facts]}


def table(outcomes: list[Outcome], what: str, folder: Path) -> str:
    """Return the outcomes as a table of Markdown. folder: left out of the messages."""
    lines = [f"| form | rows | {what} | seconds | peak, MB | what happened |", "|---|---|---|---|---|---|"]
    for one in outcomes:
        said = one.error.replace(f"{folder}/", "").split(";")[0].split(" Write {")[0] or "read"
        lines.append(f"| {one.form} | {one.rows:,} | {one.found:,} | {one.seconds} | {one.peak_mb} | {said} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if not os.environ.get("MASKSEARCH_DATA"):
        raise SystemExit("set MASKSEARCH_DATA to the folder that holds 2wiki_corpus.json.gz and hotpotqa_100.json.gz")
    data = Path(os.environ["MASKSEARCH_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        corpus, questions = corpus_rows(data, Path(folder)), question_rows(data, Path(folder))
        print(table(corpus, "articles", Path(folder)), table(questions, "questions", Path(folder)), sep="\n\n")
    print(
        json.dumps({"corpora": [*map(dataclasses.asdict, corpus)], "questions": [*map(dataclasses.asdict, questions)]})
    )


if __name__ == "__main__":
    app.run(main)
