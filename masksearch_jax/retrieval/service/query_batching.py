"""Gather the queries of concurrent requests into calls of the search tool.

Enters: texts and k of one request, on the event loop. Leaves: its hits. A call takes what waits until it has `batch`
queries or more. If fewer wait, it gives others `wait` seconds to come. While all threads are busy, requests pile up, so
calls grow with the load by themselves. A request of more than `batch` queries is answered in parts of `batch`. No more
of its parts are under way at a time than there are threads, so that other requests get their turn in between. A result
depends on its query alone (tool.py), so gathering changes no result. Left out: HTTP.
"""

import asyncio
import concurrent.futures
import dataclasses
from collections import Counter
from collections.abc import Sequence

from masksearch_jax.retrieval.interface import Hit, Query, Searcher


class FullError(Exception):
    """More queries wait than `pending` allows."""


@dataclasses.dataclass
class _Waiting:
    texts: Sequence[str]
    k: int
    future: asyncio.Future


class Batcher:
    """A queue of queries on one event loop; `run` has to run as its task. stats: requests, queries, calls so far."""

    def __init__(
        self,
        searcher: Searcher,
        pool: concurrent.futures.Executor,
        *,
        threads: int,
        batch: int,
        wait: float,
        pending: int,
    ):
        """threads: calls at a time. batch: queries after which a call waits for no more.

        wait: seconds that a call with fewer queries waits for others. pending: queries that may wait or be searched at
        once.
        """
        self.stats: Counter[str] = Counter()
        self._searcher, self._pool = searcher, pool
        self._batch, self._wait, self._limit = batch, wait, pending
        self._threads, self._free = threads, asyncio.Semaphore(threads)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._pending = 0
        self._calls: set[asyncio.Task] = set()

    async def search(self, texts: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the hits of each text; raise FullError, or what the searcher raised."""
        if self._pending + len(texts) > self._limit:
            raise FullError(f"{self._pending} queries wait, the limit is {self._limit}")
        if not texts:
            return []
        self._pending += len(texts)
        self.stats.update(requests=1, queries=len(texts))
        parts = [texts[start : start + self._batch] for start in range(0, len(texts), self._batch)]
        turn = asyncio.Semaphore(self._threads)
        try:
            found = await asyncio.gather(*(self._part(part, k, turn) for part in parts), return_exceptions=True)
        finally:
            self._pending -= len(texts)
        hits: list[list[Hit]] = []
        for one in found:
            if isinstance(one, BaseException):
                raise one
            hits += one
        return hits

    async def _part(self, texts: Sequence[str], k: int, turn: asyncio.Semaphore) -> list[list[Hit]]:
        async with turn:
            waiting = _Waiting(texts, k, asyncio.get_running_loop().create_future())
            self._queue.put_nowait(waiting)
            return await waiting.future

    async def run(self) -> None:
        """Answer what waits, until cancelled."""
        while True:
            await self._free.acquire()
            gathered = [await self._queue.get()]
            if not self._take(gathered):
                await asyncio.sleep(self._wait)
                self._take(gathered)
            call = asyncio.create_task(self._answer(gathered))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _take(self, gathered: list[_Waiting]) -> bool:
        """Move what waits into `gathered`; return whether the batch is full."""
        count = sum(len(one.texts) for one in gathered)
        while count < self._batch and not self._queue.empty():
            gathered.append(self._queue.get_nowait())
            count += len(gathered[-1].texts)
        return count >= self._batch

    async def _answer(self, gathered: Sequence[_Waiting]) -> None:
        try:
            for k in sorted({one.k for one in gathered}):
                await self._call([one for one in gathered if one.k == k], k)
        finally:
            self._free.release()

    async def _call(self, gathered: Sequence[_Waiting], k: int) -> None:
        queries = [Query(text) for one in gathered for text in one.texts]
        self.stats["calls"] += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, self._searcher.search, queries, k)
        except Exception as error:  # any kind: it goes to those who asked, and the next call may succeed
            for one in gathered:
                if not one.future.done():
                    one.future.set_exception(error)
            return
        start = 0
        for one in gathered:
            if not one.future.done():  # its client may be gone
                one.future.set_result(found[start : start + len(one.texts)])
            start += len(one.texts)
