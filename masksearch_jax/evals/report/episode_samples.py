"""Sample trajectories of an evaluation: which episodes are shown, and how.

The worst, the median and the best episode by recall are shown. None is picked by hand; a hash of the task's id breaks
ties.
"""

import hashlib
import re
from collections.abc import Sequence

from masksearch_jax.evals.report.sections import Episode, Turn
from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.evals.runner import Row
from masksearch_jax.runtime.types import Json
from masksearch_jax.text import tags


def chosen(rows: Sequence[Row], policy: str) -> tuple[Episode, ...]:
    """Return the best, median and worst episode by recall, over all suites together; fewer if there are fewer rows."""
    ordered = sorted(rows, key=lambda row: (row.recall, hashlib.sha256(row.task_id.encode()).hexdigest(), row.task_id))
    if not ordered:
        return ()
    # With few rows, one episode may be several of these: best takes precedence, then worst.
    shown = {(len(ordered) - 1) // 2: "median"} | {0: "worst"} | {len(ordered) - 1: "best"}
    return tuple(episode(ordered[place], f"{policy}, {shown[place]}") for place in sorted(shown, reverse=True))


def episode(row: Row, title: str) -> Episode:
    """Return an evaluated episode as it is shown."""
    what = "question" if row.kind == "qa" else task_label(row.suite)
    facts = [f"recall {row.recall:.2f}", what, f"{row.searches} search" + ("es" if row.searches != 1 else "")]
    if row.stop != "answer":
        facts.append(f"ended by {row.stop}")
    turns = tuple(
        turn(one["action"], one["text"], one["query"], one["passages"], one["observation"], one["error"], row.answer)
        for one in row.turns
    )
    return Episode(f"{title}: {row.task_id}", row.text, tuple(map(tuple, row.golds)), ", ".join(facts), turns)


def turn(
    action: str, text: str, query: str, passages: Sequence[int], observation: str, error: str, answer: str
) -> Turn:
    """Return the parts of a turn. answer: the answer of the episode.

    The text before a valid action is the thought. A turn without a valid action is shown as it was written.
    """
    observed = observation.strip().removeprefix(tags.INFORMATION[0]).removesuffix(tags.INFORMATION[1]).strip()
    parts: dict[str, Json] = {"error": error, "passages": tuple(passages), "observation": observed}
    if action == "search":
        return Turn(thought=_thought(text, tags.SEARCH), query=query, **parts)
    if action == "answer":
        return Turn(thought=_thought(text, tags.ANSWER), answer=answer, **parts)
    return Turn(written=text, **parts)


def _thought(text: str, action: tuple[str, str]) -> str:
    # A valid action has one opening tag; the text after its closing tag may hold others.
    before = text.partition(action[0])[0]
    for tag in tags.THINK:
        before = before.replace(tag, " ")
    return " ".join(before.split())


def marked(text: str, golds: Sequence[Sequence[str]]) -> list[tuple[str, bool]]:
    """Return the text as (part, is a gold answer) pairs. Golds match as whole words, in any case and spacing."""
    found = sorted({gold for accepted in golds for gold in accepted if gold.strip()}, key=lambda g: (-len(g), g))
    if not found:
        return [(text, False)]
    one_of = "|".join(r"\s+".join(map(re.escape, gold.split())) for gold in found)
    pieces = re.split(rf"(?<!\w)({one_of})(?!\w)", text, flags=re.IGNORECASE)
    return [(piece, bool(index % 2)) for index, piece in enumerate(pieces) if piece]
