"""Spans of prompts that show the title of their article (tasks.titles): what the title states is no candidate.

'Final Exam (1981 film)' before a passage gives a masked 1981 away.
"""

from masksearch_jax.prep.spans import Span, SpanFinder
from masksearch_jax.text import answers


def without_title(finder: SpanFinder) -> SpanFinder:
    """Return the finder without the spans whose words stand in the title, as answers are compared."""

    def found(passage_text: str, title: str, *others: object) -> list[Span]:
        return [
            span
            for span in finder(passage_text, title, *others)
            if not answers.contains(title, [passage_text[span.start : span.end]])
        ]

    return found
