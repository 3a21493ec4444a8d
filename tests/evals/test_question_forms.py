"""Question files in the forms in which they are published, and what is said about any other."""

import gzip
import json

import pytest

from masksearch_jax.evals import benchmarks, question_forms
from masksearch_jax.evals.question_forms import read_questions

ASKED = "Where was Karn Velith born?"
FACTS = [["Karn Velith", 0], ["Tolmar", 1]]
BY_COLUMN = {"title": ["Karn Velith", "Tolmar"], "sent_id": [0, 1]}
TITLES = ["Karn Velith", "Tolmar"]
PROMPT = [{"role": "user", "content": f"Answer the given question. Use <search>. Question: {ASKED}\n"}]
OFFICIAL = {"_id": "h1", "question": ASKED, "answer": "Tolmar", "type": "bridge", "level": "easy",
            "supporting_facts": FACTS, "context": []}  # fmt: skip
VERL = {"data_source": "nq", "prompt": PROMPT, "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["Tolmar", "Tolmar town"]}},
        "extra_info": {"split": "train", "index": 7}}  # fmt: skip
MUSIQUE = {"id": "m1", "question": ASKED, "answer": "Tolmar", "answer_aliases": ["Tolmar town"],
           "question_decomposition": [{}, {}], "answerable": True,
           "paragraphs": [{"title": title, "is_supporting": True} for title in TITLES]}  # fmt: skip
# name -> (row, id, answers, supporting titles)
ROWS = {
    "hotpotqa": (OFFICIAL, "h1", ["Tolmar"], TITLES),
    "two_wiki": ({**OFFICIAL, "evidences": [], "answer_id": "Q7"}, "h1", ["Tolmar"], TITLES),
    "hub hotpotqa": ({**{k: v for k, v in OFFICIAL.items() if k != "_id"}, "id": "h1", "supporting_facts": BY_COLUMN},
                     "h1", ["Tolmar"], TITLES),
    "hub two_wiki": ({**OFFICIAL, "supporting_facts": json.dumps(FACTS)}, "h1", ["Tolmar"], TITLES),
    "musique": (MUSIQUE, "m1", ["Tolmar", "Tolmar town"], TITLES),
    "nq-open": ({"question": ASKED, "answer": ["Tolmar", "Tolmar town"]}, "row-0", ["Tolmar", "Tolmar town"], []),
    "search-r1": (VERL, "nq-train-7", ["Tolmar", "Tolmar town"], []),
    "search-r1 with columns": ({**VERL, "id": "train_7", "question": ASKED, "golden_answers": ["x"]}, "nq-train_7",
                               ["Tolmar", "Tolmar town"], []),
    "verl": ({**VERL, "prompt": ASKED, "reward_model": {"ground_truth": "Tolmar"}}, "nq-train-7", ["Tolmar"], []),
    "search-r1 download": ({"id": "train_1", "question": ASKED, "golden_answers": ["Tolmar"]}, "train_1", ["Tolmar"],
                           []),
    "with metadata": ({"id": "train_1", "question": ASKED, "golden_answers": ["Tolmar"],
                       "metadata": {"supporting_facts": BY_COLUMN}}, "train_1", ["Tolmar"], TITLES),
    "asearcher": ({"question": ASKED, "answer": ["Tolmar"], "source": "nq", "aug_answer": ["Tolmar town", "Tolmar"],
                   "qid": "a1"}, "a1", ["Tolmar", "Tolmar town"], []),
    "asearcher lrm": ({"question": ASKED, "answer": "Tolmar", "source": None, "aug_answer": None, "qid": 5}, "5",
                      ["Tolmar"], []),
    "plain": ({"question": ASKED, "answer": "Tolmar"}, "row-0", ["Tolmar"], []),
    "plain with more": ({"id": 3, "question": ASKED, "answer": "Tolmar", "aliases": ["Tolmar town"],
                         "supporting_titles": TITLES}, "3", ["Tolmar", "Tolmar town"], TITLES),
    "plain answers": ({"question": ASKED, "answers": ["Tolmar"]}, "row-0", ["Tolmar"], []),
}  # fmt: skip


def written(folder, name, *rows):
    text = "\n".join(map(json.dumps, rows))
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return folder / name


@pytest.mark.parametrize("form", ROWS)
def test_each_form(tmp_path, form):
    row, id, answers, titles = ROWS[form]
    for path in (written(tmp_path, "q.jsonl.gz", row), written(tmp_path, "q.json", [row])):
        (found,) = read_questions(path)
        assert (found.id, found.question, found.answers, found.supporting_titles) == (id, ASKED, answers, titles)


# Without those whose columns parquet cannot hold: a list of [text, number], empty objects.
@pytest.mark.parametrize("form", [name for name in ROWS if name not in ("hotpotqa", "two_wiki", "musique")])
def test_each_form_as_parquet(tmp_path, form):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    row, id, answers, titles = ROWS[form]
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    (found,) = read_questions(tmp_path / "q.parquet")
    assert (found.id, found.question, found.answers, found.supporting_titles) == (id, ASKED, answers, titles)


