"""Search faults: episodes over a server that fails in every way, through the client that a run has.

Nothing lost: each episode ends with the answer of its script, and each query is answered by the server or by the
fallback. Nothing forged: each hit belongs to the query it was asked for, and no text of the server acts.
"""

import collections
import concurrent.futures
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.drills import faulty_server, scripted_episodes
from benchmarks.drills.outcomes import Outcome
from masksearch_jax.data import records
from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import answer_documents, search_client, wire
from masksearch_jax.retrieval.service.remote_settings import Remote, RemoteSettings
from masksearch_jax.retrieval.service.transport import Transport

CALLS = 500  # of one drill
_THREADS, _SEARCHES, _HITS, _SHARE = 16, 4, 3, 0.4
# Timeouts that a busy machine keeps to, below faulty_server.LATE_SECONDS; a breaker that seldom opens.
_SETTINGS = RemoteSettings("http://unused", 2.0, 8.0, 1, 20, 0.2, 0.0, "local")


class _Local:
    """The fallback: one hit that says which query it belongs to."""

    fingerprint = "local"
    stats: dict[str, float] = {}

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        return [[Hit(0, 0, "Local", query.text, 1.0)] for query in queries]


def drill(number: int, seed: int, folder: Path) -> Outcome:
    """Play episodes in _THREADS threads until CALLS queries were asked."""
    tokenizers = scripted_episodes.both_tokenizers(folder / "tokenizers")
    passages = folder / "search_passages.array_record"
    if not passages.exists():
        records.write(
            passages, [records.Passage(i, i, f"Karn {i}", f"The city {i} of Karn.", "train") for i in range(9)]
        )
    lock, lost, how = threading.Lock(), [], collections.Counter()
    with faulty_server.FaultyServer(seed * 1000 + number, _SHARE) as server:
        transport = Transport(server.url)
        searcher = search_client.RemoteSearcher(
            Remote(server.url, False, wire.Limits()),
            transport,
            _SETTINGS,
            exclusion.ExcludeByText(PassageStore(passages), "passage", 0.5),
            _Local(),
            sleep=lambda seconds: time.sleep(seconds / 10),  # ten thousand calls in minutes
        )

        def search(query: str) -> list[Hit]:
            (hits,) = searcher.search([Query(query, 3, 3)], _HITS)
            kind = _source_of(query, hits)
            with lock:
                how[kind or "wrong"] += 1
                if kind is None:
                    lost.append(f"{query!r} was answered with {[(hit.title, hit.text[:80]) for hit in hits]}")
            return hits

        def episode(i: int) -> None:
            queries = tuple(f"query of drill {number} in episode {i} turn {turn}" for turn in range(_SEARCHES))
            script = scripted_episodes.Script(queries, f"answer {number} {i}")
            found = scripted_episodes.forged(tokenizers[i % 2], script, search)
            with lock:
                lost.extend(f"episode {i}: {one}" for one in found)

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for done in [pool.submit(episode, i) for i in range(CALLS // _SEARCHES)]:
                done.result()
        transport.close()
    calls = how.total()
    if calls != CALLS // _SEARCHES * _SEARCHES:
        lost.append(f"{calls} calls came back of {CALLS}")
    faults = sum(server.counts.values()) - server.counts["answered"]
    what = f"{how['right']} answered, {how['hostile']} with hostile text, {how['fallback']} by the fallback"
    return Outcome(calls, tuple(lost), f"{what}; {faults} faults in {sum(server.counts.values())} requests")


def _source_of(query: str, hits: Sequence[Hit]) -> str | None:
    """Return where the hits came from: 'right', 'hostile' or 'fallback'; None if they belong to no answer of ours."""
    shown = [(hit.title, hit.text) for hit in hits]
    if shown == [("Local", query)]:
        return "fallback"
    if shown and set(shown) <= set(faulty_server.documents(query, 64)):
        return "right"
    sent = faulty_server.hostile_documents(query, 64)
    cleaned = {_as_read(title, text) for title, text in sent}
    return "hostile" if set(shown) <= cleaned else None


def _as_read(title: str, text: str) -> tuple[str, str] | None:
    """Return how the client reads a document of the server."""
    found = answer_documents.read_document({"contents": f'"{title}"\n{text}'}, ours=False)
    return found and (found.title, found.text)
