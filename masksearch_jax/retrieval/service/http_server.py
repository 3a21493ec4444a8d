"""The HTTP server of the search service: uvicorn, with a limit on everything that a client decides.

Enters: an ASGI application. uvicorn reads requests with httptools and keeps connections. What it does not limit is
limited here: connections, how many of them one address holds idle or slow (address_limits.py), the head of a request,
its body, the time in which a request arrives and in which an answer is taken. A request over a limit is answered with a
JSON error. Left out: TLS, authentication, chunked bodies.
"""

import asyncio
import contextlib
import functools
import json
import socket
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from masksearch_jax.retrieval.service.address_limits import AddressLimits, Holding, address_of
from masksearch_jax.runtime.types import Json, Setting

_HEAD_BYTES = 16 << 10
_LONG_HEAD = 431, f"the headers are longer than {_HEAD_BYTES} bytes"
_BACKLOG = 1024
# What is read on after a refusal: if a socket is closed over unread bytes it resets, and the client never sees its
# answer.
_DISCARD_BYTES, _DISCARD_SECONDS = 8 << 20, 2.0


@dataclass(frozen=True)
class ServerLimits:
    """What clients may take up.

    connections: connections at a time. body_bytes: bytes of a request's body. read_s: seconds in which a request that
    has begun must arrive, and in which the client must take its answer. idle_s: seconds that a connection may be silent
    between two requests. idle_per_address: connections of one address that may be silent at a time.
    slow_per_address: connections of one address whose request has arrived in part, or whose answer waits to be taken.
    One more ends the connection of that address that has been so for the longest time.
    """

    connections: int
    body_bytes: int
    read_s: float
    idle_s: float
    idle_per_address: int
    slow_per_address: int


class Server:
    """The server; use `start` and `stop`.

    stats: connections, refused (over the limit), ended_idle and ended_slow (over the limits of an address), and answers
    by status.
    """

    def __init__(self, app: ASGIApp, limits: ServerLimits):
        self.stats: Counter[str] = Counter()
        self._addresses: AddressLimits[_Connection] = AddressLimits(limits.idle_per_address, limits.slow_per_address)
        self._config = uvicorn.Config(
            functools.partial(_count_answers, app, self.stats),
            http=functools.partial(_Connection, limits, self.stats, self._addresses),  # type: ignore[arg-type]  # called like a class
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # its warnings name each malformed request
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=limits.idle_s,  # type: ignore[arg-type]  # seconds for call_later
        )
        self._uvicorn = _Uvicorn(self._config)
        self._serving: asyncio.Task | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which the system chooses if `port` is 0. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._serving = asyncio.create_task(self._uvicorn.serve([listener]))
        return listener.getsockname()[1]

    async def stop(self, seconds: float) -> int:
        """Accept nothing more, let requests in flight finish for at most `seconds`; return how many did not."""
        self._config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]  # seconds for wait_for
        self._uvicorn.should_exit = True
        if self._serving is not None:
            await self._serving
        return len(self._uvicorn.server_state.connections)


class _Uvicorn(uvicorn.Server):
    capture_signals = contextlib.nullcontext  # type: ignore[assignment]  # signals belong to the command


class _Coalescing:
    """A transport that sends what is written in one step of the loop at once: uvicorn writes head and body apart."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport, self._loop, self._written = transport, loop, b""
        for name in ("get_extra_info", "is_closing", "pause_reading", "resume_reading", "abort", "set_protocol"):
            setattr(self, name, getattr(transport, name))

    def write(self, data: bytes) -> None:
        if self._written:
            self._written += data
        else:
            self._written = data
            self._loop.call_soon(self.flush)

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send what was written."""
        if self._written:
            written, self._written = self._written, b""
            self._transport.write(written)


