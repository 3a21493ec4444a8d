"""Limit replies over HTTP in bytes and in time, for the httpx client that the openai package uses.

httpx starts a timeout anew with each packet and reads a body whole. So a server that sends drop by drop could hold a
thread for ever, and one that never stops could fill the memory. Left out: the time until a reply begins, which httpx
limits.
"""

import time
from collections.abc import Iterator

import httpx2

# A chat completion has kilobytes. Of a packed body so few are read that it cannot unpack to more than that: deflate
# makes at most 1,032 bytes of one.
_MOST_BYTES = 64 << 20
_UNPACKED_BY = 1 << 10


def bound(response: httpx2.Response) -> None:
    """Bound the body of a response that has begun: a hook of httpx for responses.

    Reading the body raises httpx2.ReadError if it is too long, and httpx2.ReadTimeout if it takes longer than the
    request's timeout allows for a packet.
    """
    seconds = response.request.extensions.get("timeout", {}).get("read")
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    packed = response.headers.get("content-encoding", "identity") != "identity"
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Bounded(response.stream, _MOST_BYTES // _UNPACKED_BY if packed else _MOST_BYTES, deadline)


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, limit: int, deadline: float):
        self._stream, self._limit, self._deadline = stream, limit, deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > self._limit:
                raise httpx2.ReadError(f"the reply has over {self._limit} bytes")
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the reply was not whole in time")
            yield part

    def close(self) -> None:
        self._stream.close()