def test_other_files(tmp_path):
    (tmp_path / "q.csv").write_text('question,answer\nWho?,Karn\nWhich?,"[""a"", ""b""]"\n')
    assert [one.answers for one in read_questions(tmp_path / "q.csv")] == [["Karn"], ["a", "b"]]
    trivia = {"QuestionId": "t1", "Question": "Who?", "Answer": {"Value": "Karn", "Aliases": ["K."]}}
    (tmp_path / "t.json").write_text(json.dumps({"Data": [trivia]}))
    assert read_questions(tmp_path / "t.json")[0].answers == ["Karn", "K."]
    two_lines = written(tmp_path, "lines.json", {"question": "a", "answer": "b"}, {"question": "c", "answer": "d"})
    assert [one.id for one in read_questions(two_lines)] == ["row-0", "row-1"]
    (tmp_path / "id_aliases.json").write_text(json.dumps({"Q_id": "Q7", "aliases": ["Tolm"], "demonyms": []}))
    (found,) = read_questions(written(tmp_path, "w.json", [ROWS["two_wiki"][0]]))
    assert found.answers == ["Tolmar", "Tolm"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"query": "a", "response": "b"}],
         "line 1: a form of questions that is not known. The nearest one is NQ-open, or plain questions, and of its "
         "fields 'question', 'answer' are missing; the row has 'query', 'response'"),
        ([{"question": "a", "golden_answer": ["b"]}], "line 1: .* of its fields 'answer' is missing; the row"),
        ([{"question_text": "a", "annotations": []}], "line 1: this is the original Natural Questions"),
        ([{"input": "a", "output": []}], "line 1: this is KILT's form"),
        ([{"question": "a", "answer": {"value": "b"}}],
         "line 1: field 'answer' must be a string or a list of strings, got {'value': 'b'}"),
        ([{"question": "a", "answer": "b"}, {"question": "a"}], "line 2: field 'answer' must be a string or a list"),
        ([{"question": "a", "answer": []}], "line 1: field 'answer' holds no answer"),
        ([{"id": "x", "question": "a", "answer": "b"}] * 2, "entry 1: field 'id' 'x' is that of entry 0"),
        ([{**VERL, "reward_model": {"style": "rule"}}], "line 1: field 'reward_model' must be an object with 'g"),
        ([{**VERL, "reward_model": {"ground_truth": {"answer": "b"}}}],
         "line 1: field 'reward_model.ground_truth.target' must be a string or a list of strings, got None"),
        ([{**VERL, "prompt": [{"role": "user"}]}], "line 1: field 'prompt' must be a list of messages"),
        ([{**OFFICIAL, "supporting_facts": {"titles": []}}],
         "line 1, supporting_facts: field 'title' must be a list of strings, got None"),
        ([{**MUSIQUE, "answerable": False}], "holds no question with an answer"),
        ([OFFICIAL, {**OFFICIAL, "_id": "h2", "answer": None}], "line 2: field 'answer' must be a non-empty string"),
    ],
)  # fmt: skip
def test_what_differs_is_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=rf"q.jsonl(, )?.*{message}"):
        read_questions(written(tmp_path, "q.jsonl", *rows))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.jsonl does not exist; which question files can be read"):
        read_questions(tmp_path / "no.jsonl")
    (tmp_path / "q.txt").write_text("Who?")
    with pytest.raises(ValueError, match="q.txt is not JSON"):
        read_questions(tmp_path / "q.txt")
    (tmp_path / "q.json").write_text('{"question": "Who?"}')
    with pytest.raises(ValueError, match="q.json must hold a non-empty JSON list, got dict"):
        read_questions(tmp_path / "q.json")


def test_benchmarks_in_other_forms(tmp_path):
    """A benchmark's name is enough for the copies that people have of it."""
    row = ROWS["hub hotpotqa"][0]
    assert benchmarks.read("hotpotqa", written(tmp_path, "h.jsonl", row))[0].supporting_titles == TITLES
    assert benchmarks.read("musique", written(tmp_path, "m.jsonl", MUSIQUE))[0].details == {"hops": "2"}
    assert (
        benchmarks.read("nq", written(tmp_path, "n.jsonl", ROWS["search-r1 with columns"][0]))[0].answers[0] == "Tolmar"
    )
    assert benchmarks.read("nq", written(tmp_path, "o.jsonl", ROWS["nq-open"][0]))[0].id == "nq-0"


def test_the_real_sample_in_each_form(data_dir, tmp_path):
    """HotpotQA's sample as the Hub and as Search-R1 hold it gives the same questions."""
    sample = json.loads(gzip.decompress((data_dir / "hotpotqa_100.json.gz").read_bytes()))
    official = read_questions(data_dir / "hotpotqa_100.json.gz")
    hub = [{"id": e["_id"], "question": e["question"], "answer": e["answer"], "type": e["type"], "level": e["level"],
            "supporting_facts": {"title": [t for t, _ in e["supporting_facts"]],
                                 "sent_id": [n for _, n in e["supporting_facts"]]}} for e in sample]  # fmt: skip
    assert read_questions(written(tmp_path, "hub.jsonl", *hub)) == official
    trained = [{**VERL, "data_source": "hotpotqa", "id": e["_id"], "question": e["question"],
                "prompt": [{"role": "user", "content": f"Answer. Question: {e['question']}\n"}],
                "reward_model": {"style": "rule", "ground_truth": {"target": [e["answer"]]}}}
               for e in sample]  # fmt: skip
    found = read_questions(written(tmp_path, "r1.jsonl", *trained))
    assert [(q.question, q.answers) for q in found] == [(q.question, q.answers) for q in official]
    for one in trained:
        del one["question"]
    assert [q.question for q in read_questions(written(tmp_path, "r2.jsonl", *trained))] == [
        q.question.strip() for q in official
    ]


def test_every_form_has_a_row_here():
    forms = {question_forms.form_of(row, "").name for row, *_ in ROWS.values()}
    assert forms == {form.name for form in question_forms.FORMS}
