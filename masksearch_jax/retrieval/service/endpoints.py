"""The search service: which path does what, over the indices of a workdir.

Enters: W/data, the names of its indices, requests. Leaves: answers. POST /retrieve searches (wire.py). GET /health says
that the process is alive; GET /ready says that the indices are loaded and which one this is (503 before); GET /stats
says what was asked and how long it took. Each path may begin with the name of an index, /train/retrieve; without it the
first index is meant. A slash at the end of a path makes no difference. Exclusion is left to the client, because a
server does not know tasks. Left out: sockets (http_server.py), gathering queries (query_batching.py).
"""

import asyncio
import concurrent.futures
import dataclasses
import functools
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from masksearch_jax.retrieval.index import index_store
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.service.http_server import json_response
from masksearch_jax.retrieval.service.latency_histogram import Latencies
from masksearch_jax.retrieval.service.query_batching import Batcher, FullError
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.runtime.types import JsonObject

T = TypeVar("T")

_SLASHES = re.compile("/+")
_LATER = {"Retry-After": "1"}
_LOADING = json_response(503, {"status": "loading", "error": "the index is not loaded yet"}, _LATER)
_METHODS = {wire.PATH: "POST", "/health": "GET", "/ready": "GET", "/stats": "GET"}


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """The settings of a service.

    indices: names under W/data/index; the first is also served without its name. k: passages per query where a request
    does not say. threads, batch, wait_ms, pending: see query_batching.Batcher.
    """

    indices: tuple[str, ...]
    k: int
    limits: wire.Limits
    threads: int
    batch: int
    wait_ms: float
    pending: int

    def __post_init__(self):
        if not self.indices:
            raise ValueError("indices is empty; name at least one of W/data/index")
        for name, least in (("threads", 1), ("batch", 1), ("wait_ms", 0), ("pending", self.limits.queries)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 1 <= self.k <= self.limits.k:
            raise ValueError(f"k is {self.k}, must be 1 to limits.k = {self.limits.k}")


@dataclasses.dataclass
class _Served:
    """A loaded index."""

    tool: SearchTool
    batcher: Batcher
    fingerprint: str
    passages_sha256: str
    latencies: Latencies


class Service:
    """The service as an ASGI application on one event loop; until `load` is done, requests are told to wait."""

    def __init__(self, workdir: Path, settings: ServiceSettings, server_stats: Callable[[], dict[str, int]]):
        """server_stats: counts of the HTTP server, for /stats."""
        self._workdir, self._settings, self._server_stats = workdir, settings, server_stats
        self._pool = concurrent.futures.ThreadPoolExecutor(settings.threads, thread_name_prefix="search")
        self._served: dict[str, _Served] = {}
        self._gatherers: list[asyncio.Task] = []  # kept, because a loop holds its tasks weakly
        handlers = {404: _not_found, 405: _wrong_method, ClientDisconnect: _gone, Exception: _failed}
        # Each handler takes the kind of error that it is registered for.
        self._app = Starlette(routes=self._routes(), exception_handlers=handlers)  # type: ignore[arg-type]

    async def load(self) -> None:
        """Open every index; raise FileNotFoundError or ValueError that names the file and the next command."""
        opened = await _in_daemon_thread(self._open)
        one = self._settings
        for name, (tool, contents) in opened.items():
            batcher = Batcher(
                tool, self._pool, threads=one.threads, batch=one.batch, wait=one.wait_ms / 1e3, pending=one.pending
            )
            self._gatherers.append(asyncio.create_task(batcher.run()))
            identity = contents["fingerprint"], contents["passages_sha256"]
            self._served[name] = _Served(tool, batcher, *identity, Latencies())

    def _open(self) -> dict[str, tuple[SearchTool, JsonObject]]:
        data = self._workdir / "data"
        try:
            store, opened = PassageStore(data / "passages.array_record"), {}
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} --workdir={self._workdir}") from None
        for name in self._settings.indices:
            tool = SearchTool.load(data / "index" / name, store, "none")
            opened[name] = tool, index_store.read_index_file(data / "index" / name, only=())
        return opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        # Some clients end an address with a slash, or put one before a path that already has one.
        scope["path"] = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
        await self._app(scope, receive, send)

    def _routes(self) -> list[Route]:
        names = {"": self._settings.indices[0]} | {f"/{name}": name for name in self._settings.indices}
        answers = {wire.PATH: self._retrieve, "/ready": self._ready, "/stats": self._stats, "/health": _health}
        return [
            Route(prefix + path, functools.partial(answer, name), methods=[_METHODS[path]])
            for path, answer in answers.items()
            for prefix, name in names.items()
        ]

    async def _retrieve(self, name: str, request: Request) -> Response:
        served = self._served.get(name)
        if served is None:
            return _LOADING
        began = time.perf_counter()
        try:
            asked = wire.read_request(await request.body(), self._settings.limits, self._settings.k)
            found = await served.batcher.search(asked.texts, asked.k)
        except wire.RequestError as error:
            return json_response(error.status, {"error": str(error)})
        except FullError as error:
            return json_response(503, {"error": str(error)}, _LATER)
        served.latencies.add(time.perf_counter() - began)
        return json_response(200, wire.response(found, asked.scores, served.fingerprint))

    async def _ready(self, name: str, request: Request) -> Response:
        served = self._served.get(name)
        if served is None:
            return _LOADING
        said = {
            "status": "ready",
            "index": name,
            "passages": len(served.tool),
            "fingerprint": served.fingerprint,
            "passages_sha256": served.passages_sha256,
            "limits": dataclasses.asdict(self._settings.limits),
        }
        return json_response(200, said)

    async def _stats(self, name: str, request: Request) -> Response:
        served = self._served.get(name)
        if served is None:
            return _LOADING
        said = {
            "server": self._server_stats(),
            "batching": dict(served.batcher.stats),
            "search": served.tool.stats,
            "retrieve": served.latencies.summary(),
        }
        return json_response(200, said)


async def _health(name: str, request: Request) -> Response:
    return json_response(200, {"status": "alive"})


async def _not_found(request: Request, error: HTTPException) -> Response:
    return json_response(404, {"error": f"{request.url.path[:100]} is not served; {', '.join(_METHODS)} are"})


async def _wrong_method(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    allowed = _METHODS["/" + path.rpartition("/")[2]]
    return json_response(405, {"error": f"{path} takes {allowed}, not {request.method}"}, {"Allow": allowed})


async def _failed(request: Request, error: Exception) -> Response:
    return json_response(500, {"error": "the server failed at this request; its log says more"})


async def _gone(request: Request, error: ClientDisconnect) -> None:
    """Answer nothing to a client that is gone."""


async def _in_daemon_thread(call: Callable[[], T]) -> T:
    """Run `call` in a daemon thread and return its result.

    The end of the process does not wait for such a thread, and loading a large index takes minutes.
    """
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(method: Callable[..., None], value: object) -> None:
        if not future.done():
            method(value)

    def work() -> None:
        outcome: tuple[Callable[..., None], object]
        try:
            outcome = future.set_result, call()
        except Exception as error:
            outcome = future.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:
            pass  # the loop is closed: the process is ending

    threading.Thread(target=work, name="load", daemon=True).start()
    return await future
