"""One HTTP exchange with a server (httpx), with one deadline for all of it.

Enters: method, path, body, seconds. Leaves: status and body. A timeout of httpx starts anew with each packet, so a
server that sends drop by drop could hold a thread for ever. So exchanges run on an event loop, in a thread of its own,
where asyncio ends them at their deadline: name resolution, connecting and the last byte included.

HTTP/1.1 does not say which request an answer belongs to. If a server sends more than its answer, the rest would be read
as the answer to the next request of the same connection. So only connections to servers that are known to answer once
are kept. Left out: retries (search_client.py), redirects, proxies.
"""

import asyncio
import dataclasses
import functools
import threading
import urllib.parse
from collections.abc import Callable

_MOST_BYTES = 64 << 20
_KEPT_SECONDS = 4.0  # uvicorn, under Search-R1's server too, closes a connection after 5 seconds of silence
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class TransportError(ConnectionError):
    """No answer: refused, cut off, too late, too long or not HTTP."""


@dataclasses.dataclass(frozen=True)
class Reply:
    status: int
    body: bytes


class Transport:
    """Connections to one server. Thread-safe."""

    def __init__(self, url: str, keeps: bool = False):
        """url: http(s)://host[:port][/path]; its path goes before every other. keeps: keep connections between
        requests, as many as threads asked at once.

        Raises ValueError for anything else, and if httpx is not installed.
        """
        try:
            import httpx2
        except ImportError:
            raise ValueError(
                "search.url needs httpx2: pip install -c launch/constraints.txt -e '.[service]', or set search.url=''"
            ) from None
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == -1:
            raise ValueError(f"search.url={url!r} has to be http://host:port or https://host:port, or with a path")
        self._url, self._keeps, self._httpx = url.rstrip("/"), keeps, httpx2
        self._client: httpx2.AsyncClient | None = None  # lives on the loop

    def exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> Reply:
        """Return the answer, whatever its status; raise TransportError if there is none within `seconds`."""
        asking = self._exchange(method, self._url + path, body, seconds)
        return asyncio.run_coroutine_threadsafe(asking, _loop()).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), _loop()).result()

    async def _exchange(self, method: str, url: str, body: bytes | None, seconds: float) -> Reply:
        if self._client is None:
            self._client = self._httpx.AsyncClient(
                headers=_HEADERS if self._keeps else _HEADERS | {"Connection": "close"},
                timeout=None,
                trust_env=False,
                verify=url.startswith("https:"),  # reading the certificates takes a while
                limits=self._httpx.Limits(keepalive_expiry=_KEPT_SECONDS),
            )
        try:
            async with asyncio.timeout(seconds):
                return await self._on_any_connection(method, url, body)
        except TimeoutError as error:
            raise TransportError(f"no whole answer to {method} {url} in time") from error
        except TransportError:
            raise
        except (self._httpx.HTTPError, self._httpx.InvalidURL, OSError, ValueError) as error:
            cause = _first_cause(error)
            raise TransportError(f"{type(cause).__name__}: {cause}") from error

    async def _on_any_connection(self, method: str, url: str, body: bytes | None) -> Reply:
        """Ask until a connection answers or a new one fails.

        That the server closed a kept one between two requests is no failure.
        """
        while True:
            happened: set[str] = set()

            async def trace(event: str, info: dict, happened=happened) -> None:
                happened.add(event)

            try:
                return await self._once(method, url, body, trace)
            except (self._httpx.NetworkError, self._httpx.RemoteProtocolError):
                if {"connection.connect_tcp.started", "http11.receive_response_headers.complete"} & happened:
                    raise

    async def _once(self, method: str, url: str, body: bytes | None, trace: Callable) -> Reply:
        if self._client is None:
            raise TransportError("the client was closed")
        found = bytearray()
        async with self._client.stream(method, url, content=body, extensions={"trace": trace}) as response:
            async for part in response.aiter_bytes():
                found += part
                if len(found) > _MOST_BYTES:
                    raise TransportError(f"the answer has over {_MOST_BYTES} bytes")
        return Reply(response.status_code, bytes(found))

    async def _close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _first_cause(error: BaseException) -> BaseException:
    """Return the error that the others wrap: httpx says "All connection attempts failed", its cause says why."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process's exchanges, which runs until the process ends."""
    with _starting:  # threads that ask first at the same time would start a loop each
        return _started_loop()


@functools.cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="search transport", daemon=True).start()
    return loop
