"""Every benchmark in its official form, aliases and all; what is missing or damaged is named; the real FanOutQA."""

import gzip
import json

import pytest

from masksearch_jax.evals import benchmarks
from masksearch_jax.evals.benchmarks import Question

TWO_WIKI = {
    "_id": "w1", "type": "comparison", "question": "Who is older, Ann Bee or Cee Dee?", "answer": "Ann Bee",
    "supporting_facts": [["Ann Bee", 0], ["Cee Dee", 1]], "context": [["Ann Bee", ["Ann.", " Bee."]]],
    "evidences": [["Ann Bee", "date of birth", "1 May 1800"]], "answer_id": "Q7", "evidences_id": [],
}  # fmt: skip
MUSIQUE = {
    "id": "2hop__1_2", "question": "Who wrote the book of Tolm?", "answer": "Karn Velith", "answerable": True,
    "answer_aliases": ["Velith", "Karn Velith"],
    "paragraphs": [
        {"idx": 0, "title": "Tolm", "paragraph_text": "A.", "is_supporting": True},
        {"idx": 1, "title": "Else", "paragraph_text": "B.", "is_supporting": False},
        {"idx": 2, "title": "Vesh", "paragraph_text": "C.", "is_supporting": True},
    ],
    "question_decomposition": [
        {"id": 1, "question": "Tolm >> book", "answer": "Vesh", "paragraph_support_idx": 0},
        {"id": 2, "question": "Who wrote #1?", "answer": "Karn Velith", "paragraph_support_idx": 2},
    ],
}  # fmt: skip
FANOUTQA = {
    "id": "f1", "question": "How many people live in each?", "answer": {"Tolm": 1200, "Vesh": True}, "categories": [],
    "decomposition": [
        {"id": "a", "question": "Which?", "decomposition": [], "answer": ["Tolm"], "depends_on": [],
         "evidence": {"pageid": 1, "revid": 2, "title": "Towns", "url": "u"}},
        {"id": "b", "question": "How?", "answer": 3, "depends_on": ["a"], "evidence": None, "decomposition": [
            {"id": "c", "question": "?", "decomposition": [], "answer": 3, "depends_on": [],
             "evidence": {"pageid": 3, "revid": 4, "title": "Tolm", "url": "u"}}]},
    ],
}  # fmt: skip
FRESHQA = """"WARNING: do not train on it",,,,
,,,,
id,split,question,effective_year,next_review,false_premise,num_hops,fact_type,source,answer_0,answer_1,answer_10,note
0,TEST,Who leads Tolm?,2024,weekly,FALSE,one-hop,fast-changing,"u
v",Karn,"Velith, Karn",Karn V.,x
1,DEV,Who?,2024,weekly,FALSE,one-hop,fast-changing,u,No,,,
2,TEST,Why did Tolm sink?,before 2022,N/A,TRUE,multi-hop,never-changing,u,It did not.,,,
,,,,
"""
TRIVIAQA = {
    "Data": [{"Question": "Which town?", "QuestionId": "tc_1", "Answer": {
        "Value": "Tolm", "Aliases": ["Tolm", "Old Tolm"], "NormalizedAliases": ["tolm", "old tolm"],
        "NormalizedValue": "tolm", "HumanAnswers": ["Town of Tolm"], "Type": "FreeForm"}}],
    "Domain": "Wikipedia", "Split": "dev", "VerifiedEval": False, "Version": 1.0,
}  # fmt: skip
POPQA = (
    "id\tsubj\tprop\tobj\ts_wiki_title\tquestion\tpossible_answers\n"
    '42\tKarn\toccupation\tpolitician\tKarn Velith\tWhat is Karn\'s occupation?\t"[""politician"", ""pol""]"\n'
)


def lines(*entries):
    return "\n".join(json.dumps(entry) for entry in entries) + "\n"


OFFICIAL = {
    # name: (file, content, the questions that it holds)
    "two_wiki": ("dev.json", json.dumps([TWO_WIKI]), [
        Question("w1", "Who is older, Ann Bee or Cee Dee?", ["Ann Bee"], ["Ann Bee", "Cee Dee"],
                 details={"type": "comparison"})]),
    "musique": ("musique_ans_v1.0_dev.jsonl", lines(MUSIQUE, {**MUSIQUE, "id": "x", "answerable": False}), [
        Question("2hop__1_2", "Who wrote the book of Tolm?", ["Karn Velith", "Velith"], ["Tolm", "Vesh"],
                 details={"hops": "2"})]),
    "bamboogle": ("Bamboogle.csv", 'Question,Answer\n"Who, then?",Karn\nWhere?,Tolm\n', [
        Question("bamboogle-0", "Who, then?", ["Karn"], []), Question("bamboogle-1", "Where?", ["Tolm"], [])]),
    "fanoutqa": ("fanout-final-dev.json", json.dumps([FANOUTQA]), [
        Question("f1", "How many people live in each?", ["Tolm - 1200\nVesh - yes"], ["Towns", "Tolm"],
                 {"Tolm": 1200, "Vesh": True}, {"answer": "dict"})]),
    "freshqa": ("freshqa.csv", FRESHQA, [
        Question("0", "Who leads Tolm?", ["Karn", "Velith, Karn", "Karn V."], [], None, {
            "fact_type": "fast-changing", "num_hops": "one-hop", "false_premise": "FALSE", "effective_year": "2024"}),
        Question("2", "Why did Tolm sink?", ["It did not."], [], None, {
            "fact_type": "never-changing", "num_hops": "multi-hop", "false_premise": "TRUE",
            "effective_year": "before 2022"})]),
    "nq": ("NQ-open.dev.jsonl", lines({"question": "where?", "answer": ["Tolm", "in Tolm", "Tolm"]}), [
        Question("nq-0", "where?", ["Tolm", "in Tolm"], [])]),
    "triviaqa": ("wikipedia-dev.json", json.dumps(TRIVIAQA), [
        Question("tc_1", "Which town?", ["Tolm", "Old Tolm", "tolm", "old tolm", "Town of Tolm"], [])]),
    "popqa": ("popQA.tsv", POPQA, [
        Question("42", "What is Karn's occupation?", ["politician", "pol"], ["Karn Velith"],
                 details={"prop": "occupation"})]),
}  # fmt: skip


