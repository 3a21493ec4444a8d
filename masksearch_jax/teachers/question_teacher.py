"""The rule-based teacher of questions over several articles.

The teacher knows which articles a question rests on, searches for one after the other, and answers once it has read the
answer.

In: question tasks with their supporting titles, a searcher. Out: demonstrations, as from teachers/mask_teacher.py,
whose styles, retries and rejections this module shares. A query is about a subject that a reader can know: a supporting
title that the question or an observation names; for the first search otherwise the question's own names; later, if the
next title stands nowhere yet, one of the names just read. The answer is in no query unless the question says it ("Which
is older, A or B?"). An episode is accepted if an observation that shows a supporting article states the answer (any
article, if no title is known). If the question says the answer, or asks yes or no, it is accepted if every supporting
article was shown, and rejected as 'no_articles' if no title is known: such questions are left to RL.
"""

import re
from collections.abc import Iterator, Sequence

from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import mask_context, mask_teacher, quotes, thoughts
from masksearch_jax.teachers.query_writers import Associations
from masksearch_jax.text import tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer

_ASKING = frozenset("what which who whom whose when where why how is are was were do does did has have had".split())
_BRACKETS = re.compile(r"(?<!\s)\s*\([^()]*\)$")  # "Lilu (mythology)" is called Lilu in a text
_MOST_NAMES = 3  # names of the question in a first query


def synthesize(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    tokenizer: Tokenizer,
    associations: Associations,
    cfg: mask_teacher.TeacherConfig,
) -> Iterator[mask_teacher.Outcome]:
    """Run the teacher on question tasks; yield outcomes in task order."""
    return mask_teacher.run([_Question(task, cfg, tokenizer, associations) for task in tasks], searcher, cfg.hits)


def asked_names(question: str) -> list[str]:
    """Return the names in a question, without its first word if that is a question word."""
    first, space, rest = question.partition(" ")
    return mask_context.names(first.lower() + space + rest if first.lower() in _ASKING else question)


def goals(question: str, hops: int) -> list[str]:
    """Return what each of `hops` searches is for: the question's content words, divided into that many shares.

    The words nearest to the question's last name come first ("the founder of the birthplace of X": birthplace,
    founder). A search whose share would be empty gets all words."""
    named = asked_names(question)
    place = question.rindex(named[-1]) if named else len(question)
    words = [w for w in mask_context.nearest(question[:place], question[place:]) if w not in _ASKING]
    shares = [words[i * len(words) // hops : (i + 1) * len(words) // hops] for i in range(hops)]
    return [" ".join(sorted(share or words, key=question.index)) for share in shares]


class _Question(mask_teacher.Transcript):
    """A question in progress. `_missing`: supporting titles of which no passage was shown yet."""

    def __init__(
        self,
        task: records.Task,
        cfg: mask_teacher.TeacherConfig,
        tokenizer: Tokenizer,
        associations: Associations,
    ):
        super().__init__(task, cfg, tokenizer)
        self._associations, self._missing, self._hops = associations, list(task.supporting), len(task.supporting) or 1
        self._goals, self._read, self._shown, self.solved = goals(task.text, self._hops), task.text, "", False
        self._titles: list[str] = []
        self._failed = False
        self._given = answer_metrics.is_given(task.text, task.answers[0])
        if self._given and not task.supporting:
            self.rejected = "no_articles"  # nothing says when enough was read

    def next_query(self) -> str:
        if self.rejected:
            return ""
        hop = self._hops - max(len(self._missing), 1)
        subject = self._subject()

        def think(query: str, style: str) -> thoughts.Draft:
            if self._speech:
                return self._speak(query)
            thought = f"{tags.SPAN_SEPARATOR} ".join(filter(None, dict.fromkeys(self._goals[hop:]))) or subject
            return lambda share: thought

        return self.search(think, lambda style: self._query(subject, self._goals[hop], style))

    def read(self, hits: Sequence[interface.Hit]) -> None:
        self._shown, self._titles = self.observe(hits), [hit.title for hit in hits]
        supporting = [h for h in hits if h.title in self.task.supporting and f"{h.title}:" in self._shown]
        before, by_search = self._readable(), self.tool == "search"
        self._read += " " + self._shown
        new = [title for title in self._missing if any(h.title == title for h in supporting)]
        self._missing = [title for title in self._missing if title not in new]
        if self._given:
            self.solved = not self._missing
        else:
            stated = answer_metrics.contains(self._shown, self.task.answers[0])
            self.solved = stated and bool(supporting or not self.task.supporting)
        self._failed = False
        leads_on = self._readable() != before
        if new or leads_on:
            self.close_part()
        elif not self.solved:
            self._failed = True
            self.missed(hits)
        # An article that the question rests on was found, and what was shown of it does not help.
        if by_search and new and not leads_on and not self.solved:
            self.open_article(supporting)
        if self._speech:
            self._quote(new)

    def hidden(self) -> list[list[str]]:
        return [] if self._given else list(self.task.answers)

    def _speak(self, query: str) -> thoughts.Draft:
        """Return the thought before a query: what was read, if it leads on, and what is searched for next."""
        if self._failed:
            said = self.speech.asking_again(query)
        else:
            said = self.speech.asking(query, self._hops, is_first=not self.searches)
        return thoughts.joined([*self._said, said])

    def _quote(self, new: Sequence[str]) -> None:
        """Quote what leads on: the answer, the next subject, or, if the question says the answer, what it is about.

        Rejects an answer that no single sentence states."""
        asked, golds = f"{self.task.text} {' '.join(self.task.supporting)}", self.task.answers[0]
        if self.solved and not self._given:
            quote = quotes.find(self._shown, self._titles, golds, asked)
            if quote is None:
                self.rejected = self.rejected or "no_evidence"
                return
        elif self._given:
            quote = quotes.nearest(self._shown, self._titles, " ".join([self.task.text, *new])) if new else None
        else:
            readable = self._readable()
            quote = quotes.find(self._shown, self._titles, readable[:1], asked) if readable else None
        self._said = [self.speech.quoting(quote)] if quote else []
        if self.solved:
            self._said.append(self.speech.answering(golds[0]))

    def _readable(self) -> list[str]:
        """Return the names of missing titles that a reader knows by now."""
        called = [_BRACKETS.sub("", title) for title in self._missing]
        return [name for name in called if name and answer_metrics.contains(self._read, [name])]

    def _subject(self) -> str:
        if readable := self._readable():
            return readable[0]
        if not self.searches:
            return " ".join(asked_names(self.task.text)[:_MOST_NAMES]) or " ".join(self._goals).strip()
        met = [n for n in mask_context.names(self._shown) if not answer_metrics.contains(self.task.text, [n])]
        return str(self._rng.choice(met)) if met else ""

    def _query(self, subject: str, goal: str, style: str) -> str:
        """Return a query about `subject` in one of the teacher's styles; in the style 'clue' it is the question.

        It is '' if there is no subject, if the style has no word to add, or if the query would say the answer."""
        if style == "clue":
            query = self.task.text
        else:
            keyword = {"title": "", "passage": goal, "associated": self._associations.best(goal.split())}[style]
            if not subject or (style != "title" and not keyword):
                return ""
            query = f"{subject} {keyword}".strip()
        return "" if not self._given and answer_metrics.contains(query, self.task.answers[0]) else query
