"""Put the search service under load: many clients on loopback for some seconds. Prints one JSON line, then ends.

    python -m benchmarks.service                                   200 clients, 60 s, 20,000 passages
    python -m benchmarks.service --clients=8 --seconds=2 --passages=500
    python -m benchmarks.service --seconds=10 --against=CHECKOUT   in turn with the server of another version: ratios

Makes a corpus of invented words and its index in a temporary folder, starts `serve_search` on it as a process of its
own, and asks. Each client keeps one connection and sends its next request when the last is answered. A request has two
queries of eight words each. It is drawn from a pool in which every query comes back now and then, as it does in a group
of samples. Beside them one client sends requests that must be refused. All clients run in this process, so on a machine
of few cores their own work is part of the times. The exit status is 1 if a request was not answered as it should be, or
if the server did not end with status 0.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from masksearch_jax.data import records
from masksearch_jax.retrieval.index import build
from masksearch_jax.retrieval.service import wire

ROOT = Path(__file__).parent.parent

_QUERIES, _WORDS, _K = 2, 8, 3
_LIMIT_SECONDS = 30.0  # after which a request counts as unanswered
_JSON = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
HOSTILE = (
    b"\x16\x03\x01\x00\xa5\r\n\r\n",
    b"GET /retrieve HTTP/1.1\r\n\r\n",
    b"POST /elsewhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    b"POST /retrieve HTTP/1.1\r\n\r\n",
    b"POST /retrieve HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /retrieve HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
    *(
        _JSON % (len(body), body)
        for body in (
            b"{",
            b"[" * 100_000,
            b'{"queries": ["a"], "topk": NaN}',
            b'{"queries": ["a"], "topk": 1000000}',
            b'{"queries": "a"}',
            b'{"queries": [{}]}',
            json.dumps({"queries": ["a"] * 10_000}).encode(),
            json.dumps({"queries": ["a" * (5 << 20)]}).encode(),
        )
    ),
)


def corpus(count: int) -> list[records.Passage]:
    """Return passages of 60 words from a vocabulary in which, as in a language, few words make most of a text."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{i:x}" for i in range(30_000)])
    shares = 1 / np.arange(10, 30_010)
    drawn = rng.choice(vocabulary, (count, 60), p=shares / shares.sum())
    return [records.Passage(i, i, f"Article {i}", " ".join(words), "train") for i, words in enumerate(drawn)]


def requests(passages: list[records.Passage], count: int) -> list[bytes]:
    rng = random.Random(1)
    made = []
    for _ in range(count):
        texts = []
        for passage in rng.sample(passages, _QUERIES):
            words = passage.text.split()
            start = rng.randrange(len(words) - _WORDS)
            texts.append(" ".join(words[start : start + _WORDS]))
        body = wire.request(texts, _K)
        made.append(_JSON % (len(body), body))
    return made


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> tuple[int, bytes]:
    """Send one request; return (status, body).

    Raises asyncio.IncompleteReadError if the connection ends without a whole answer.
    """
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(re.search(rb"content-length: (\d+)", head.lower())[1])
    return int(head.split()[1]), await reader.readexactly(size)


async def client(port: int, pool: list[bytes], rng: random.Random, end: float, seconds: list[float]) -> int:
    """Ask until `end`; append the time of each answered request and return how many were not answered correctly."""
    errors, connection = 0, None
    while time.perf_counter() < end:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                connection = connection or await asyncio.open_connection("127.0.0.1", port)
                status, body = await exchange(*connection, rng.choice(pool))
            found = json.loads(body)["result"] if status == 200 else []
            if len(found) == _QUERIES and all(len(one) == _K for one in found):
                seconds.append(time.perf_counter() - began)
                continue
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            connection = None
        errors += 1
    if connection:
        connection[1].close()
    return errors


async def attacker(port: int, end: float) -> tuple[int, int]:
    """Send bad requests until `end`, one connection each; return (sent, answered with a status from 400 to 499)."""
    sent = refused = 0
    while time.perf_counter() < end:
        data = HOSTILE[sent % len(HOSTILE)]
        sent += 1
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                status, body = await exchange(reader, writer, data)
            refused += 400 <= status < 500 and "error" in json.loads(body)
            writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.01)
    return sent, refused