def written(folder, name, content):
    path = folder / name
    data = content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_form(tmp_path, name, ending):
    file, content, expected = OFFICIAL[name]
    assert benchmarks.read(name, written(tmp_path, file + ending, content)) == expected


def test_other_forms(tmp_path):
    """Bamboogle as JSON, and Search-R1's lines for any benchmark."""
    form = json.dumps([{"question": "Where?", "answer": "Tolm"}])
    assert benchmarks.read("bamboogle", written(tmp_path, "b.json", form))[0].answers == ["Tolm"]
    entry = {"id": "test_0", "question": "where?", "golden_answers": ["Tolm", "Vesh"], "metadata": {}}
    for name in benchmarks.BENCHMARKS:
        found = benchmarks.read(name, written(tmp_path, "test.jsonl.gz", lines(entry)))
        assert found == [Question("test_0", "where?", ["Tolm", "Vesh"], [])]


def test_aliases_of_2wiki(tmp_path):
    path = written(tmp_path, "dev.json", json.dumps([TWO_WIKI, {**TWO_WIKI, "_id": "w2", "answer_id": "Q8"}]))
    rows = [{"Q_id": "Q7", "aliases": ["Ann B.", "Ann Bee"], "demonyms": ["Bees"]}]
    written(tmp_path, "id_aliases.json", lines(*rows))
    first, second = benchmarks.read("two_wiki", path)
    assert first.answers == ["Ann Bee", "Ann B.", "Bees"] and second.answers == ["Ann Bee"]
    written(tmp_path, "id_aliases.json", lines({"Q_id": "Q7", "aliases": "Ann"}))
    with pytest.raises(ValueError, match="id_aliases.json, entry 0: field 'aliases' must be a list of strings"):
        benchmarks.read("two_wiki", path)


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_a_missing_file_says_what_to_download(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="nowhere.* does not exist; .*https?://"):
        benchmarks.read(name, tmp_path / f"nowhere{'.jsonl' if name == 'nq' else '.json'}")
    for damaged in (b"\x1f\x8b\x08 cut", b"\xff\xfe\x00"):
        (tmp_path / "damaged.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged.gz is not a readable file.*https?://"):
            benchmarks.read(name, tmp_path / "damaged.gz")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("two_wiki", json.dumps([{**TWO_WIKI, "supporting_facts": 3}]), "entry 0: field 'supporting_facts'"),
        ("musique", lines(MUSIQUE, {**MUSIQUE, "answer": ""}), "entry 1: field 'answer'"),
        ("musique", lines({**MUSIQUE, "paragraphs": None}), "entry 0: field 'paragraphs'"),
        ("musique", lines({**MUSIQUE, "answerable": False}), "holds no answerable question; run download_data.sh"),
        ("musique", lines(MUSIQUE)[:50], "line 1: not a line of JSON"),
        ("bamboogle", "Question;Answer\nWho?;Karn\n", "no row names the columns Question, Answer; export"),
        ("bamboogle", "Question,Answer\nWho?,\n", "entry 0: field 'Answer'"),
        ("bamboogle", "Question,Answer\n", "a header and no rows"),
        ("fanoutqa", json.dumps([{**FANOUTQA, "answer": {"Tolm": None}}]), "entry 0: field 'answer' must be"),
        ("fanoutqa", json.dumps([{**FANOUTQA, "answer": []}]), "entry 0: field 'answer' must be"),
        ("fanoutqa", json.dumps([{**FANOUTQA, "decomposition": "x"}]), "entry 0: field 'decomposition'"),
        ("freshqa", FRESHQA.replace("TEST", "DEV"), "no row has the split TEST"),
        ("freshqa", FRESHQA.replace("It did not.", ""), "entry 2: field 'answer_0' holds no answer"),
        ("nq", lines({"question": "where?", "answer": "Tolm"}), "entry 0: field 'answer' must be a list of strings"),
        ("nq", "\n", "is empty; download nq_open"),
        ("triviaqa", json.dumps({"Data": [{"Question": "?", "QuestionId": "t"}]}), "field 'Answer' .*test files"),
        ("triviaqa", json.dumps({"data": []}), "field 'Data' must be a non-empty list"),
        ("popqa", POPQA.replace('"[""politician""', '"[politician'), "entry 0: field 'possible_answers' is not JSON"),
    ],
)
def test_what_does_not_have_the_form_is_named(tmp_path, name, content, message):
    path = written(tmp_path, OFFICIAL[name][0], content)
    with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
        benchmarks.read(name, path)


def test_an_unknown_benchmark_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'hotpot' is none of .*hotpotqa"):
        benchmarks.read("hotpot", tmp_path)


def test_the_real_fanoutqa(data_dir):
    questions = benchmarks.read("fanoutqa", data_dir / "fanoutqa_dev.json.gz")
    assert len(questions) == 310 and all(question.supporting_titles for question in questions)
    kinds = [question.details["answer"] for question in questions]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"dict": 274, "str": 13, "list": 12, "int": 10, "bool": 1}
    first = questions[0]
    assert first.answers[0].splitlines()[0] == "Pat Burrell - Right" and first.reference["Pat Burrell"] == "Right"
    assert first.supporting_titles[:2] == ["1998 Major League Baseball draft", "Pat Burrell"]
