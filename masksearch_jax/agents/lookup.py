"""The teacher of lookups: search for each article in turn, then answer with the words or the title that is asked for.

In: lookup tasks (prep/lookups.py), a searcher. Out: demonstrations, as from agents/oracle.py, whose rejections these
share. It plans by the cues that remain, searches by name and cue, one article a turn, and is kept where every
observation shows the answer. This is what an instruct model brings along: tags, turns, the tool, quoting; nothing
about masks or questions.
"""

from collections.abc import Iterator, Sequence

from masksearch_jax.agents import oracle
from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.teachers import quotes, speech
from masksearch_jax.teachers.query_writers import Associations
from masksearch_jax.text import answers, tags
from masksearch_jax.text.tokenizer import Tokenizer


def synthesize(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    tokenizer: Tokenizer,
    associations: Associations,
    cfg: oracle.OracleConfig,
) -> Iterator[oracle.Outcome]:
    """Runs the teacher on lookup tasks; yields outcomes in task order. associations: not used."""
    del associations
    return oracle.run([_Lookup(task, cfg, tokenizer) for task in tasks], searcher, cfg.hits)


class _Lookup(oracle.Transcript):
    """A lookup on its way, one article after the other."""

    def __init__(self, task: records.Task, cfg: oracle.OracleConfig, tokenizer: Tokenizer):
        super().__init__(task, cfg, tokenizer)
        self._article = 0
        self._queries, self._cues = (task.details[name].split("\n") for name in ("queries", "cues"))

    @property
    def solved(self) -> bool:
        return self._article == len(self.task.supporting)

    def next_query(self) -> str:
        return self.search(self._think, lambda style: self._queries[self._article])

    def _think(self, query: str) -> speech.Draft:
        if not self._speech:
            thought = f"{tags.SPAN_SEPARATOR} ".join(self._cues[self._article :])
            return lambda share: thought
        said = self._speech.asking(query, len(self._queries), is_first=not self._article)
        return speech.joined([*self._said, said])

    def read(self, hits: Sequence[interface.Hit]) -> None:
        observation, golds = self.observe(hits), self.task.answers[self._article]
        if answers.contains(observation, golds):
            if self._speech:
                self._quote(observation, [hit.title for hit in hits], golds)
            else:
                self.note(observation, golds[0], self._cues[self._article])
            self._article += 1
            self.found()
        else:
            self.rejected = "miss"

    def _quote(self, observation: str, titles: Sequence[str], golds: Sequence[str]) -> None:
        quote = quotes.find(observation, titles, golds, self._queries[self._article])
        if quote:
            self._said += [self._speech.quoting(quote), self._speech.answering(golds[0])]
        else:
            self.rejected = "no_evidence"
