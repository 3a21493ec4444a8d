"""Read files of questions and answers in the forms in which they are published, to train on or as a benchmark.

Enters: a file (.json, .jsonl, both also with .gz, .parquet, .csv, .tsv). Its form is recognised by the fields of its
first row: HotpotQA and 2WikiMultiHopQA (the official files and the Hub's copies), MuSiQue, TriviaQA, NQ-open,
Search-R1's training files and those that it downloads, ASearcher's, and plain questions with answers. Leaves:
`Question`s in file order. A form that is not known is refused with the fields that differ from the nearest one, and a
row that breaks its form with its line and field. Left out: benchmarks in sheets and trees (evals/benchmarks.py).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals import data_rows, multi_hop, open_domain
from masksearch_jax.evals import question_files as files
from masksearch_jax.evals.question_files import Question
from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import Json, JsonObject

SOURCE = "which question files can be read stands in docs/data_formats.md, Questions"
_ASKED = "Question:"  # what stands before the question in the prompts of Search-R1
_TITLES = "supporting_titles"
_EXTRA_ANSWERS = ("answers", "answer_aliases", "aliases", "aug_answer")

# {Wikidata id: names}, of the file that lies beside those of 2WikiMultiHopQA.
Aliases = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a row stands. where: for messages. number: of the row, from 0. aliases: of the file's folder."""

    where: str
    number: int
    aliases: Aliases


@dataclasses.dataclass(frozen=True)
class Form:
    """One form. fields: those that each row has. read: returns the question of a row, None for one to leave out."""

    name: str
    fields: tuple[str, ...]
    read: Callable[[JsonObject, Place], Question | None]


def read_questions(path: Path | str, source: str = SOURCE) -> list[Question]:
    """Return the questions of a file in any of FORMS. source: ends the message about a missing or damaged file.

    Raises FileNotFoundError, or ValueError that names file, line and field for what has no form, or breaks its own.
    """
    path = Path(path)
    if _is_triviaqa(path):
        return open_domain.read_triviaqa(path)
    if data_rows.is_table(path):
        rows = data_rows.read_table(path, source, ("question", "answer"))
    else:
        rows = data_rows.read_rows(path, source)
    aliases = multi_hop.aliases_beside(path)
    found: list[Question] = []
    form = None
    for number, (where, entry) in enumerate(rows):
        form = form or form_of(entry, where)
        question = form.read(entry, Place(where, number, aliases))
        found += [question] if question else []
    if not found:
        raise ValueError(f"{path} holds no question with an answer; {source}")
    return files.distinct(path, found, "id")


def form_of(entry: JsonObject, where: str) -> Form:
    """Return the form of a row. Raises ValueError that says how the row differs from the nearest form."""
    for form in FORMS:
        if set(form.fields) <= entry.keys():
            return form
    for names, said in _REFUSED.items():
        if set(names) <= entry.keys():
            raise ValueError(f"{where}: {said}; {SOURCE}")

    def nearness(form: Form) -> tuple[float, int]:
        return len(entry.keys() & set(form.fields)) / len(form.fields), -len(form.fields)

    nearest = max(reversed(FORMS), key=nearness)
    missing = [name for name in nearest.fields if name not in entry]
    raise ValueError(
        f"{where}: a form of questions that is not known. The nearest one is {nearest.name}, and of its fields "
        f"{', '.join(map(repr, missing))} {'is' if len(missing) == 1 else 'are'} missing; the row has "
        f'{", ".join(map(repr, sorted(entry)[:20])) or "none"}. Write {{"question": .., "answer": ..}} in each '
        f"line instead; {SOURCE}"
    )


def is_download(path: Path, source: str, always: bool) -> bool:
    """Return True for a file of a benchmark that is not its official one: parquet, or JSON lines of Search-R1's.

    always: JSON lines of any form are no official file.
    """
    name = path.name.lower()
    if name.endswith(data_rows.PARQUET):
        return True
    if not name.endswith(data_rows.LINES):
        return False
    first = next(data_rows.read_rows(path, source)).entry
    return always or any({"question", name} <= first.keys() for name in ("golden_answers", "reward_model"))


def _is_triviaqa(path: Path) -> bool:
    """Return True for an official file of TriviaQA, one JSON object with its questions in 'Data'."""
    if not path.is_file() or path.name.lower().endswith((*data_rows.LINES, *data_rows.PARQUET)):
        return False
    if not data_rows.holds_object(path) or data_rows.holds_lines(path):
        return False
    return "Data" in files.read_json(path, SOURCE, dict)


# --- The forms -------------------------------------------------------------------------------------------------------


def _search_r1_training(entry: JsonObject, place: Place) -> Question:
    """Read a row that Search-R1 trains on, in the form of verl: prompt, data_source, reward_model.ground_truth."""
    where, model = place.where, entry["reward_model"]
    if not isinstance(model, dict) or "ground_truth" not in model:
        raise ValueError(
            f"{where}: field 'reward_model' must be an object with 'ground_truth', got {files.shown(model)}"
        )
    truth = model["ground_truth"]
    if isinstance(truth, dict):
        truth, field = truth.get("target"), "reward_model.ground_truth.target"
    else:
        field = "reward_model.ground_truth"
    source, extra = files.text(entry, "data_source", where), entry.get("extra_info")
    number: Json = entry.get("id")
    if number is None and isinstance(extra, dict):
        number = "-".join(str(extra[name]) for name in ("split", "index") if extra.get(name) is not None) or None
    question = entry.get("question")
    return Question(
        id=f"{source}-{place.number if number is None else number}",
        question=_asked(entry["prompt"], where) if question is None else files.text(entry, "question", where),
        answers=_answers([(field, truth)], where),
        supporting_titles=_titles_of_metadata(entry, where),
        details={"source": source},
    )


