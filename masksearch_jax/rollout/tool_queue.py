"""Searches that run on host threads and are delivered to the episodes at a fixed engine step.

A search submitted at engine step t is delivered at step t + `search_steps` and never earlier. If it is late, the caller
waits. So thread timing changes how long a run takes, and nothing else.
"""

import concurrent.futures
import dataclasses
from collections.abc import Sequence

from masksearch_jax.retrieval import interface

Owner = tuple[int, int]  # slot and request index: when a search arrives, its slot may hold another request


@dataclasses.dataclass
class _Flight:
    due: int
    owners: list[Owner]
    future: concurrent.futures.Future[list[list[interface.Hit]]]


class ToolQueue:
    """A bounded pool of threads around a searcher. It is a context manager; leaving it waits for the threads."""

    def __init__(self, searcher: interface.Searcher, hits: int, delay: int, batch: int, threads: int):
        self._searcher, self._hits, self._delay, self._batch = searcher, hits, delay, batch
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._flights: list[_Flight] = []
        self.searches = 0

    def __enter__(self) -> "ToolQueue":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def out(self) -> int:
        """The number of calls that the searcher has not answered yet."""
        return sum(not flight.future.done() for flight in self._flights)

    def submit(self, engine_step: int, owners: Sequence[Owner], queries: Sequence[interface.Query]) -> None:
        """Start the searches of one engine step, `batch` queries per call."""
        for start in range(0, len(queries), self._batch):
            part = slice(start, start + self._batch)
            future = self._pool.submit(self._searcher.search, list(queries[part]), self._hits)
            self._flights.append(_Flight(engine_step + self._delay, list(owners[part]), future))
        self.searches += len(queries)

    def collect(self, engine_step: int) -> list[tuple[Owner, list[interface.Hit]]]:
        """Return (owner, hits) of every search due by `engine_step`, in the order of submission.

        Waits for late searches. Raises what the searcher raised, and ValueError if the number of results differs from
        that of the queries.
        """
        due = [flight for flight in self._flights if flight.due <= engine_step]
        self._flights = [flight for flight in self._flights if flight.due > engine_step]
        found: list[tuple[Owner, list[interface.Hit]]] = []
        for flight in due:
            results = flight.future.result()
            if len(results) != len(flight.owners):
                name = type(self._searcher).__name__
                raise ValueError(f"{name}.search returned {len(results)} results for {len(flight.owners)} queries")
            found.extend(zip(flight.owners, results, strict=True))
        return found
