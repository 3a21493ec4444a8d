"""Search over HTTP: an `interface.Searcher` over any server of Search-R1's `/retrieve`, ours or another.

Enters: `config.search` with a URL, the name of an index, the local passages. Leaves: hits from the server or, where it
does not answer, from the fallback. Left out: the server (serve_search.py).

Order of work: query cache, request (with retries, behind a circuit breaker), then exclusion. Exclusion is by passage id
if the server holds exactly the passages of the local index, else by text (exclusion.py). If it leaves too few hits, the
server is asked again, for several times as many or for k plus all that is known to be excluded, until it has no more or
its limit is reached. An excluded passage is never returned; where the limit is in the way, fewer than k hits are.

A request that a server refuses is split into smaller ones (request_forms.py). A search has failed if the server refuses
its query in any form, if the answer is not valid, or if it comes from another index than when the run began. The
fallback then answers.

A run that a server answered in full repeats exactly, as far as the server repeats itself. A run in which a fallback
answered does not, because when a server fails depends on time. `stats` counts the queries that a fallback answered.
"""

import collections
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.bounded_cache import text_bytes
from masksearch_jax.retrieval.index import index_store
from masksearch_jax.retrieval.interface import Hit, Query, Searcher
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.query_cache import QueryCache
from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.service.answer_documents import Document
from masksearch_jax.retrieval.service.guarded_calls import GuardedCalls
from masksearch_jax.retrieval.service.latency_histogram import Latencies
from masksearch_jax.retrieval.service.remote_settings import Remote, RemoteSettings
from masksearch_jax.retrieval.service.request_forms import Form, forms_within, smaller_forms
from masksearch_jax.retrieval.service.transport import Transport, TransportError

_OVERFETCH = 16
_WIDER = 4  # times as many are asked for where exclusion left too few
_REFUSED = 3  # after so many queries refused in any form, and none answered, the others are not asked
# HTTP statuses for what is over a limit, or wrong with one query: fewer or shorter queries may be answered.
_REFUSALS = (400, 413, 414, 422, 431)
_CACHED_BYTES = 256 << 20  # of queries and documents: some 20,000 queries with 19 documents of 500 characters
_DOCUMENT_BYTES = 200  # of a document beside its texts


class SearchUnavailableError(ConnectionError):
    """The server did not answer and `search.fallback` is 'none'."""


