"""Queries of the rule-based teacher about the subject of a mask, in the styles of teachers/mask_teacher.py.

Enters: tasks, a searcher. Leaves: query strings, the words that other articles use for a fact (`Associations`), and how
often a style finds the answer. No query contains the answer.
"""

import collections
import math
from collections.abc import Callable, Sequence

from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import mask_context
from masksearch_jax.text import clues, tags


class Associations:
    """Which word other articles use for a fact that a sentence states in its own words.

    The counts come from training tasks. For each mask, its own words (the nearest content words of its sentence) are
    counted together with the content words of the sentences that name the task's title, in retrieved passages that
    state the answer. `best` scores a word w for own words o by sum_o P(w | o) log(P(w | o) / P(w)), so words that stand
    everywhere score nothing.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._own: collections.Counter[str] = collections.Counter()
        self._target: collections.Counter[str] = collections.Counter()
        self._total = 0

    def add(self, own: Sequence[str], target: Sequence[str]) -> None:
        self._total += 1
        self._target.update(set(target))
        for word in set(own):
            self._own[word] += 1
            self._pairs[word].update(set(target))

    def best(self, own: Sequence[str]) -> str:
        """Return the best word, '' if nothing is known of any own word. Ties go to the word that sorts first."""
        scores: dict[str, float] = collections.defaultdict(float)
        for word in set(own):
            for target, together in self._pairs.get(word, {}).items():
                share = together / self._own[word]
                scores[target] += share * math.log(share * self._total / self._target[target])
        return min(scores, key=lambda w: (-scores[w], w)) if scores else ""


def fit_associations(tasks: Sequence[records.Task], searcher: interface.Searcher, k: int = 3) -> Associations:
    """Learn Associations from training tasks.

    For each mask, one search for title and answer together finds where the fact stands."""
    found = Associations()
    probes = [(task, i) for task in tasks for i in range(task.masks)]
    queries = [interface.Query(f"{t.title} {t.answers[i][0]}", t.passage_id, t.article_id) for t, i in probes]
    for (task, i), hits in zip(probes, searcher.search(queries, k), strict=True):
        own = mask_context.own_words(task.text, i)
        for hit in hits:
            if answer_metrics.contains(f"{hit.title} {hit.text}", task.answers[i]):
                for sentence in mask_context.sentences(hit.text):
                    if task.title in sentence:
                        found.add(own, mask_context.content_words(sentence))
    return found


def write_query(task: records.Task, index: int, style: str, associations: Associations) -> str:
    """Return a query about mask `index`, '' if this style has none. It never contains the answer."""
    sentence, _ = mask_context.mask_sentence(task.text, index)
    subject = [mask_context.subject_of(task.text, task.title, index)]
    visible = [n for n in mask_context.names(sentence.replace(tags.MASK, " . ")) if n not in subject[0]]
    if style == "clue":
        return _without_answer(clues.query(task.text, index), task, index)
    if not subject[0]:
        return ""
    if task.span_kinds[index] in ("date", "number") and visible:
        subject.append(visible[0])  # a number says nothing about whom it concerns: name both parties
    own = mask_context.own_words(task.text, index)
    keyword = ""
    if style == "passage" and own:
        keyword = own[0]
    elif style == "associated":
        keyword = associations.best(own)
    if style != "title" and not keyword:
        return ""
    return _without_answer(" ".join([*subject, keyword]).strip(), task, index)


def write_title_query(task: records.Task, index: int, style: str, associations: Associations) -> str:
    """Return a query as `write_query` does, for a language model.

    It has the title as the passage has it, such as 'Heat (film)', and no second name. The style 'passage' adds two of
    the passage's words.

    Measured on 8,841 passages of real text with two hits: the title found the answer for 0.42 of 687 dates and numbers
    and for 0.45 of 2,613 names. A subject and a second name found 0.41 and 0.44, the title and two words 0.40 and 0.46.
    On 230 validation tasks the title found 0.43, the clue 0.37, and one of both 0.61.
    """
    if style == "clue":
        return _without_answer(clues.query(task.text, index), task, index)
    subject = task.title if task.title in task.text else mask_context.subject_of(task.text, task.title, index)
    own = mask_context.own_words(task.text, index)
    keyword = {"title": "", "passage": " ".join(own[:2]), "associated": associations.best(own)}[style]
    if not subject or (style != "title" and not keyword):
        return ""
    return _without_answer(f"{subject} {keyword}".strip(), task, index)


def _without_answer(query: str, task: records.Task, index: int) -> str:
    """Return a query, or '' if it says the answer of mask `index`."""
    return "" if answer_metrics.contains(query, task.answers[index]) else query


def writer_of(wording: str) -> Callable[[records.Task, int, str, Associations], str]:
    """Return the function that writes the queries of a wording (`synthesize.wording`)."""
    return write_query if wording == "words" else write_title_query


def hit_rate(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    associations: Associations,
    style: str,
    k: int,
    wording: str = "words",
) -> tuple[int, int]:
    """Return (masks whose answer stands in the top-k passages of the teacher's query in this style, all masks).

    The source is excluded from the search. wording: as in TeacherConfig."""
    write = writer_of(wording)
    probes = [(t, i, write(t, i, style, associations)) for t in tasks for i in range(t.masks)]
    # A style that has no query falls back to the bare subject; the teacher itself would draw another style.
    queries = [
        interface.Query(q or mask_context.subject_of(t.text, t.title, i), t.passage_id, t.article_id)
        for t, i, q in probes
    ]
    found = sum(
        any(answer_metrics.contains(hit.text, t.answers[i]) for hit in hits)
        for (t, i, _), hits in zip(probes, searcher.search(queries, k), strict=True)
    )
    return found, len(probes)