async def load(port: int, clients: int, length: float, pool: list[bytes]) -> dict:
    end, seconds = time.perf_counter() + length, []
    asking = [client(port, pool, random.Random(i), end, seconds) for i in range(clients)]
    (sent, refused), *errors = await asyncio.gather(attacker(port, end), *asking)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _, body = await exchange(reader, writer, b"GET /stats HTTP/1.1\r\nConnection: close\r\n\r\n")
    writer.close()
    stats = json.loads(body)
    p50, p99 = np.percentile(seconds, (50, 99)) if seconds else (0.0, 0.0)
    return {
        "requests": len(seconds),
        "errors": sum(errors),
        "queries_per_s": round(len(seconds) * _QUERIES / length, 1),
        "p50_ms": round(1e3 * p50, 2),
        "p99_ms": round(1e3 * p99, 2),
        "max_ms": round(1e3 * max(seconds, default=0.0), 2),
        "queries_per_call": round(stats["batching"]["queries"] / max(1, stats["batching"]["calls"]), 2),
        "cache_hit_share": round(stats["search"]["cache_hits"] / max(1, stats["search"]["queries"]), 3),
        "hostile": sent,
        "hostile_refused": refused,
    }


def measure(checkout: Path, folder: Path, wanted: argparse.Namespace, pool: list[bytes]) -> dict:
    """Start the server of a checkout over the index in `folder`, load it, end it; return what was measured.

    Raises SystemExit with what the server said if it ends before it is ready.
    """
    line = [sys.executable, "-m", "masksearch_jax.serve_search", f"--workdir={folder}", "--config.port=0"]
    log = folder / "serve_search.log"
    with log.open("w") as file:
        server = subprocess.Popen(line, cwd=checkout, stderr=file)
    try:
        while "ready: " not in log.read_text():
            if server.poll() is not None:
                raise SystemExit(f"serve_search ended with status {server.returncode} at its start:\n{log.read_text()}")
            time.sleep(0.05)
        port = int(re.search(r"listening on http://\S+:(\d+)", log.read_text())[1])
        before = cpu_seconds(server.pid)
        measured = asyncio.run(load(port, wanted.clients, wanted.seconds, pool))
        spent = cpu_seconds(server.pid) - before
        memory = Path(f"/proc/{server.pid}/status").read_text()
        server.send_signal(signal.SIGTERM)
        ended = server.wait(60)
    finally:
        server.kill()
        server.wait()
    return measured | {
        "server_ms_a_request": round(1e3 * spent / max(1, measured["requests"]), 3),
        "server_peak_mb": round(int(re.search(r"VmHWM:\s+(\d+)", memory)[1]) / 1024),
        "server_exit": ended,
    }


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, that of all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_right(measured: dict) -> bool:
    refused = measured["hostile_refused"] == measured["hostile"]
    return measured["errors"] == 0 and refused and measured["server_exit"] == 0


def medians(runs: list[dict]) -> dict:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--pool", type=int, default=5_000, help="distinct requests")
    parser.add_argument("--hybrid", action="store_true")
    parser.add_argument("--against", help="another checkout, whose server is measured in turn with ours")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each with --against; medians are printed")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, passages = Path(name), corpus(wanted.passages)
        records.write(folder / "data" / "passages.array_record", passages)
        with contextlib.redirect_stdout(sys.stderr):
            report = build.build_index(
                folder / "data" / "index" / "all", passages, {"dims": 512, "hybrid": wanted.hybrid}
            )
        pool = requests(passages, wanted.pool)
        ours, others = [], []
        for _ in range(wanted.pairs if wanted.against else 1):
            if wanted.against:
                others.append(measure(Path(wanted.against), folder, wanted, pool))
            ours.append(measure(ROOT, folder, wanted, pool))
    peer = {}
    if wanted.against:
        names = ("queries_per_s", "p50_ms", "p99_ms", "server_ms_a_request")
        ratios = {
            name: round(statistics.median(a[name] / b[name] for a, b in zip(ours, others, strict=True)), 3)
            for name in names
        }
        peer = {"against": medians(others), "ratios": ratios}
    print(
        json.dumps({
            "benchmark": "service",
            "clients": wanted.clients,
            "seconds": wanted.seconds,
            "passages": wanted.passages,
            "index": report["index"],
            "hybrid": wanted.hybrid,
            **medians(ours),
            **peer,
            "cores": os.cpu_count(),
        })
    )
    return int(not all(map(is_right, ours)))


if __name__ == "__main__":
    sys.exit(main())
