"""Two rules that a policy on RAMP is measured against: a search by the title, and copying from what it finds.

Enters: tasks and a searcher. Leaves: for each task, for how many masks the passages found state the answer, and the
recall of a rule without any understanding. Of all names, dates and numbers in the passages, the rule answers with the
one before which the most words agree with the words before the mask. A policy that finds less does not know how to ask;
a policy with less recall does not read.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import mask_context, query_writers
from masksearch_jax.text import tags

# A date, a number, or a run of capitalised words: what a salient span looks like.
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_CANDIDATE = re.compile(
    rf"(?<!\w)(?:\d{{1,2}} {_MONTH} \d{{3,4}}|{_MONTH} \d{{1,2}}, \d{{3,4}}|{_MONTH} \d{{3,4}}"
    r"|\d[\d,.]*\d|\d|[^\W\d_a-z][\w'’.\-]*(?: [^\W\d_a-z][\w'’.\-]*)*)"
)
_LONGEST = 8  # words before a mask that are compared


@dataclasses.dataclass(frozen=True)
class Read:
    """What a title query and the copy rule give for a task. found, recall: means over its masks, in [0, 1]."""

    task_id: str
    found: float
    recall: float


def measure(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    hits: int,
    show: Callable[[Sequence[interface.Hit]], str],
    batch: int = 512,
) -> list[Read]:
    """Search for the title of each RAMP task and read the answers of its masks off what is found, in task order.

    show: hits -> the text of an observation, as a policy would see it.
    """
    read, place = [], 0
    shown = _shown(tasks, searcher, hits, show, batch)
    for task in tasks:
        own = shown[place : place + task.masks]
        place += task.masks
        recalls = [
            answer_metrics.token_recall(
                copied(text, task.text[: mask_context.mask_place(task.text, i)]), task.answers[i]
            )
            for i, text in enumerate(own)
        ]
        read.append(Read(task.id, _stated(own, task) / task.masks, sum(recalls) / task.masks))
    return read


def answerable(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    hits: int,
    show: Callable[[Sequence[interface.Hit]], str],
    batch: int = 512,
) -> list[bool]:
    """Return, for each RAMP task, whether a search for its title or for a clue finds the answer of at least one mask.

    The two queries are those of the rule-based teacher in the styles 'title' and 'clue' (teachers/query_writers.py).
    """
    found = [False for _ in tasks]
    for style in ("title", "clue"):
        shown, place = _shown(tasks, searcher, hits, show, batch, style), 0
        for number, task in enumerate(tasks):
            found[number] |= _stated(shown[place : place + task.masks], task) > 0
            place += task.masks
    return found


def _stated(shown: Sequence[str], task: records.Task) -> int:
    """Return for how many masks of a task the text that was shown for the mask states the answer."""
    return sum(answer_metrics.contains(text, golds) for text, golds in zip(shown, task.answers, strict=True))


def _shown(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    hits: int,
    show: Callable[[Sequence[interface.Hit]], str],
    batch: int,
    style: str = "title",
) -> list[str]:
    """Return what a search shows for each mask of each task, in order.

    The query is that of the rule-based teacher in this style. 'title': the title if the passage names it, else the name
    nearest to the mask. If the teacher has no query, it is the title.
    """
    probes, nothing = [(task, index) for task in tasks for index in range(task.masks)], query_writers.Associations()
    asked = [query_writers.write_title_query(task, index, style, nothing) or task.title for task, index in probes]
    queries = [
        interface.Query(query, task.passage_id, task.article_id) for (task, _), query in zip(probes, asked, strict=True)
    ]
    shown: list[str] = []
    for start in range(0, len(queries), batch):
        shown += map(show, searcher.search(queries[start : start + batch], hits))
    return shown


def copied(shown: str, before: str) -> str:
    """Return the name, date or number of `shown` before which the most words agree with the last words of `before`.

    The first one wins a tie. The result is '' if there is none."""
    wanted = _backwards(before.replace(tags.MASK, " "))
    best, most = "", -1
    for match in _CANDIDATE.finditer(shown):
        found, start = match[0].rstrip(".,'’-"), match.start()
        if not any(char.isdigit() for char in found):
            # 'In Karn' gives the name 'Karn'.
            found = next(iter(mask_context.names(found)), "")
            start = shown.index(found, start)
        lead = _backwards(shown[max(0, start - 30 * _LONGEST) : start])
        alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(lead, wanted, strict=False)))
        if found and alike > most:
            best, most = found, alike
    return best


def _backwards(text: str) -> list[str]:
    """Return the last words of a text, in the form in which answers are compared, the last word first."""
    return [answer_metrics.normalize(word) for word in reversed(text.split()[-_LONGEST:])]
