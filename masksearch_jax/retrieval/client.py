"""Search over HTTP: a `interface.Searcher` over any server of Search-R1's `/retrieve`, ours or another.

Enters: `config.search` with a URL, the name of an index, the local passages. Leaves: hits, from the server or, where it
does not answer, from the fallback. Order of work: query cache, request (with retries, behind a circuit breaker), then
exclusion, by passage id where the server holds the very passages of the local index, else by text (exclusion.py); where
it leaves too few, the server is asked again, for several times as many or for all that is known to be excluded and k,
until it has no more or its limit is reached. An excluded passage is never returned; fewer than k are where that limit
is in the way. Left out: the server (serve_search.py).

A request that a server refuses is asked in smaller ones (request_forms.py). A query that it refuses in any form is a
search that failed, as is one whose answer is none, or of another index than when the run began: the fallback answers.

A run that a server answered whole repeats exactly as far as the server does; one in which a fallback answered does not,
because when a server fails depends on time. `stats` counts it.
"""

import collections
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from masksearch_jax.retrieval import exclusion, folder, wire
from masksearch_jax.retrieval.breaker import CircuitBreaker
from masksearch_jax.retrieval.documents import Document
from masksearch_jax.retrieval.interface import Hit, Query, Searcher
from masksearch_jax.retrieval.latency import Latencies
from masksearch_jax.retrieval.passages import PassageStore
from masksearch_jax.retrieval.query_cache import QueryCache
from masksearch_jax.retrieval.remote import Remote, RemoteSettings
from masksearch_jax.retrieval.request_forms import Form, forms_within, smaller_forms
from masksearch_jax.retrieval.transport import Transport, TransportError

_OVERFETCH = 16
_WIDER = 4  # times as many, where exclusion left too few
_REFUSED = 3  # queries that are refused in any form, before any is answered, after which the others are not asked
# What may be over a limit, or wrong with one query: fewer or shorter ones may be answered.
_REFUSALS = (400, 413, 414, 422, 431)
_CACHED_QUERIES = 1 << 16
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds before a retry


class SearchUnavailableError(ConnectionError):
    """The server did not answer and `search.fallback` is 'none'."""


