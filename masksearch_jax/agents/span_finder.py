"""Finds the salient spans of a passage with a language model, as the paper does (section 2.1).

Enters: passages. Leaves: (start, end, kind) of spans that stand in the passage word for word. Other spans are dropped
and counted, because a model that paraphrases must not put words into a passage. A passage whose reply does not have the
right form, or is refused, has no spans and is counted. The client caches replies, so a preparation that starts again
pays for nothing twice. Left out: which spans overlap or can be read off the rest of their passage
(prep/spans/candidates.py, for both finders alike).
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

from masksearch_jax.llm import structured
from masksearch_jax.llm.chat_types import Message, RequestError, Sampling
from masksearch_jax.llm.client import Client

Item = TypeVar("Item")

_PROMPT = """\
You mark the salient spans of an encyclopedia passage: what a reader would have to look up if it were blotted out. \
Kinds: "name" (people, places, organisations, works), "date", "number" (with its unit), "category" (what kind of thing \
something is: a profession, a genus, a style), "rare" (a specific term). Copy each span from the passage letter for \
letter, as short as its meaning allows, at most 8 words. Leave out the subject of the article and what the rest of the \
passage says again."""


@dataclasses.dataclass(frozen=True)
class Marked:
    text: str
    kind: Literal["name", "date", "number", "category", "rare"]


@dataclasses.dataclass(frozen=True)
class Reply:
    spans: list[Marked]


class SpanFinder:
    """A finder that asks a language model. Thread-safe. `stats` counts since the finder was made."""

    def __init__(self, client: Client, sampling: Sampling, attempts: int = 3):
        self._client, self._sampling, self._attempts = client, sampling, attempts
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()

    @property
    def stats(self) -> dict[str, float]:
        """Counts of found and not_verbatim (dropped) spans, failed passages (no usable reply), then the client's."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("found", "not_verbatim", "failed")}
        return counts | self._client.stats

    def __call__(self, passage: str, title: str) -> list[tuple[int, int, str]]:
        """Return (start, end, kind) in characters, in the order of the reply; spans may overlap.

        Raises UnavailableError, AccessError and BudgetSpentError, which concern all passages.
        """
        try:
            reply = self.ask(passage, title)
        except (structured.ReplyError, RequestError):
            self._count(failed=1)
            return []
        found: list[tuple[int, int, str]] = []
        taken: set[int] = set()
        for marked in reply.spans:
            place = _place(passage, marked.text.strip(), taken)
            if place >= 0:
                taken.add(place)
                found.append((place, place + len(marked.text.strip()), marked.kind))
        self._count(found=len(found), not_verbatim=len(reply.spans) - len(found))
        return found

    def ask(self, passage: str, title: str) -> Reply:
        """Return the model's reply, from the cache if it was asked before."""
        asked = f"Article: {title}\nPassage:\n{passage}\n\nReply: {structured.shape(Reply)}"
        messages = [Message("system", _PROMPT), Message("user", asked)]
        return structured.ask(self._client, messages, Reply, self._sampling, self._attempts)

    def ahead(self, items: Iterable[Item], asked_of: Callable[[Item], tuple[str, str]]) -> Iterator[Item]:
        """Yield the items in order, each as soon as its reply is in the cache; several are asked for at a time.

        asked_of: item -> (passage, title). Raises what a call would raise.
        """
        items, workers = iter(items), self._client.settings.concurrency
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:

            def submitted(count: int) -> Iterator[tuple[Item, concurrent.futures.Future]]:
                return ((item, pool.submit(self._warm, *asked_of(item))) for item in itertools.islice(items, count))

            window = collections.deque(submitted(2 * workers))
            try:
                while window:
                    item, warm = window.popleft()
                    warm.result()
                    window.extend(submitted(1))
                    yield item
            finally:
                for _, warm in window:
                    warm.cancel()

    def _warm(self, passage: str, title: str) -> None:
        try:
            self.ask(passage, title)
        except (structured.ReplyError, RequestError):
            pass  # the call that follows counts it

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)


def _place(passage: str, text: str, taken: set[int]) -> int:
    """Return the first place that is not in `taken` and where `text` stands as whole words, -1 if there is none."""
    place = passage.find(text) if text else -1
    while place >= 0:
        before, after = passage[max(place - 1, 0) : place], passage[place + len(text) :][:1]
        inside = (before.isalnum() and text[0].isalnum()) or (after.isalnum() and text[-1].isalnum())
        if not inside and place not in taken:
            return place
        place = passage.find(text, place + 1)
    return -1
