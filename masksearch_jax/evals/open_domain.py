"""Read open-domain benchmarks in their official formats: FreshQA, NQ-open, TriviaQA, PopQA.

Enters: a file. Leaves: `Question`s in file order. They have no supporting titles, except that PopQA names the article
of the question's subject. The readers raise FileNotFoundError that says what to download, and ValueError that names
file, entry and field.
"""

from pathlib import Path

from masksearch_jax.evals import question_files as files
from masksearch_jax.evals.question_files import Question
from masksearch_jax.runtime.json_files import parse_json

FRESHQA = "export the newest sheet that https://github.com/freshllms/freshqa links to CSV"
NQ_OPEN = "download nq_open/NQ-open.dev.jsonl of https://github.com/google-research-datasets/natural-questions"
TRIVIAQA = "unpack qa/wikipedia-dev.json of triviaqa-rc.tar.gz from https://nlp.cs.washington.edu/triviaqa/"
POPQA = "download data/popQA.tsv of https://github.com/AlexTMallen/adaptive-retrieval"


def read_freshqa(path: Path | str) -> list[Question]:
    """Read the TEST split of FreshQA from CSV. Results are reported on this split.

    Every answer_0 .. answer_9 is accepted. details: effective_year, num_hops, fact_type and false_premise ('TRUE' or
    'FALSE') as in the file.
    """
    rows = files.read_table(Path(path), FRESHQA, ("id", "split", "question", "answer_0"))
    found = []
    for where, row in files.numbered(path, rows):
        if row["split"].strip() != "TEST":
            continue
        names = sorted((n for n in row if n.startswith("answer_") and n[7:].isdecimal()), key=lambda n: int(n[7:]))
        found.append(
            Question(
                id=files.text(row, "id", where),
                question=files.text(row, "question", where),
                answers=files.accepted([row[name] for name in names], "answer_0", where),
                supporting_titles=[],
                details={
                    name: row[name].strip()
                    for name in ("fact_type", "num_hops", "false_premise", "effective_year")
                    if row.get(name, "").strip()
                },
            )
        )
    if not found:
        raise ValueError(f"{path}: no row has the split TEST; {FRESHQA}")
    return files.distinct(path, found, "id")


def read_nq_open(path: Path | str) -> list[Question]:
    """Read NQ-open, JSON lines of a question and its answers. It has no ids, so line numbers serve as ids."""
    return [
        Question(
            id=f"nq-{index}",
            question=files.text(entry, "question", where),
            answers=files.accepted(files.texts(entry, "answer", where), "answer", where),
            supporting_titles=[],
        )
        for index, (where, entry) in enumerate(files.numbered(path, files.read_jsonl(Path(path), NQ_OPEN)))
    ]


def read_triviaqa(path: Path | str) -> list[Question]:
    """Read a train or dev file of TriviaQA. Accepted are the value, then its aliases, then the answers of people."""
    data = files.read_json(Path(path), TRIVIAQA, dict)
    if not isinstance(data.get("Data"), list) or not data["Data"]:
        raise ValueError(f"{path}: field 'Data' must be a non-empty list; {TRIVIAQA}")
    found = []
    for where, entry in files.numbered(path, data["Data"]):
        answer = entry.get("Answer")
        if not isinstance(answer, dict):
            raise ValueError(
                f"{where}: field 'Answer' must be an object, got {files.shown(answer)} (test files have none)"
            )
        names = [files.text(answer, "Value", where)]
        for field in ("Aliases", "NormalizedAliases", "HumanAnswers"):
            names += files.texts(answer, field, where) if field in answer else []
        found.append(
            Question(
                id=files.text(entry, "QuestionId", where),
                question=files.text(entry, "Question", where),
                answers=files.accepted(names, "Answer", where),
                supporting_titles=[],
            )
        )
    return files.distinct(path, found, "QuestionId")


def read_popqa(path: Path | str) -> list[Question]:
    """Read popQA.tsv, in which `possible_answers` is a JSON list."""
    rows = files.read_table(Path(path), POPQA, ("id", "question", "possible_answers"), delimiter="\t")
    found = []
    for where, row in files.numbered(path, rows):
        try:
            names = {"possible_answers": parse_json(row["possible_answers"])}
        except ValueError as error:
            raise ValueError(f"{where}: field 'possible_answers' {error}") from error
        found.append(
            Question(
                id=files.text(row, "id", where),
                question=files.text(row, "question", where),
                answers=files.accepted(files.texts(names, "possible_answers", where), "possible_answers", where),
                supporting_titles=[row["s_wiki_title"]] if row.get("s_wiki_title") else [],
                details={"prop": row["prop"]} if row.get("prop") else {},
            )
        )
    return files.distinct(path, found, "id")
