"""Two rules that a policy on RAMP is measured against: a search by the title, and copying from what it finds.

Enters: tasks and a searcher. Leaves, for each mask, whether the passages found state the answer, and the recall of a
rule without any understanding: of all names, dates and numbers there, it answers with the one that the most words
before the mask lead to. A policy that finds less does not know how to ask; one that has less recall does not read.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

from masksearch_jax.agents import masked_text
from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.teachers import query_writers
from masksearch_jax.text import answers, tags

# A date, a number, or a run of capitalised words: what a salient span looks like.
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_CANDIDATE = re.compile(
    rf"(?<!\w)(?:\d{{1,2}} {_MONTH} \d{{3,4}}|{_MONTH} \d{{1,2}}, \d{{3,4}}|{_MONTH} \d{{3,4}}"
    r"|\d[\d,.]*\d|\d|[^\W\d_a-z][\w'’.\-]*(?: [^\W\d_a-z][\w'’.\-]*)*)"
)
_LONGEST = 8  # words before a mask that are compared


@dataclasses.dataclass(frozen=True)
class Read:
    """What a title query and the rule give for a task. found, recall: means over its masks, in [0, 1]."""

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

    show: the text of an observation, as a policy would see it. The query is that of the rule-based teacher: the title
    if the passage names it, else the name nearest to the mask.
    """
    probes, nothing = [(task, index) for task in tasks for index in range(task.masks)], query_writers.Associations()
    asked = [query_writers.write_title_query(task, index, "name", nothing) or task.title for task, index in probes]
    queries = [
        interface.Query(query, task.passage_id, task.article_id)
        for (task, _), query in zip(probes, asked, strict=True)
    ]
    shown: list[str] = []
    for start in range(0, len(queries), batch):
        shown += map(show, searcher.search(queries[start : start + batch], hits))
    read, place = [], 0
    for task in tasks:
        own = shown[place : place + task.masks]
        place += task.masks
        found = [answers.contains(text, golds) for text, golds in zip(own, task.answers, strict=True)]
        recalls = [
            answers.token_recall(copied(text, task.text[: masked_text.mask_place(task.text, i)]), task.answers[i])
            for i, text in enumerate(own)
        ]
        read.append(Read(task.id, sum(found) / task.masks, sum(recalls) / task.masks))
    return read


def copied(shown: str, before: str) -> str:
    """Return the name, date or number of `shown` that most of the last words of `before` lead to, the first among
    equals; '' where there is none."""
    wanted = _backwards(before.replace(tags.MASK, " "))
    best, most = "", -1
    for match in _CANDIDATE.finditer(shown):
        found, start = match[0].rstrip(".,'’-"), match.start()
        if not any(char.isdigit() for char in found):
            # 'In Karn' is the name 'Karn'.
            found = next(iter(masked_text.names(found)), "")
            start = shown.index(found, start)
        lead = _backwards(shown[max(0, start - 30 * _LONGEST) : start])
        alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(lead, wanted, strict=False)))
        if found and alike > most:
            best, most = found, alike
    return best


def _backwards(text: str) -> list[str]:
    """The last words of a text, in the form in which answers are compared, the last one first."""
    return [answers.normalize(word) for word in reversed(text.split()[-_LONGEST:])]
