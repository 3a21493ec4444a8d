"""The teacher of tool_warmup tasks: search for each article in turn, then answer with the words or title asked for.

In: tool_warmup tasks (prep/tasks/tool_warmup.py), a searcher. Out: demonstrations, as from teachers/mask_teacher.py,
whose rejections this module shares. The teacher plans with the cues that remain, and searches for one article per turn,
by its title or the words given, and the cue. A demonstration is kept if the observation of each article shows its
answer. This is what an instruct model already knows: tags, turns, the tool, quoting; nothing about masks or questions.
"""

from collections.abc import Iterator, Sequence

from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import mask_teacher, quotes, thoughts
from masksearch_jax.teachers.query_writers import Associations
from masksearch_jax.text import tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer


def synthesize(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    tokenizer: Tokenizer,
    associations: Associations,
    cfg: mask_teacher.TeacherConfig,
) -> Iterator[mask_teacher.Outcome]:
    """Run the teacher on tool_warmup tasks; yield outcomes in task order. associations: not used."""
    del associations
    return mask_teacher.run([_WarmUp(task, cfg, tokenizer) for task in tasks], searcher, cfg.hits)


class _WarmUp(mask_teacher.Transcript):
    """A tool_warmup task in progress, one article after the other."""

    def __init__(self, task: records.Task, cfg: mask_teacher.TeacherConfig, tokenizer: Tokenizer):
        super().__init__(task, cfg, tokenizer)
        self._article = 0
        self._queries, self._cues = (task.details[name].split("\n") for name in ("queries", "cues"))

    @property
    def solved(self) -> bool:
        return self._article == len(self.task.supporting)

    def next_query(self) -> str:
        return self.search(self._think, lambda style: self._queries[self._article])

    def _think(self, query: str, style: str) -> thoughts.Draft:
        if not self._speech:
            thought = f"{tags.SPAN_SEPARATOR} ".join(self._cues[self._article :])
            return lambda share: thought
        said = self.speech.asking(query, len(self._queries), is_first=not self._article)
        return thoughts.joined([*self._said, said])

    def read(self, hits: Sequence[interface.Hit]) -> None:
        observation, golds = self.observe(hits), self.task.answers[self._article]
        if answer_metrics.contains(observation, golds):
            if self._speech:
                self._quote(observation, [hit.title for hit in hits], golds)
            else:
                self.note(observation, golds[0], self._cues[self._article])
            self._article += 1
            self.close_part()
        elif not self.open_article(hits):
            self.rejected = "miss"

    def _quote(self, observation: str, titles: Sequence[str], golds: Sequence[str]) -> None:
        quote = quotes.find(observation, titles, golds, self._queries[self._article])
        if quote:
            self._said += [self.speech.quoting(quote), self.speech.answering(golds[0])]
        else:
            self.rejected = "no_evidence"
