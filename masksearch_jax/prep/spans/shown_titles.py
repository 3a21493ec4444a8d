"""Spans for prompts that show the title of their article (tasks.titles): what the title states is no candidate.

The title 'Final Exam (1981 film)' before a passage leaks a masked 1981.
"""

from collections.abc import Sequence

from masksearch_jax.prep.spans.candidates import Span, SpanFinder
from masksearch_jax.prep.wiki.wikitext import Anchor
from masksearch_jax.scoring import answer_metrics


def without_title(finder: SpanFinder) -> SpanFinder:
    """Return the finder without the spans whose words occur in the title. Words are compared as answers are."""

    def found(
        passage_text: str,
        title: str,
        anchors: Sequence[Anchor],
        categories: Sequence[str],
        infobox: Sequence[tuple[str, str]],
    ) -> list[Span]:
        return [
            span
            for span in finder(passage_text, title, anchors, categories, infobox)
            if not answer_metrics.contains(title, [passage_text[span.start : span.end]])
        ]

    return found