def _asked(prompt: Json, where: str) -> str:
    """Return the question in a prompt: what follows the last 'Question:' of the last message, or all of it."""
    said = prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        said = prompt[-1].get("content")
    if not isinstance(said, str):
        raise ValueError(
            f"{where}: field 'prompt' must be a list of messages with 'content', or a string, got {files.shown(prompt)}"
        )
    return files.text({"prompt": said.rpartition(_ASKED)[2].strip()}, "prompt", where)


def _search_r1(entry: JsonObject, place: Place) -> Question:
    """Read a row of the files that Search-R1 downloads (RUC-NLPIR/FlashRAG_datasets)."""
    where = place.where
    return Question(
        id=_id(entry, "id", place),
        question=files.text(entry, "question", where),
        answers=_answers([("golden_answers", entry["golden_answers"])], where),
        supporting_titles=_titles_of_metadata(entry, where),
    )


def _titles_of_metadata(entry: JsonObject, where: str) -> list[str]:
    """Return the supporting titles that these files keep in 'metadata' for HotpotQA and 2WikiMultiHopQA."""
    metadata = entry.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("supporting_facts") is None:
        return []
    return multi_hop.supporting_titles(metadata, f"{where}, metadata")


def _official(entry: JsonObject, place: Place) -> Question:
    found = multi_hop.hotpotqa_question(entry, place.where)
    return multi_hop.with_aliases(found, entry, place.where, place.aliases)


def _of_hub(entry: JsonObject, place: Place) -> Question:
    found = multi_hop.hotpotqa_question(entry, place.where, "id")
    return multi_hop.with_aliases(found, entry, place.where, place.aliases)


def _musique(entry: JsonObject, place: Place) -> Question | None:
    return multi_hop.musique_question(entry, place.where)


def _asearcher(entry: JsonObject, place: Place) -> Question:
    """Read a row of ASearcher's training files, whose `aug_answer` holds other spellings of the answer."""
    found = _plain(entry, place)
    source = entry.get("source")
    details = {"source": source} if isinstance(source, str) and source else {}
    return dataclasses.replace(found, id=_id(entry, "qid", place), details=details)


def _plain(entry: JsonObject, place: Place) -> Question:
    """Read a question with `answer` (one, or a list), and `answers` or `aliases` if there are more."""
    where = place.where
    named = [(name, entry[name]) for name in ("answer", *_EXTRA_ANSWERS) if entry.get(name) is not None]
    return Question(
        id=_id(entry, "id", place),
        question=files.text(entry, "question", where),
        answers=_answers(named or [("answer", None)], where),
        supporting_titles=list(dict.fromkeys(files.texts(entry, _TITLES, where))) if _TITLES in entry else [],
    )


def _answers(named: Sequence[tuple[str, Json]], where: str) -> list[str]:
    """Return the accepted answers of fields, each a string, a list of strings or such a list as JSON text."""
    found: list[str] = []
    for name, value in named:
        if isinstance(value, str) and value.lstrip().startswith("["):  # a cell of a table
            try:
                value = parse_json(value)
            except ValueError:
                pass
        strings = [value] if isinstance(value, str) else value
        if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
            raise ValueError(f"{where}: field {name!r} must be a string or a list of strings, got {files.shown(value)}")
        found += files.texts({name: strings}, name, where)
    return files.accepted(found, named[0][0], where)


def _id(entry: JsonObject, field: str, place: Place) -> str:
    """Return the id of a row, which may be a number; the number of the row if it has none."""
    value = entry.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"row-{place.number}" if value is None else files.text(entry, field, place.where)


# The first form whose fields a row has is its form.
FORMS = (
    Form("Search-R1's training file", ("data_source", "prompt", "reward_model"), _search_r1_training),
    Form("a file that Search-R1 downloads", ("question", "golden_answers"), _search_r1),
    Form("MuSiQue", ("id", "question", "answer", "question_decomposition", "paragraphs"), _musique),
    Form("HotpotQA or 2WikiMultiHopQA", ("_id", "question", "answer", "supporting_facts"), _official),
    Form("the Hub's copy of HotpotQA", ("id", "question", "answer", "supporting_facts"), _of_hub),
    Form("ASearcher", ("question", "answer", "aug_answer"), _asearcher),
    Form("plain questions", ("question", "answers"), _plain),
    Form("NQ-open, or plain questions", ("question", "answer"), _plain),
)
_REFUSED = {
    ("question_text", "annotations"): "this is the original Natural Questions, whose answers are places in a page; "
    "take NQ-open, which holds them as text",
    ("input", "output"): "this is KILT's form, or an instruction with its reply; write the fields 'question' and "
    "'answer' instead",
}
