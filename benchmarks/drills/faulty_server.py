"""A search server that fails on demand: it drops, delays, garbles, refuses, answers half, or sends hostile text.

It speaks Search-R1's `/retrieve`. What is right for a query follows from the query alone (`documents`), so whoever
asked can tell a right answer from one that belongs to another query. Which request fails, and how, follows from the
seed, the request's body and how often that body was asked, whatever the order in which threads ask.
"""

import asyncio
import collections
import contextlib
import hashlib
import json
import random
import threading

from benchmarks.drills import hostile_text

FAULTS = (
    "dropped", "reset", "delayed", "late", "status 500", "status 503", "status 429", "status 404", "no JSON",
    "half an answer", "cut JSON", "bytes garbled", "score no number", "fewer results", "no results", "null documents",
    "hostile text", "drop by drop", "answered twice", "no HTTP", "redirected",
)  # fmt: skip
LATE_SECONDS = 2.6  # of an answer that is late
_OTHER = "an answer to another query"


def documents(query: str, count: int) -> list[tuple[str, str]]:
    """Return the right (title, text) pairs of a query."""
    digest = hashlib.blake2b(query.encode(), digest_size=6).hexdigest()
    return [(f"Article {digest} {i}", f"What is known of {digest}, part {i}.") for i in range(count)]


def hostile_documents(query: str, count: int) -> list[tuple[str, str]]:
    """Return the (title, text) pairs of a query that are sent where the fault is 'hostile text'."""
    rng = random.Random(f"hostile {query}")
    return [(hostile_text.passage(rng)[:200], hostile_text.passage(rng)) for _ in range(count)]


class FaultyServer:
    """The server, on a thread of its own; use as a context manager. counts: requests by what was done to them."""

    def __init__(self, seed: int, share: float):
        """share: of the requests that meet a fault."""
        self.counts: collections.Counter[str] = collections.Counter()
        self.url = ""
        self._seed, self._share = seed, share
        self._asked: collections.Counter[bytes] = collections.Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty server", daemon=True)

    def __enter__(self) -> "FaultyServer":
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                if not await self._answer(await reader.readexactly(size), writer):
                    break
        writer.close()

    def _fault(self, body: bytes) -> tuple[str, random.Random]:
        rng = random.Random(f"{self._seed} {hashlib.blake2b(body).hexdigest()} {self._asked[body]}")
        self._asked[body] += 1
        return (rng.choice(FAULTS) if rng.random() < self._share else "answered"), rng

    async def _answer(self, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection goes on."""
        asked = json.loads(body)
        fault, rng = self._fault(body)
        self.counts[fault] += 1
        make = hostile_documents if fault == "hostile text" else documents
        found = [make(query, asked["topk"]) for query in asked["queries"]]
        result = [
            [{"document": {"contents": f'"{title}"\n{text}'}, "score": 1.0} for title, text in one] for one in found
        ]
        if fault == "dropped":
            return False
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault in ("delayed", "late"):
            await asyncio.sleep(LATE_SECONDS if fault == "late" else rng.uniform(0.01, 0.1))
        if fault == "no HTTP":
            writer.write(rng.randbytes(200))
            return False
        status, headers = 200, ""
        if fault.startswith("status"):
            status = int(fault.removeprefix("status "))
        if fault == "redirected":
            status, headers = 302, "Location: http://127.0.0.1:9/\r\n"
        if fault == "fewer results":
            result = result[1:]
        if fault == "null documents":
            result = [[None] * len(one) for one in result]
        sent = json.dumps({"detail": "out of memory"} if fault == "no results" else {"result": result}).encode()
        if fault == "score no number":
            sent = sent.replace(b'"score": 1.0', b'"score": NaN')
        if fault == "no JSON":
            sent = b"<html>it works</html>"
        if fault == "cut JSON":
            sent = sent[: rng.randrange(len(sent))]
        if fault == "bytes garbled":
            sent = bytes(0xFF if rng.random() < 0.05 else byte for byte in sent[:-1]) + b"\xff"
        head = f"HTTP/1.1 {status} x\r\n{headers}Content-Length: {len(sent)}\r\n\r\n".encode()
        if fault == "half an answer":
            writer.write(head + sent[: rng.randrange(len(sent))])
            return False
        if fault == "drop by drop":
            writer.write(head)
            for byte in sent[:20]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(LATE_SECONDS / 20)
            writer.write(sent[20:])
            return True
        writer.write(head + sent)
        if fault == "answered twice":  # what the next request on this connection must not take for its own
            other = json.dumps({"result": [[{"contents": f'"{_OTHER}"\n{_OTHER}'}]]}).encode()
            writer.write(f"HTTP/1.1 200 x\r\nContent-Length: {len(other)}\r\n\r\n".encode() + other)
        await writer.drain()
        return True
