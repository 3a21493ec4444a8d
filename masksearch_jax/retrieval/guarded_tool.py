"""A tool of the user's own as an `interface.Searcher`: with a deadline, retries, a circuit breaker and a fallback.

Enters: a function that makes one call, such as PythonTool here, or service/http_tool.py and service/mcp_tool.py.
Leaves: hits. A call that raised or was late is tried again, `retries` times within `deadline_s`; after `failures` calls
in a row that failed nothing is called for `cooldown_s`. The fallback answers what the tool did not. Answers are cached
by the query's text. What the task must not see is taken out by its text (exclusion.py), after the cache.
Left out: batches (a tool gets one query at a time, on several threads), where the code comes from (workflows/tools.py).
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence

from masksearch_jax.retrieval.exclusion import ExcludeByText
from masksearch_jax.retrieval.interface import Hit, Query, Searcher
from masksearch_jax.retrieval.query_cache import QueryCache
from masksearch_jax.retrieval.service.answer_documents import Document
from masksearch_jax.retrieval.service.guarded_calls import GuardedCalls
from masksearch_jax.retrieval.service.latency_histogram import Latencies
from masksearch_jax.retrieval.service.search_client import SearchUnavailableError, bytes_of
from masksearch_jax.retrieval.tool_answers import ToolError, read_answer
from masksearch_jax.runtime.types import Json

# (query, number of documents, seconds until it has to be back) -> documents. Raises ToolError.
Call = Callable[[str, int, float], list[Document]]

_OVERFETCH = 16  # documents beyond those wanted, in case some are hidden
_CACHED_BYTES = 64 << 20  # of queries and documents


@dataclasses.dataclass(frozen=True)
class CallSettings:
    """How a tool is called; the settings of `config.search` (configs/common.py). threads: calls at a time."""

    timeout_s: float
    deadline_s: float
    retries: int
    failures: int
    cooldown_s: float
    threads: int


class PythonTool:
    """A function (query, k) -> answer of the user's own. A call that is late is left behind in its thread."""

    def __init__(self, function: Callable[[str, int], Json]):
        self._function = function

    def __call__(self, query: str, k: int, seconds: float) -> list[Document]:
        """Return the documents of one call; raise ToolError if it raises, is late, or gives no answer."""
        future: concurrent.futures.Future[Json] = concurrent.futures.Future()

        def work() -> None:
            try:
                future.set_result(self._function(query, k))
            except BaseException as error:
                future.set_exception(error)

        # A thread of its own: the end of the process does not wait for one that hangs.
        threading.Thread(target=work, name="own tool", daemon=True).start()
        try:
            answer = future.result(seconds)
        except concurrent.futures.TimeoutError:
            raise ToolError(f"no answer within {seconds:.3g} s") from None
        except Exception as error:
            raise ToolError(f"{type(error).__name__}: {error}") from error
        return read_answer(answer, k)


class GuardedTool:
    """An `interface.Searcher` over calls of a tool. Thread-safe."""

    def __init__(
        self,
        name: str,
        identity: str,
        call: Call,
        settings: CallSettings,
        excluded: ExcludeByText | None,
        fallback: Searcher | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """name: of the tool, for messages. identity: changes when its answers change.

        excluded: hides what a task must not see; None hides nothing. fallback: answers where the tool does not; None
        raises SearchUnavailableError instead.
        """
        self.name = name
        mode = excluded.mode if excluded else "none"
        self.fingerprint = hashlib.sha256(json.dumps(["own", name, identity, mode]).encode()).hexdigest()
        self._calls = GuardedCalls(settings, (ToolError,), (), clock, sleep)
        self.breaker = self._calls.breaker
        self._call, self._excluded, self._fallback, self._clock = call, excluded, fallback, clock
        self._more = _OVERFETCH if mode != "none" else 0
        self._pool = concurrent.futures.ThreadPoolExecutor(settings.threads, thread_name_prefix=name)
        self._cache: QueryCache[list[Document]] = QueryCache(_CACHED_BYTES, bytes_of)
        self._lock = threading.Lock()  # guards the cache, the counts and the latencies
        self._counts: dict[str, float] = collections.defaultdict(int)
        self._latencies = Latencies()

    @property
    def stats(self) -> dict[str, float]:
        """Return counts since the start, and quantiles of the time that a call of `search` took.

        The counts: queries, cache_hits, fallbacks (queries that the fallback answered), requests (calls of the tool),
        retries, failures (calls without an answer), breaker_openings, seconds.
        """
        calls = self._calls.stats
        del calls["refusals"]  # a tool refuses nothing
        with self._lock:
            found = {name: self._counts[name] for name in ("queries", "cache_hits", "fallbacks", "seconds")}
            return found | calls | self._latencies.summary()

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Return at most k hits for each query, in the tool's order.

        Raises SearchUnavailableError if there is neither an answer nor a fallback.
        """
        began = time.perf_counter()
        texts, fetch = [query.text.strip() for query in queries], k + self._more
        with self._lock:
            found, missing, hits = self._cache.split(texts, fetch)
            self._counts["cache_hits"] += hits
        asked = zip(missing, self._pool.map(lambda text: self._ask(text, fetch), missing), strict=True)
        new = {text: documents for text, documents in asked if documents is not None}
        with self._lock:
            self._cache.add(new, fetch)
        found |= new
        answers = [
            self._kept(query, found[text], k) if text in found else self._fall_back(query, k) if text else []
            for query, text in zip(queries, texts, strict=True)
        ]
        with self._lock:
            taken = time.perf_counter() - began
            self._counts["queries"] += len(queries)
            self._counts["seconds"] += taken
            self._latencies.add(taken)
        return answers

    def _ask(self, text: str, fetch: int) -> list[Document] | None:
        """Return the tool's documents; None after the last retry, after the deadline, or behind the open breaker."""
        key = text.encode(errors="replace")
        return self._calls.ask(lambda seconds: self._call(text, fetch, seconds), key, self._clock())

    def _kept(self, query: Query, documents: Sequence[Document], k: int) -> list[Hit]:
        """Return the first k documents that the task may see."""
        allowed = [one for one in documents if self._allows(query, one)]
        return [Hit(-1, -1, one.title, one.text, one.score) for one in allowed[:k]]

    def _allows(self, query: Query, one: Document) -> bool:
        return self._excluded is None or self._excluded.allows(query, one.title, one.text, one.titled)

    def _fall_back(self, query: Query, k: int) -> list[Hit]:
        if self._fallback is None:
            raise SearchUnavailableError(
                f"the tool {self.name} does not answer (breaker {self.breaker.state}; last: {self._calls.last_error}); "
                "see to it, then start the same line again, which goes on; or set search.fallback to 'local' or 'empty'"
            )
        with self._lock:
            self._counts["fallbacks"] += 1
        return self._fallback.search([query], k)[0]
