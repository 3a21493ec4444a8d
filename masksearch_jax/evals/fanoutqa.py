"""Read FanOutQA, whose answers are spread over many articles: strings, numbers, lists or mappings.

Enters: fanout-final-dev.json. Leaves: `Question`s. `reference` is the answer as the file holds it, for loose accuracy
(scoring/benchmark_metrics.py). The one accepted string is the answer as the official code writes it for string metrics.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from masksearch_jax.evals import question_files as files
from masksearch_jax.evals.question_files import Question
from masksearch_jax.runtime.types import Json, JsonObject

# Answers nest at most two levels deep (a mapping of lists). This leaves room, and bounds the recursion below.
_DEEPEST = 16

FANOUTQA = "download fanoutqa/data/fanout-final-dev.json of https://github.com/zhudotexe/fanoutqa"


def read_fanoutqa(path: Path | str) -> list[Question]:
    """Return the questions in file order. Their supporting titles are those of the whole tree of evidence.

    Raises FileNotFoundError that says what to download, ValueError that names file, entry and field. The test set is
    refused, since it has no answers.
    """
    found = []
    for where, entry in files.numbered(path, files.read_json(Path(path), FANOUTQA)):
        if not _is_answer(entry.get("answer")):
            raise ValueError(
                f"{where}: field 'answer' must be a string, number, bool, list or mapping, got "
                f"{files.shown(entry.get('answer'))}"
            )
        answer = flat(entry["answer"])
        files.check_characters(answer, "answer", where)
        found.append(
            Question(
                id=files.text(entry, "id", where),
                question=files.text(entry, "question", where),
                answers=files.accepted([answer], "answer", where),
                supporting_titles=list(dict.fromkeys(_titles(entry, where))),
                reference=entry["answer"],
                details={"answer": type(entry["answer"]).__name__},
            )
        )
    return files.distinct(path, found, "id")


def flat(answer: Json) -> str:
    """Return an answer as one string: one item per line, 'key - value' for a mapping, 'yes' or 'no' for a bool."""
    if isinstance(answer, list):
        return "\n".join(map(flat, answer))
    if isinstance(answer, dict):
        return "\n".join(f"{key} - {flat(value)}" for key, value in answer.items())
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return str(answer)


def _is_answer(value: Json, depth: int = 0) -> bool:
    """Return True for a JSON value that a record can hold: finite, 64-bit integers, no empty list, not too deep."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return bool(value) and depth < _DEEPEST and all(_is_answer(item, depth + 1) for item in items)
    if isinstance(value, int):  # a bool as well
        return -(1 << 63) <= value < 1 << 64
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _titles(entry: JsonObject, where: str) -> Iterator[str]:
    """Yield the titles of the evidence below a question, depth first."""
    waiting = _steps(entry, where)[::-1]
    while waiting:
        step = waiting.pop()
        evidence = step.get("evidence")
        if evidence is not None and not isinstance(evidence, dict):
            raise ValueError(f"{where}: field 'evidence' must be an object or null, got {files.shown(evidence)}")
        if evidence:
            yield files.text(evidence, "title", f"{where}, evidence")
        waiting += _steps(step, where)[::-1]


def _steps(entry: JsonObject, where: str) -> list[JsonObject]:
    steps = entry.get("decomposition")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"{where}: field 'decomposition' must be a list of objects, got {files.shown(steps)}")
    return steps
