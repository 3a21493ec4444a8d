"""What a solver may know of a task: its text and the form of the answer, but no gold answer, title or source."""

import dataclasses

from masksearch_jax.data import records
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text import tags


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task as a solver sees it.

    kind: 'ramp' or 'qa'. text: the masked passage or the question. blanks: how many answers are asked for. form: one of
    scoring.answer_metrics.ANSWER_FORMS. passage_id, article_id: the source, which only the search tool is told (to
    exclude it).
    """

    id: str
    kind: str
    text: str
    blanks: int
    form: str
    passage_id: int
    article_id: int

    @classmethod
    def of(cls, task: records.Task) -> "Problem":
        return cls(task.id, task.kind, task.text, task.masks, task.answer_form, task.passage_id, task.article_id)

    def fault(self, given: list[str]) -> str:
        """Return what is wrong with the form of the given answers, '' if nothing."""
        if len(given) != self.blanks:
            return f"{len(given)} answers, the task asks for {self.blanks}"
        if not all(answer.strip() for answer in given):
            return "an answer is empty"
        if any(tag in answer for answer in given for tag in tags.ALL):
            return "an answer contains a tag"
        if self.form == "spans" and any(tags.SPAN_SEPARATOR in answer for answer in given):
            return f"an answer contains {tags.SPAN_SEPARATOR!r}"
        if answer_metrics.spans_of(self.written(given), self.form, self.text, self.blanks) is None:
            return "the answers do not fit the task"
        return ""

    def written(self, given: list[str]) -> str:
        """Return the answers as a policy writes them into its answer tags."""
        given = [answer.strip() for answer in given]
        if self.form == "spans":
            return f"{tags.SPAN_SEPARATOR} ".join(given)
        if self.form == "whole":
            return given[0]
        first, *rest = self.text.split(tags.MASK)
        return first + "".join(answer + literal for answer, literal in zip(given, rest, strict=True))