class RemoteSearcher:
    """An `interface.Searcher` over a server. Thread-safe. Use `connect`."""

    def __init__(
        self,
        remote: Remote,
        transport: Transport,
        settings: RemoteSettings,
        excluded: exclusion.ExcludeById | exclusion.ExcludeByText,
        fallback: Searcher | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """excluded: an ExcludeById only if the server's passage ids are those of its lists.

        fallback: None raises SearchUnavailableError instead.
        """
        self.exclusion = excluded.mode
        self.fingerprint = _fingerprint(remote, excluded)
        # A server that refuses a request is alive, and would refuse it again.
        self._calls = GuardedCalls(settings, (TransportError, wire.ResponseError), (wire.RequestError,), clock, sleep)
        self.breaker = self._calls.breaker
        self._remote, self._transport, self._clock = remote, transport, clock
        self._excluded, self._fallback = excluded, fallback
        self._cache: QueryCache[list[Document]] = QueryCache(_CACHED_BYTES, bytes_of)
        self._lock = threading.Lock()  # guards the cache, the counts and the latencies
        self._counts: dict[str, float] = collections.defaultdict(int)
        self._latencies = Latencies()

    @property
    def is_ours(self) -> bool:
        """True if passage ids of hits are those of the local passages."""
        return self._remote.ours

    @property
    def stats(self) -> dict[str, float]:
        """Return counts since the start, and quantiles of the time that a call of `search` took.

        The counts: queries, cache_hits, empty, refetches (asked again after exclusion), fallbacks (queries that the
        fallback answered), requests, retries, failures (requests without an answer), refusals (requests that the server
        refused), breaker_openings, seconds.
        """
        names = ("queries", "cache_hits", "empty", "refetches", "fallbacks", "seconds")
        calls = self._calls.stats
        with self._lock:
            return {name: self._counts[name] for name in names} | calls | self._latencies.summary()

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Return at most k hits for each query, best first.

        Raises ValueError for a k below 1 or beyond the server's limit, and SearchUnavailableError if there is neither
        an answer nor a fallback.
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
        return [one for one in hits if one is not None]  # all of them

    def _keep(
        self, query: Query, text: str, found: dict[str, list[Document]], k: int, fetch: int, started: float
    ) -> list[Hit] | None:
        """Return the first k documents that the task may see; None if the server did not answer."""
        if text == "":
            return []
        if text not in found:
            return None
        kept = self._allowed(query, found[text])
        needed = 0
        if len(kept) < k and isinstance(self._excluded, exclusion.ExcludeById):
            needed = k + len(self._excluded.rows(query))
        count = len(found[text])
        while len(kept) < k and count == fetch < self._remote.limits.k:
            fetch = min(max(_WIDER * fetch, needed), self._remote.limits.k)
            self._count("refetches")
            wider = self._find([text], fetch, k, started)
            if text not in wider:
                return None
            count = len(wider[text])
            kept = max(kept, self._allowed(query, wider[text]), key=len)  # if more were refused, fewer come
        return [Hit(one.passage_id, one.article_id, one.title, one.text, one.score) for one in kept[:k]]

    def _allowed(self, query: Query, documents: Sequence[Document]) -> list[Document]:
        """Return the documents that the task may see, each once."""
        distinct: dict[tuple, Document] = {}
        for one in documents:
            distinct.setdefault((one.passage_id, one.title, one.text), one)
        if isinstance(self._excluded, exclusion.ExcludeByText):
            allows = self._excluded.allows
            return [one for one in distinct.values() if allows(query, one.title, one.text, one.titled)]
        hidden = set(self._excluded.ids[self._excluded.rows(query)].tolist())
        return [one for one in distinct.values() if one.passage_id not in hidden]

    def _find(self, texts: Sequence[str], fetch: int, k: int, started: float) -> dict[str, list[Document]]:
        """Return the documents of each text that the cache or the server answered."""
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
        """Return (documents of each text that the server answered, whether it is worth while to go on asking it)."""
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
                fetch = form.fetch  # if it is smaller now, more was too much for this server
        return found, True

    def _ask(self, texts: Sequence[str], fetch: int, started: float) -> list[list[Document]] | None:
        """Return the server's answer; None after the last retry, after the deadline, or behind the open breaker.

        Raises wire.RequestError if the server is alive and refuses the request.
        """
        body, count = wire.request(texts, fetch), len(texts)
        return self._calls.ask(lambda seconds: self._exchange(body, count, fetch, seconds), body, started)

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

    def _fall_back(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        if self._fallback is None:
            raise SearchUnavailableError(
                f"{self._remote.url} does not answer (breaker {self.breaker.state}; last: {self._calls.last_error}); "
                "see to it, then start this line again, which goes on; or set search.fallback to 'local' or 'empty'"
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
    """Return the searcher over `settings.url` for the local index `index`, once the server is ready.

    directory: the folder of that index; its lists exclude by id if the server holds the same passages. local: opens the
    searcher over that folder, for the fallback 'local'. Raises ValueError for a server of another index and
    TransportError for one that is not ready within `settings.ready_s`.
    """
    url = settings.url_of(index)
    transport = Transport(url)
    remote = Remote.find(url, index, transport, settings.ready_s)
    if remote.ours:  # our service answers each request once
        transport.close()
        transport = Transport(url, keeps=True)
    if (directory / index_store.INDEX_FILE).exists():
        contents = index_store.read_index_file(directory, only=(index_store.ROWS, index_store.NEAR_DUPLICATES))
    else:
        contents = {"passages_sha256": None, "settings": {"near_duplicate": 0.5}}
    excluded: exclusion.ExcludeById | exclusion.ExcludeByText
    if remote.ours and remote.passages_sha256 == contents["passages_sha256"]:
        excluded = exclusion.ExcludeById.load(directory, mode)
    else:
        remote = dataclasses.replace(remote, ours=False)  # its passage ids are not ours
        excluded = exclusion.ExcludeByText(store, mode, contents["settings"]["near_duplicate"])
    fallback = {"local": local, "empty": NoHits, "none": lambda: None}[settings.fallback]()
    return RemoteSearcher(remote, transport, settings, excluded, fallback)


def bytes_of(documents: Sequence[Document]) -> int:
    """Return the bytes that an answer takes in memory, for a bounded cache."""
    return sum(text_bytes(one.title, one.text) + _DOCUMENT_BYTES for one in documents)


def _fingerprint(remote: Remote, excluded: exclusion.ExcludeById | exclusion.ExcludeByText) -> str:
    """Return a hash of the index and the exclusion.

    An index of ours may move to another address; of another server nothing but the address is known.
    """
    identity = ["remote", remote.fingerprint or remote.url, type(excluded).__name__, excluded.mode]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
