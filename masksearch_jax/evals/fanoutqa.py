"""Reader of FanOutQA: questions whose answer is spread over many articles, as a string, number, list or mapping.

In: fanout-final-dev.json. Out: `Question`s; `reference` is the answer as the file holds it, for loose accuracy
(text/official.py), and the one accepted string is its text as the official code writes it for string metrics.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masksearch_jax.evals import question_files as files
from masksearch_jax.evals.question_files import Question

FANOUTQA = "download fanoutqa/data/fanout-final-dev.json of https://github.com/zhudotexe/fanoutqa"


def read_fanoutqa(path: Path | str) -> list[Question]:
    """Returns the questions in file order; supporting titles are those of the whole tree of evidence.

    Raises FileNotFoundError that says what to download, ValueError that names file, entry and field (as for the test
    set, which has no answers).
    """
    found = []
    for where, entry in files.numbered(path, files.read_json(Path(path), FANOUTQA)):
        if not _is_answer(entry.get("answer")):
            raise ValueError(
                f"{where}: field 'answer' must be a string, number, bool, list or mapping, got {entry.get('answer')!r}"
            )
        answer = flat(entry["answer"])
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


def flat(answer: Any) -> str:
    """Returns an answer as one string: items on lines of their own, 'key - value' for a mapping, yes or no."""
    if isinstance(answer, list):
        return "\n".join(map(flat, answer))
    if isinstance(answer, dict):
        return "\n".join(f"{key} - {flat(value)}" for key, value in answer.items())
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return str(answer)


def _is_answer(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(map(_is_answer, value.values()))
    if isinstance(value, list):
        return bool(value) and all(map(_is_answer, value))
    return isinstance(value, str | int | float)  # bool is an int


def _titles(entry: dict[str, Any], where: str) -> Iterator[str]:
    """Yields the titles of the evidence below a question, depth first."""
    steps = entry.get("decomposition")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"{where}: field 'decomposition' must be a list of objects, got {steps!r}")
    for step in steps:
        if step.get("evidence"):
            yield files.text(step["evidence"], "title", f"{where}, evidence")
        yield from _titles(step, where)
