"""One HTTP exchange with a server over kept connections, with one deadline for all of its bytes.

Enters: method, path, body, seconds. Leaves: status and body. A socket's own timeout starts anew with each packet, so a
server that sends drop by drop could hold a thread for ever. Here each read gets only the time that is left until the
deadline. Left out: retries (search_client.py), redirects, proxies, name resolution within the deadline.
"""

import dataclasses
import http.client
import io
import threading
import time
import urllib.parse
import zlib

_MOST_BYTES = 64 << 20


class TransportError(ConnectionError):
    """No answer: refused, cut off, too late, too long or not HTTP."""


@dataclasses.dataclass(frozen=True)
class Reply:
    status: int
    body: bytes


class Transport:
    """Connections to one server. Thread-safe; keeps as many connections as threads asked at once."""

    def __init__(self, url: str):
        """url: http(s)://host[:port][/path]; its path goes before every other. Raises ValueError for anything else."""
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == -1:
            raise ValueError(f"search.url={url!r} has to be http://host:port or https://host:port, or with a path")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        host = parts.hostname
        self._new = lambda seconds: kind(host, port, timeout=seconds)
        self._base = parts.path.rstrip("/")
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> Reply:
        """Return the answer, whatever its status; raise TransportError if there is none within `seconds`."""
        deadline = time.monotonic() + seconds
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        try:
            if kept is not None:
                try:
                    return self._once(kept, method, path, body, deadline)
                except TransportError:
                    raise
                except ConnectionError:
                    pass  # the server closed it between two requests, which is no failure: try a new one
            return self._once(self._new(_left(deadline)), method, path, body, deadline)
        except TransportError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: bad headers
            raise TransportError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _once(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, deadline: float
    ) -> Reply:
        keep = False
        try:
            if connection.sock is not None:
                connection.sock.settimeout(_left(deadline))
            # http.client calls this with a socket, and calls nothing of that socket but makefile.
            connection.response_class = lambda sock, **other: http.client.HTTPResponse(_Timed(sock, deadline), **other)  # type: ignore[assignment,arg-type]
            connection.request(method, self._base + path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            length = response.length
            found = response.read(_MOST_BYTES + 1)
            if len(found) > _MOST_BYTES or (length is not None and len(found) != length):
                raise TransportError(f"the answer has {len(found)} bytes, announced {length}, limit {_MOST_BYTES}")
            keep = not response.will_close
            return Reply(response.status, _decoded(found, response.getheader("Content-Encoding", "")))
        except TimeoutError as error:
            raise TransportError(f"no whole answer to {method} {self._base + path} in time") from error
        finally:
            if keep:
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()


def _decoded(body: bytes, encoding: str) -> bytes:
    """Return the body, unpacked if the server compressed it unasked; raise TransportError if it cannot be unpacked."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        found = decoder.decompress(body, _MOST_BYTES + 1)
    except zlib.error as error:
        raise TransportError(f"the answer is no {encoding}: {error}") from error
    if len(found) > _MOST_BYTES or not decoder.eof:
        raise TransportError(f"the answer is cut, or has over {_MOST_BYTES} bytes when it is unpacked")
    return found


class _Timed:
    """A stand-in for the socket of an HTTPResponse, whose reads end at the deadline."""

    def __init__(self, sock, deadline: float):
        self._sock, self._deadline = sock, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock, deadline: float):
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
