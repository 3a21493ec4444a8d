"""Read what a tool of the user's own answers to one call, as documents for an observation.

An answer is a text, a document, or a list of either, best first. A document is an object with `text` (or `contents`)
and, if there is one, `title`; a `score` is kept. Texts are cleaned as those of a search server
(service/answer_documents.py). Left out: calling the tool (guarded_tool.py).
"""

from masksearch_jax.retrieval.service.answer_documents import Document, clean, read_document
from masksearch_jax.runtime.types import Json


class ToolError(Exception):
    """A call that failed: the tool raised, was late, or gave something that is no answer."""


def read_answer(answer: Json, most: int) -> list[Document]:
    """Return at most `most` documents of an answer; empty texts are left out.

    Raises ToolError that says what the answer is if it is none.
    """
    entries = [answer] if isinstance(answer, (str, dict)) else answer
    if not isinstance(entries, (list, tuple)):
        raise ToolError(f"it answered {_shown(answer)}; a text, a document or a list of them is needed")
    found = []
    for entry in entries:
        one = _text(entry) if isinstance(entry, str) else read_document(entry, ours=False)
        if one is None:
            raise ToolError(
                f"it answered a list with {_shown(entry)}; a document needs a text, and a number as its score"
            )
        if one.text.strip() or one.title.strip():
            found.append(one)
    return found[:most]


def _text(text: str) -> Document:
    return Document("", clean(text), 0.0, titled=False)


def _shown(value: Json) -> str:
    return f"{type(value).__name__} {value!r:.200}"
