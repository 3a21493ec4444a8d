"""Readers of benchmark files in their official formats: plain questions and articles out. No TensorFlow, no network.

In: a file on disk, .json or .json.gz. Out: `Question`s, or the articles of a corpus. Every fault is an error that names
file, entry and field.
"""

import dataclasses
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

CORPUS_ENDINGS = (".json", ".json.gz")

_CORPUS_SOURCE = 'a corpus is {"title": "text"}, {"title": ["sentence", ..]} or [{"title": .., "text": ..}, ..]'
_HOTPOTQA_SOURCE = (
    "download hotpot_dev_distractor_v1.json (or a training file) from http://curtis.ml.cmu.edu/datasets/hotpot/"
)


@dataclasses.dataclass(frozen=True)
class Question:
    """answers: accepted strings, official one first. supporting_titles: articles that state the facts, each once."""

    id: str
    question: str
    answers: list[str]
    supporting_titles: list[str]


def read_hotpotqa(path: Path | str) -> list[Question]:
    """Returns the questions of a file in HotpotQA's official format, in file order.

    Raises FileNotFoundError that says what to download, and ValueError that names file, index and field for an entry
    that does not have the format (as in the test set, which has no answers) or an id that occurs twice.
    """
    entries = _load(Path(path), _HOTPOTQA_SOURCE)
    questions = [_hotpotqa_question(entry, f"{path}, entry {index}") for index, entry in enumerate(entries)]
    seen: dict[str, int] = {}
    for index, question in enumerate(questions):
        if question.id in seen:
            raise ValueError(f"{path}, entry {index}: field '_id' {question.id!r} is that of entry {seen[question.id]}")
        seen[question.id] = index
    return questions


def read_corpus(path: Path | str) -> list[tuple[str, str]]:
    """Returns (title, text) of each article of a benchmark's corpus, in file order; all of it is held in memory.

    Raises FileNotFoundError or ValueError that names file, entry and field for anything but the forms that it names.
    """
    entries = _load(Path(path), _CORPUS_SOURCE, list | dict)
    if isinstance(entries, dict):
        entries = [{"title": title, "text": text} for title, text in entries.items()]
    found = []
    for index, entry in enumerate(entries):
        where = f"{path}, entry {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, got {type(entry).__name__}; {_CORPUS_SOURCE}")
        text = entry.get("text")
        if isinstance(text, list) and text and all(isinstance(sentence, str) for sentence in text):
            entry = {**entry, "text": "".join(text)}
        found.append((_text(entry, "title", where), _text(entry, "text", where)))
    return found


def _hotpotqa_question(entry: Any, where: str) -> Question:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object, got {type(entry).__name__}")
    texts = [_text(entry, field, where) for field in ("_id", "question", "answer")]
    facts = entry.get("supporting_facts")
    if not isinstance(facts, list) or any(
        not isinstance(fact, list) or len(fact) != 2 or not isinstance(fact[0], str) for fact in facts
    ):
        raise ValueError(f"{where}: field 'supporting_facts' must be a list of [title, sentence number], got {facts!r}")
    return Question(texts[0], texts[1], [texts[2]], list(dict.fromkeys(title for title, _ in facts)))


def _text(entry: dict[str, Any], field: str, where: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: field {field!r} must be a non-empty string, got {value!r}")
    return value


def _load(path: Path, source: str, kinds: Any = list) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {source}")
    try:
        data = path.read_bytes()
        entries = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable JSON file ({error}); {source}") from error
    if not isinstance(entries, kinds) or not entries:
        raise ValueError(f"{path} must hold a non-empty JSON list, got {type(entries).__name__}; {source}")
    return entries
