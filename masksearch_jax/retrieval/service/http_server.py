"""A minimal HTTP/1.1 server for JSON requests on one event loop, with a limit on everything that a client decides.

Enters: a handler from Request to Response. Connections are kept. A request that cannot be framed (chunked or without a
length, too long, too slow, malformed) is answered with a JSON error, and its connection is closed. One thread serves
all connections, so more connections cost only memory. Left out: TLS, authentication, chunked bodies, pipelining ahead.
"""

import asyncio
import dataclasses
import json
import re
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from masksearch_jax.runtime.types import Json

_HEAD_BYTES = 16 << 10
_BACKLOG = 1024
_DISCARD_BYTES, _DISCARD_SECONDS = 8 << 20, 2.0
_REQUEST_LINE = re.compile(r"([A-Z]+) (\S+) HTTP/(\d)\.(\d)")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+((?:[^ \t\n]++|[ \t]++(?=[^ \t\n]))*+)[ \t]*")
_LENGTH = re.compile(r"[0-9]{1,18}")


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    content: Json  # JSON data
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """What clients may take up.

    connections: connections at a time. body_bytes: bytes of a request's body. read_s: seconds in which a request that
    has begun must arrive, and in which the client must take its answer. idle_s: seconds that a connection may be silent
    between two requests.
    """

    connections: int
    body_bytes: int
    read_s: float
    idle_s: float


class _FramingError(Exception):
    """An error in a request after which the connection cannot go on."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """The server; use `start` and `stop`. stats: connections, refused (over the limit), and answers by status."""

    def __init__(self, handler: Handler, limits: ServerLimits):
        self.stats: Counter[str] = Counter()
        self._handler, self._limits = handler, limits
        self._open: set[asyncio.Task] = set()
        self._idle: set[asyncio.StreamWriter] = set()
        self._stopping = False
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which the system chooses if `port` is 0. Raises OSError."""
        self._listener = await asyncio.start_server(
            self._connection, host, port, limit=_HEAD_BYTES, backlog=_BACKLOG, reuse_address=True
        )
        return self._listener.sockets[0].getsockname()[1]

    async def stop(self, seconds: float) -> int:
        """Accept nothing more, let requests in flight finish for at most `seconds`; return how many did not."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        for writer in self._idle:
            writer.close()
        pending: set[asyncio.Task] = set()
        if self._open:
            _, pending = await asyncio.wait(self._open, timeout=seconds)
        for task in pending:
            task.cancel()
        return len(pending)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # asyncio runs this as a task
        self._open.add(task)
        self.stats["connections"] += 1
        try:
            if len(self._open) > self._limits.connections:
                self.stats["refused"] += 1
                refusal = {"error": f"{self._limits.connections} connections are open, which is the limit"}
                await self._write(writer, Response(503, refusal, (("Retry-After", "1"),)), keep=False)
                await self._discard(reader, writer)
                return
            while not self._stopping and await self._exchange(reader, writer):
                pass
        except (ConnectionError, TimeoutError):
            pass  # the client is gone or does not take its answer
        finally:
            self._open.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read and answer one request; return whether the connection goes on."""
        self._idle.add(writer)
        try:
            async with asyncio.timeout(self._limits.idle_s):
                first = await reader.read(1)
        except TimeoutError:
            return False
        finally:
            self._idle.discard(writer)
        if not first:
            return False
        try:
            async with asyncio.timeout(self._limits.read_s):
                request, keep = await self._read(first, reader, writer)
        except _FramingError as error:
            await self._write(writer, Response(error.status, {"error": str(error)}), keep=False)
            await self._discard(reader, writer)
            return False
        except asyncio.IncompleteReadError:
            return False
        except TimeoutError:
            late = f"the request was not here within {self._limits.read_s:g} s"
            await self._write(writer, Response(408, {"error": late}), keep=False)
            return False
        try:
            response = await self._handler(request)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            response = Response(500, {"error": "the server failed at this request; its log says more"})
        keep = keep and not self._stopping and request.method != "HEAD"  # a client of HEAD expects no body
        await self._write(writer, response, keep)
        return keep

    async def _read(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[Request, bool]:
        """Return the request and whether its client wants the connection kept; raise _FramingError."""
        try:
            head = first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise _FramingError(431, f"the headers are longer than {_HEAD_BYTES} bytes") from None
        line, *lines = head.decode("latin-1").strip("\r\n").split("\r\n")
        found = _REQUEST_LINE.fullmatch(line)
        if not found:
            raise _FramingError(400, "the first line is no request of HTTP")
        method, target, major, minor = found.groups()
        if major != "1":
            raise _FramingError(505, f"HTTP/{major}.{minor} is not spoken here, HTTP/1.1 is")
        headers = _headers(lines)
        if "transfer-encoding" in headers:
            raise _FramingError(411, "Transfer-Encoding is not read here; send the body whole, with Content-Length")
        length = headers.get("content-length")
        if length is None and method == "POST":
            raise _FramingError(411, "Content-Length is missing")
        if length is not None and not _LENGTH.fullmatch(length):
            raise _FramingError(400, "Content-Length is no number of bytes")
        size = int(length or 0)
        if size > self._limits.body_bytes:
            raise _FramingError(413, f"Content-Length is {size}, the limit is {self._limits.body_bytes} bytes")
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(size) if size else b""
        wishes = headers.get("connection", "").lower()
        keep = "close" not in wishes if minor != "0" else "keep-alive" in wishes
        return Request(method, target.partition("?")[0], body), keep

    async def _write(self, writer: asyncio.StreamWriter, response: Response, keep: bool) -> None:
        self.stats[f"status_{response.status}"] += 1
        body = json.dumps(response.content).encode()
        headers = (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "keep-alive" if keep else "close"),
            *response.headers,
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        status = HTTPStatus(response.status)
        writer.write(f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode() + body)
        try:
            async with asyncio.timeout(self._limits.read_s):
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()
            raise

    async def _discard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read on a little: if a socket is closed over unread bytes it resets, and the client never sees its answer."""
        left = _DISCARD_BYTES
        try:
            writer.write_eof()
            async with asyncio.timeout(_DISCARD_SECONDS):
                while left > 0 and (read := await reader.read(1 << 16)):
                    left -= len(read)
        except (OSError, TimeoutError):
            pass


def _headers(lines: list[str]) -> dict[str, str]:
    """Return values by lower-case name; raise _FramingError for a malformed header, and for two different lengths."""
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if not found:
            raise _FramingError(400, "a header line is malformed")
        name, value = found[1].lower(), found[2]
        if name == "content-length" and headers.get(name, value) != value:
            raise _FramingError(400, "Content-Length is given twice")
        headers[name] = value
    return headers
