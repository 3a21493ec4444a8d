"""Read multi-hop benchmarks in their official formats: HotpotQA, 2WikiMultiHopQA, MuSiQue, Bamboogle.

Enters: a file. Leaves: `Question`s in file order, with the benchmark's own type, level or number of hops in `details`.
The readers raise FileNotFoundError that says what to download, and ValueError that names file, entry and field.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals import question_files as files
from masksearch_jax.evals.question_files import Question
from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import JsonObject

HOTPOTQA = "download hotpot_dev_distractor_v1.json (or a training file) from http://curtis.ml.cmu.edu/datasets/hotpot/"
TWO_WIKI = (
    "download data_ids_april7.zip from https://github.com/Alab-NII/2wikimultihop and unpack dev.json, with "
    "id_aliases.json beside it"
)
MUSIQUE = "run download_data.sh of https://github.com/StonyBrookNLP/musique and take musique_ans_v1.0_dev.jsonl"
BAMBOOGLE = (
    "export the sheet that https://github.com/ofirpress/self-ask links as Bamboogle to CSV, with the columns Question "
    "and Answer"
)
ALIASES = "id_aliases.json"


def read_hotpotqa(path: Path | str) -> list[Question]:
    """Read a train, dev distractor or dev fullwiki file of HotpotQA. Test files are refused: they have no answers."""
    found = [
        hotpotqa_question(entry, where) for where, entry in files.numbered(path, files.read_json(Path(path), HOTPOTQA))
    ]
    return files.distinct(path, found, "_id")


def read_2wiki(path: Path | str) -> list[Question]:
    """Read train.json or dev.json of 2WikiMultiHopQA.

    Aliases and demonyms of an answer also count as answers if the entry has an `answer_id` and id_aliases.json (JSON
    lines of Q_id, aliases, demonyms; .gz too) lies beside the file, as in the official script, version 1.1.
    """
    path = Path(path)
    aliases = aliases_beside(path)
    found = [
        with_aliases(hotpotqa_question(e, where), e, where, aliases)
        for where, e in files.numbered(path, files.read_json(path, TWO_WIKI))
    ]
    return files.distinct(path, found, "_id")


def with_aliases(question: Question, entry: JsonObject, where: str, aliases: Mapping[str, Sequence[str]]) -> Question:
    """Return a question of 2WikiMultiHopQA that also accepts the names of its entry's `answer_id`."""
    known = entry.get("answer_id")
    if known is not None and not isinstance(known, str):
        raise ValueError(f"{where}: field 'answer_id' must be a string or null, got {files.shown(known)}")
    names = dict.fromkeys([*question.answers, *(() if known is None else aliases.get(known, ()))])
    return dataclasses.replace(question, answers=list(names))


def read_musique(path: Path | str) -> list[Question]:
    """Read the answerable questions of a MuSiQue file. The full set also has unanswerable ones, which are left out."""
    found = []
    for where, entry in files.numbered(path, files.read_jsonl(Path(path), MUSIQUE)):
        question = musique_question(entry, where)
        found += [question] if question else []
    if not found:
        raise ValueError(f"{path} holds no answerable question; {MUSIQUE}")
    return files.distinct(path, found, "id")


def musique_question(entry: JsonObject, where: str) -> Question | None:
    """Return the question of an entry of MuSiQue, None for one that cannot be answered."""
    answerable = entry.get("answerable", True)
    if not isinstance(answerable, bool):
        raise ValueError(f"{where}: field 'answerable' must be true or false, got {files.shown(answerable)}")
    if not answerable:
        return None
    for field in ("question_decomposition", "paragraphs"):
        value = entry.get(field)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ValueError(f"{where}: field {field!r} must be a list of objects, got {files.shown(value)}")
    titles = [files.text(p, "title", f"{where}, paragraphs") for p in entry["paragraphs"] if p.get("is_supporting")]
    answers = [files.text(entry, "answer", where), *files.texts(entry, "answer_aliases", where)]
    return Question(
        id=files.text(entry, "id", where),
        question=files.text(entry, "question", where),
        answers=files.accepted(answers, "answer", where),
        supporting_titles=list(dict.fromkeys(titles)),
        details={"hops": str(len(entry["question_decomposition"]))},
    )


def read_bamboogle(path: Path | str) -> list[Question]:
    """Read Bamboogle as CSV, or as a JSON list of the same two fields. It has no ids, so row numbers serve as ids."""
    path = Path(path)
    if path.name.removesuffix(".gz").endswith(".json"):
        entries = [
            _capitalised(entry, where) for where, entry in files.numbered(path, files.read_json(path, BAMBOOGLE))
        ]
    else:
        entries = files.read_table(path, BAMBOOGLE, ("Question", "Answer"))
    return [
        Question(f"bamboogle-{index}", files.text(entry, "Question", where), [files.text(entry, "Answer", where)], [])
        for index, (where, entry) in enumerate(files.numbered(path, entries))
    ]


def hotpotqa_question(entry: JsonObject, where: str, id_field: str = "_id") -> Question:
    """Return the question of an entry of HotpotQA or 2WikiMultiHopQA; the Hub's copies call the id 'id'."""
    texts = [files.text(entry, field, where) for field in (id_field, "question", "answer")]
    titles = supporting_titles(entry, where)
    details = {name: entry[name] for name in ("type", "level") if isinstance(entry.get(name), str)}
    for name, value in details.items():
        files.check_characters(value, name, where)
    return Question(texts[0], texts[1], [texts[2]], titles, details=details)


def supporting_titles(entry: JsonObject, where: str) -> list[str]:
    """Return the titles of the field 'supporting_facts', each once.

    The official files hold a list of [title, sentence number], the Hub's copies {"title": [..], "sent_id": [..]}, or
    either as JSON text.
    """
    facts = entry.get("supporting_facts")
    if isinstance(facts, str):
        try:
            facts = parse_json(facts)
        except ValueError as error:
            raise ValueError(f"{where}: field 'supporting_facts' {error}") from error
    if isinstance(facts, dict):
        found = files.texts(facts, "title", f"{where}, supporting_facts")
    elif isinstance(facts, list) and all(
        isinstance(fact, list) and len(fact) == 2 and isinstance(fact[0], str) for fact in facts
    ):
        found = [title for title, _ in facts]
    else:
        raise ValueError(
            f"{where}: field 'supporting_facts' must be a list of [title, sentence number], got {files.shown(facts)}"
        )
    titles = list(dict.fromkeys(found))
    for title in titles:
        files.check_characters(title, "supporting_facts", where)
    return titles


def _capitalised(entry: JsonObject, where: str) -> JsonObject:
    found: JsonObject = {}
    for name, value in entry.items():
        if name.capitalize() in found:
            raise ValueError(f"{where}: two fields are named {name.capitalize()!r}, of which one would be lost")
        found[name.capitalize()] = value
    return found


def aliases_beside(path: Path) -> dict[str, list[str]]:
    """Return {Wikidata id: names} of the aliases file in the folder of a file; {} if there is no such file."""
    names_of = (path.with_name(name) for name in (ALIASES, f"{ALIASES}.gz"))
    aliases = next((one for one in names_of if one.exists()), None)
    if aliases is None:
        return {}
    found: dict[str, list[str]] = {}
    for where, entry in files.numbered(aliases, files.read_jsonl(aliases, TWO_WIKI)):
        names = [name for field in ("aliases", "demonyms") for name in files.texts(entry, field, where) if name.strip()]
        # An entity that occurs twice gets the names of both entries.
        found.setdefault(files.text(entry, "Q_id", where), []).extend(names)
    return found