class _Connection(HttpToolsProtocol):
    """A connection of uvicorn whose client has to keep to the limits."""

    def __init__(
        self, limits: ServerLimits, stats: Counter[str], addresses: "AddressLimits[_Connection]", **uvicorn_s: Setting
    ):
        super().__init__(**uvicorn_s)
        self._limits, self._stats, self._addresses = limits, stats, addresses
        self._address = ""
        self._in_head = self._in_message = False  # of the request that arrives
        self._head_bytes = self._discarded = 0
        self._refusal: tuple[int, str] | None = None  # status and error
        self._unanswered = 0  # requests whose head was taken and whose answer is not out
        self._deferred = b""  # the answer to a refused request while earlier requests have none
        self._timer: asyncio.TimerHandle | None = None  # of what the client does next
        self._take_timer: asyncio.TimerHandle | None = None  # of the answer that it takes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(_Coalescing(transport, self.loop))  # type: ignore[arg-type]  # has what uvicorn calls
        self._stats["connections"] += 1
        self._address = address_of(self.client[0] if self.client else None)
        if len(self.connections) <= self._limits.connections:
            self._expect(self._limits.idle_s, self.transport.close)
            self._hold()
            return
        self._stats["refused"] += 1
        self._refuse(503, f"{self._limits.connections} connections are open, which is the limit", {"Retry-After": "1"})

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._expect_nothing()
        if self._take_timer is not None:
            self._take_timer.cancel()
        self._addresses.note(self, self._address, None)

    def data_received(self, data: bytes) -> None:
        self._read(data)
        self._hold()

    def _read(self, data: bytes) -> None:
        if self._refusal:
            self._discarded += len(data)
            if self._discarded > _DISCARD_BYTES:
                self.transport.close()
            return
        super().data_received(data)
        if self._refusal:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._refuse(*_LONG_HEAD)
                return
        if self._timer is None:
            if self._in_message:
                self._expect(self._limits.read_s, self._late)
            elif self.cycle.response_complete:  # an empty line, say, which ends uvicorn's own timer
                self._expect(self._limits.idle_s, self.transport.close)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio reads the result, uvicorn has none
        """Return whether the connection stays open: until the answer is out, if the request was whole."""
        if self._deferred:
            return True
        if self.cycle is None or self.cycle.response_complete or self._in_message or self._refusal:
            if isinstance(self.transport, _Coalescing):
                self.transport.flush()  # asyncio closes the transport beneath as soon as this returns
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._head_bytes = 0
        self._expect_nothing()

    def on_headers_complete(self) -> None:
        self._refusal = self._judge_head()
        if self._refusal:
            raise ValueError  # ends the parsing; then comes send_400_response
        super().on_headers_complete()
        self._in_head = False
        self._unanswered += 1

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_message = False
        self._expect_nothing()

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self._deferred and not self._unanswered and not self.transport.is_closing():
            self._send_refusal()
        self._hold()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._take_timer = self.loop.call_later(self._limits.read_s, self.transport.abort)
        self._hold()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None
        self._hold()

    def send_400_response(self, msg: str) -> None:
        """Answer what httptools could not parse. uvicorn calls it while it handles the parser's error."""
        self._refuse(*self._refusal or (400, f"the request is no HTTP/1.1: {sys.exc_info()[1]}"))

    def _judge_head(self) -> tuple[int, str] | None:
        """Return the status and the error for a request of which nothing more is read, None for any other."""
        version, method, limit = self.parser.get_http_version(), self.parser.get_method(), self._limits.body_bytes
        if sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url) > _HEAD_BYTES:
            return _LONG_HEAD
        if not version.startswith("1."):
            return 505, f"HTTP/{version} is not spoken here, HTTP/1.1 is"
        headers = dict(self.headers)  # httptools takes no second Content-Length
        if b"transfer-encoding" in headers:
            return 411, "Transfer-Encoding is not read here; send the body whole, with Content-Length"
        length = headers.get(b"content-length")
        if length is None and method == b"POST":
            return 411, "Content-Length is missing"
        size = int(length or 0)
        if size > limit:
            return 413, f"Content-Length is {size}, the limit is {limit} bytes"
        return None

    def _hold(self) -> None:
        """Note whether this connection is idle or slow, and end one of the same address if there are too many."""
        waiting = self.cycle is not None and not self.cycle.response_complete and not self._in_message
        if self.transport.is_closing():
            holding = None
        elif (self._in_message and not self.flow.read_paused) or self._take_timer is not None or self._refusal:
            holding = Holding.SLOW
        else:
            holding = None if waiting else Holding.IDLE
        too_much = self._addresses.note(self, self._address, holding)
        if too_much is not None and holding is not None:
            self._stats[f"ended_{holding.value}"] += 1
            too_much._end(holding)

    def _end(self, holding: Holding) -> None:
        """End this connection, because its address holds too many like it."""
        self._addresses.note(self, self._address, None)
        answered = not self._in_head and self.cycle is not None and self.cycle.response_complete
        if holding is Holding.IDLE:
            self.transport.close()
        elif self._take_timer is not None or self._refusal:
            self.transport.abort()
        elif answered:  # before its body was here
            self.transport.close()
        else:
            limit = self._limits.slow_per_address
            self._refuse(408, f"{limit} requests of this address are incomplete already, which is the limit")

    def _expect(self, seconds: float, otherwise: Callable[[], None]) -> None:
        """Call `otherwise` after so many seconds, unless something else is expected by then, or nothing."""
        self._expect_nothing()
        self._timer = self.loop.call_later(seconds, otherwise)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.flow.read_paused:  # an earlier request is still being answered
            self._expect(self._limits.read_s, self._late)
        elif not self._in_head and self.cycle.response_complete:  # answered before its body was here
            self.transport.close()
        else:
            self._refuse(408, f"the request was not here within {self._limits.read_s:g} s")

    def _refuse(self, status: int, error: str, headers: Mapping[str, str] = {}) -> None:
        """Answer with an error beside the application, and end the connection.

        Requests that were sent before the refused one get their answers first: a client matches answers by their order.
        """
        self._refusal = status, error
        self._stats[f"status_{status}"] += 1
        if self._in_message and not self._in_head and not self.cycle.response_complete:  # its head was taken
            self._unanswered -= 1
            if self.pipeline:
                self.pipeline.popleft()  # it waits behind earlier ones
            else:
                self.cycle.disconnected = True  # what the application still sends goes nowhere
                self.cycle.message_event.set()
        body = json.dumps({"error": error}).encode()
        lines = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._deferred = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode() + body
        if self._unanswered:
            self._expect_nothing()
        else:
            self._send_refusal()

    def _send_refusal(self) -> None:
        self.transport.write(self._deferred)
        self._deferred = b""
        self.transport.write_eof()
        self.flow.resume_reading()
        self._expect(_DISCARD_SECONDS, self.transport.close)


def json_response(status: int, content: Json, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response with `content` as JSON in ASCII, which can spell lone surrogates."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


async def _count_answers(app: ASGIApp, stats: Counter[str], scope: Scope, receive: Receive, send: Send) -> None:
    async def counted(message: Message) -> None:
        if message["type"] == "http.response.start":
            stats[f"status_{message['status']}"] += 1
        await send(message)

    await app(scope, receive, counted)