class RemoteSearcher:
    """Implements `interface.Searcher`. Thread-safe. Use `connect`."""

    def __init__(
        self,
        remote: Remote,
        transport: Transport,
        settings: RemoteSettings,
        excluded: exclusion.Listed | exclusion.ByText,
        fallback: Searcher | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """excluded: Listed only where ids of the server are those of the lists. fallback: None raises instead."""
        self.exclusion = excluded.mode
        self.fingerprint = _fingerprint(remote, excluded)
        self.breaker = CircuitBreaker(settings.failures, settings.cooldown_s, clock)
        self._remote, self._transport, self._settings = remote, transport, settings
        self._excluded, self._fallback = excluded, fallback
        self._clock, self._sleep = clock, sleep
        self._cache: QueryCache[list[Document]] = QueryCache(_CACHED_QUERIES)
        self._lock = threading.Lock()  # guards what follows, and the cache
        self._counts = collections.Counter()
        self._latencies = Latencies()
        self._last_error = ""

    @property
    def stats(self) -> dict[str, float]:
        """Counts since the start: queries, cache_hits, empty, refetches (asked once more after exclusion), fallbacks
        (queries that the fallback answered), requests, retries, failures (requests without an answer), refusals
        (requests that the server refused), breaker_openings, seconds; and quantiles of what a call of `search` took."""
        counts = ("queries", "cache_hits", "empty", "refetches", "fallbacks")
        names = (*counts, "requests", "retries", "failures", "refusals")
        with self._lock:
            counts = {name: self._counts[name] for name in (*names, "seconds")}
            return counts | {"breaker_openings": self.breaker.openings} | self._latencies.summary()

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Returns at most k hits for each query, best first.

        Raises ValueError for a k beyond the server's limit, and SearchUnavailableError where there is neither an answer
        nor a fallback.
        """
        if not 1 <= k <= self._remote.limits.k:
            raise ValueError(f"k is {k}, must be 1 to {self._remote.limits.k}, the limit of {self._remote.url}")
        began, started = time.perf_counter(), self._clock()
        texts = [wire.cut_query(query.text.strip(), self._remote.limits.query_chars) for query in queries]
        fetch = min(k + _OVERFETCH, self._remote.limits.k)
        found = self._find(texts, fetch, k, started)
        hits = [self._keep(query, text, found, k, fetch, started) for query, text in zip(queries, texts, strict=True)]
        unanswered = [i for i, one in enumerate(hits) if one is None]
        if unanswered:
            answers = self._fall_back([queries[i] for i in unanswered], k)
            for i, one in zip(unanswered, answers, strict=True):
                hits[i] = one
        with self._lock:
            self._counts["queries"] += len(queries)
            self._counts["empty"] += sum(text == "" for text in texts)
            taken = time.perf_counter() - began
            self._counts["seconds"] += taken
            self._latencies.add(taken)
        return hits

    def _keep(
        self, query: Query, text: str, found: dict[str, list[Document]], k: int, fetch: int, started: float
    ) -> list[Hit] | None:
        """Returns the first k documents that the task may see; None if the server owes them."""
        if text == "":
            return []
        if text not in found:
            return None
        kept = self._allowed(query, found[text])
        listed = isinstance(self._excluded, exclusion.Listed)
        needed = k + len(self._excluded.rows(query)) if listed and len(kept) < k else 0
        count = len(found[text])
        while len(kept) < k and count == fetch < self._remote.limits.k:
            fetch = min(max(_WIDER * fetch, needed), self._remote.limits.k)
            self._count("refetches")
            wider = self._find([text], fetch, k, started)
            if text not in wider:
                return None
            count = len(wider[text])
            kept = max(kept, self._allowed(query, wider[text]), key=len)  # more were refused, so fewer came
        return [Hit(one.passage_id, one.article_id, one.title, one.text, one.score) for one in kept[:k]]

    def _allowed(self, query: Query, documents: Sequence[Document]) -> list[Document]:
        """Returns the documents that the task may see, each once."""
        distinct: dict[tuple, Document] = {}
        for one in documents:
            distinct.setdefault((one.passage_id, one.title, one.text), one)
        if isinstance(self._excluded, exclusion.ByText):
            allows = self._excluded.allows
            return [one for one in distinct.values() if allows(query, one.title, one.text, one.titled)]
        hidden = set(self._excluded.ids[self._excluded.rows(query)].tolist())
        return [one for one in distinct.values() if one.passage_id not in hidden]

    def _find(self, texts: Sequence[str], fetch: int, k: int, started: float) -> dict[str, list[Document]]:
        """Returns the documents of each text that the cache or the server answered."""
        with self._lock:
            found, missing, hits = self._cache.split(texts, fetch)
            self._counts["cache_hits"] += hits
        for form in forms_within(self._remote.limits, missing, fetch):
            new, goes_on = self._ask_in_forms(form, k, started)
            found |= new
            with self._lock:
                self._cache.add(new, fetch)
            if not goes_on:
                break
        return found

    def _ask_in_forms(self, form: Form, k: int, started: float) -> tuple[dict[str, list[Document]], bool]:
        """Returns (the documents of each text that the server answered, whether it is worth while to ask it on)."""
        found: dict[str, list[Document]] = {}
        fetch, forms, refused = form.fetch, [form], 0
        while forms:
            form = forms.pop(0)
            form = dataclasses.replace(form, fetch=min(form.fetch, fetch))
            try:
                answer = self._ask(form.queries, form.fetch, started)
            except wire.RequestError:
                smaller = smaller_forms(form, k)
                forms = smaller + forms
                refused += not smaller
                if refused == _REFUSED and not found:
                    return found, False
                continue
            if answer is None:
                return found, False
            found |= zip(form.texts, answer, strict=True)
            if not form.is_cut:
                fetch = form.fetch  # where it is less now, more was too much for this server
        return found, True

    def _ask(self, texts: Sequence[str], fetch: int, started: float) -> list[list[Document]] | None:
        """Returns the server's answer, or None after the last retry, the deadline, or behind the open breaker.

        Raises wire.RequestError where the server lives and refuses what is asked.
        """
        body = wire.request(texts, fetch)
        for attempt in range(self._settings.retries + 1):
            wait = backoff(body, attempt) if attempt else 0.0
            left = self._settings.deadline_s - (self._clock() - started) - wait
            if left <= 0:
                return None
            if wait:
                self._sleep(wait)
            ticket = self.breaker.admit()
            if ticket is None:
                return None
            self._count("requests")
            if attempt:
                self._count("retries")
            answered = False
            try:
                answer = self._exchange(body, len(texts), fetch, min(left, self._settings.timeout_s))
                answered = True
                return answer
            except wire.RequestError as error:  # it lives, and refuses: so it would again
                answered = True
                self._failed("refusals", error)
                raise
            except (TransportError, wire.ResponseError) as error:
                self._failed("failures", error)
            finally:
                self.breaker.report(ticket, answered)
        return None

    def _exchange(self, body: bytes, count: int, fetch: int, seconds: float) -> list[list[Document]]:
        reply = self._transport.exchange("POST", wire.PATH, body, seconds)
        if reply.status != 200:
            kind = wire.RequestError if reply.status in _REFUSALS else wire.ResponseError
            raise kind(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
        found, fingerprint = wire.read_response(reply.body, count, self._remote.ours, fetch)
        if self._remote.fingerprint and fingerprint != self._remote.fingerprint:
            raise wire.ResponseError(
                f"it has another index than when this run began (fingerprint {fingerprint[:80] or 'none'}, was "
                f"{self._remote.fingerprint}); serve the one it had, or start anew in another --workdir"
            )
        return found

    def _failed(self, name: str, error: Exception) -> None:
        with self._lock:
            self._counts[name] += 1
            self._last_error = str(error)

    def _fall_back(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        if self._fallback is None:
            raise SearchUnavailableError(
                f"{self._remote.url} does not answer (breaker {self.breaker.state}; last: {self._last_error}); see to "
                "it, then start this line again, which goes on; or set search.fallback to 'local' or 'empty'"
            )
        with self._lock:
            self._counts["fallbacks"] += len(queries)
        return self._fallback.search(queries, k)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


class NoHits:
    """The fallback 'empty': a search that finds nothing."""

    fingerprint = "empty"
    stats: dict[str, float] = {}

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        return [[] for _ in queries]


def connect(
    settings: RemoteSettings, index: str, directory: Path, store: PassageStore, mode: str, local: Callable[[], Searcher]
) -> RemoteSearcher:
    """Returns the searcher over `settings.url` for the local index `index`, once the server is ready.

    directory: that index's folder; its lists exclude by id where the server holds the same passages. local: opens the
    searcher over it, for the fallback 'local'. Raises ValueError for a server of another index and TransportError for
    one that is not ready within `settings.ready_s`.
    """
    url = settings.url_of(index)
    transport = Transport(url)
    remote = Remote.find(url, index, transport, settings.ready_s)
    if (directory / folder.INDEX_FILE).exists():
        contents = folder.read_index_file(directory, only=(folder.ROWS, folder.NEAR_DUPLICATES))
    else:
        contents = {"passages_sha256": None, "settings": {"near_duplicate": 0.5}}
    if remote.ours and remote.passages_sha256 == contents["passages_sha256"]:
        excluded = exclusion.Listed.load(directory, mode)
    else:
        remote = dataclasses.replace(remote, ours=False)  # its numbers are not ours
        excluded = exclusion.ByText(store, mode, contents["settings"]["near_duplicate"])
    fallback = {"local": local, "empty": NoHits, "none": lambda: None}[settings.fallback]()
    return RemoteSearcher(remote, transport, settings, excluded, fallback)


def backoff(body: bytes, attempt: int) -> float:
    """Returns the seconds before retry `attempt` (1, 2, ..): doubled each time, less up to a half that the request
    decides, so that clients spread and a run repeats."""
    draw = int.from_bytes(hashlib.blake2b(body, digest_size=8, salt=attempt.to_bytes(8, "little")).digest(), "little")
    return min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT) * (1 - draw / 2**65)


def _fingerprint(remote: Remote, excluded: Any) -> str:
    """An index of ours may move to another address; of another server nothing but the address is known."""
    identity = ["remote", remote.fingerprint or remote.url, type(excluded).__name__, excluded.mode]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
