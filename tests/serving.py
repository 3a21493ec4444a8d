"""A search service on a thread of the test's process, and a server that fails on demand."""

import asyncio
import contextlib
import http.server
import json
import threading
import time

from masksearch_jax.data import records
from masksearch_jax.retrieval.index import build
from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.service.endpoints import Service, ServiceSettings
from masksearch_jax.retrieval.service.http_server import Server, ServerLimits


def workdir_of(folder, passages):
    """A workdir with nothing but passages and the index 'all'."""
    records.write(folder / "data" / "passages.array_record", passages)
    build.build_index(folder / "data" / "index" / "all", passages, {"index": "exact", "dims": 512})
    return folder


@contextlib.contextmanager
def serving(workdir, indices=("all",), loaded=True, limits=None, server=None, **settings):
    """Yields (URL, Service, Server). loaded: False leaves the indices unloaded."""
    limits = wire.Limits(**(limits or {}))
    settings = {"k": 3, "threads": 2, "batch": 64, "wait_ms": 1.0, "pending": 8192} | settings
    made = Service(workdir, ServiceSettings(indices=indices, limits=limits, **settings), lambda: dict(http.stats))
    http_limits = {"connections": 64, "body_bytes": limits.body_bytes, "read_s": 5.0, "idle_s": 5.0}
    http_limits |= {"idle_per_address": 64, "slow_per_address": 64} | (server or {})
    http = Server(made, ServerLimits(**http_limits))
    started, found = threading.Event(), {}

    async def main():
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        found["port"] = await http.start("127.0.0.1", 0)
        try:
            if loaded:
                await made.load()
        finally:
            started.set()
        await found["stop"].wait()
        await http.stop(5)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(60)
    try:
        yield f"http://127.0.0.1:{found['port']}", made, http
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(30)
    assert not thread.is_alive()


DRIP_SECONDS = 3.0


class FaultyServer:
    """Search-R1's answers as its own server writes them, over `find(text, k)`; unless a fault is due.

    faults: names of FAULTS used up one a request, or one name for ever. Requests are kept in `asked`, the sockets that
    they came by in `connections`. The corpus is another one: its ids are strings that mean nothing here.
    """

    FAULTS = ("status_500", "status_503", "garbage", "not_finite", "wrong_count", "no_result", "cut", "drip", "silent")

    def __init__(self, find):
        self.asked, self.faults, self.find, self.connections = [], [], find, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                outer.connections.append(self.connection)

            def do_POST(self):
                outer._answer(self)

            def do_GET(self):
                self.send_error(404)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler):
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append(asked)
        if isinstance(self.faults, str):
            fault = self.faults
        else:
            fault = self.faults.pop(0) if self.faults else ""
        result = [
            [
                {"document": {"id": f"doc{i}", "contents": f'"{title}"\n{text}'}, "score": score}
                for i, (title, text, score) in enumerate(self.find(query, asked["topk"]))
            ]
            for query in asked["queries"]
        ]
        body = json.dumps({"result": result}).encode()
        status = int(fault.removeprefix("status_")) if fault.startswith("status_") else 200
        if fault == "garbage":
            body = b"<html>it works</html>"
        elif fault == "not_finite":
            body = body.replace(b'"score": ', b'"score": NaN, "was": ')
        elif fault == "wrong_count":
            body = json.dumps({"result": result[1:]}).encode()
        elif fault == "no_result":
            body = b'{"detail": "out of memory"}'
        elif fault == "silent":
            time.sleep(DRIP_SECONDS)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            if fault == "cut":
                handler.wfile.write(body[: len(body) // 2])
                handler.close_connection = True
            elif fault == "drip":
                for i in range(20):
                    handler.wfile.write(body[i : i + 1])
                    time.sleep(DRIP_SECONDS / 20)
                handler.close_connection = True
            else:
                handler.wfile.write(body)


class ScriptedServer:
    """A server whose `reply(asked)` says what to send: JSON data (as 200), a status, (status, headers, body) or raw
    bytes that stand for the whole answer. `asked` is the body as JSON data; the connection ends with each answer,
    unless it `keeps` them."""

    def __init__(self, reply, keeps=False):
        self.reply, self.asked = reply, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(asked)
                self.close_connection = not keeps
                with contextlib.suppress(OSError):
                    self._send(outer.reply(asked))

            def _send(self, said):
                if isinstance(said, bytes):
                    self.wfile.write(said)
                    return
                if isinstance(said, int):
                    said = said, {}, b'{"detail": "no"}'
                if not isinstance(said, tuple):
                    said = 200, {}, json.dumps(said).encode()
                status, headers, body = said
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
