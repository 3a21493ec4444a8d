"""Put queries into requests: within the limits of a server, and smaller where it still refuses them."""

import dataclasses
import json
from collections.abc import Iterator, Sequence

from masksearch_jax.retrieval.service import wire

_QUERIES = 256  # most queries of a request, even if the server takes more: it has to answer within timeout_s
_SHORTEST = 64  # the shortest that a refused query is cut to, in characters


@dataclasses.dataclass(frozen=True)
class Form:
    """One request. fetch: documents for each text. chars: length to which each text is cut."""

    texts: list[str]
    fetch: int
    chars: int = 1 << 62

    @property
    def queries(self) -> list[str]:
        return [text[: self.chars] for text in self.texts]

    @property
    def is_cut(self) -> bool:
        return any(len(text) > self.chars for text in self.texts)


def forms_within(limits: wire.Limits, texts: Sequence[str], fetch: int) -> Iterator[Form]:
    """Yield requests that keep to the limits and hold the texts, in order."""
    part: list[str] = []
    size = 0
    room = limits.body_bytes - len(wire.request([], limits.k))
    for text in texts:
        more = len(json.dumps(text)) + 2
        if part and (len(part) == min(limits.queries, _QUERIES) or size + more > room):
            yield Form(part, fetch)
            part, size = [], 0
        part.append(text)
        size += more
    if part:
        yield Form(part, fetch)


def smaller_forms(form: Form, k: int) -> list[Form]:
    """Return the requests to send after a server refused `form`; empty if nothing smaller is left.

    Several queries are halved, so that one refused query does not take the others along. A single query first asks for
    k documents, then for half of its text.
    """
    if len(form.texts) > 1:
        half = len(form.texts) // 2
        return [dataclasses.replace(form, texts=texts) for texts in (form.texts[:half], form.texts[half:])]
    if form.fetch > k:
        return [dataclasses.replace(form, fetch=k)]
    chars = min(form.chars, len(form.texts[0]))
    return [dataclasses.replace(form, chars=max(chars // 2, _SHORTEST))] if chars > _SHORTEST else []
