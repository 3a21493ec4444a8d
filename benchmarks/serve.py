"""Tokens a second that clients get from a server of a published folder, against `transformers serve` in turn.

    python -m benchmarks.serve --policy=HF_FOLDER --clients=8 --peer=PYTHON_WITH_TRANSFORMERS

Each client asks for greedy replies of `tokens` tokens, one after the other, and counts the tokens of each reply. A
round starts one server, asks the first question of each client once, so that everything is compiled, and then measures
`requests` requests of each client. Prints one JSON line: tokens a second of both, seconds of the processors for a
thousand tokens (to read where other work keeps the machine busy), and the ratios, medians over the rounds.
"""

import concurrent.futures
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
from absl import app, flags

_POLICY = flags.DEFINE_string("policy", None, "A published folder.", required=True)
_PEER = flags.DEFINE_string("peer", "", "Python of an environment with transformers[serving]; '' measures ours alone.")
_PEER_FLAGS = flags.DEFINE_string("peer_flags", "", "More flags of the peer, such as --continuous-batching.")
_CLIENTS = flags.DEFINE_integer("clients", 8, "Clients at a time.", 1)
_REQUESTS = flags.DEFINE_integer("requests", 3, "Requests of each client in a round.", 1)
_TOKENS = flags.DEFINE_integer("tokens", 48, "Most tokens of a reply.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds of each server.", 1)
_QUESTION = "Write a long story about the city number {number}, its river and the people who founded it."
_START_S = 900.0


def main(_) -> None:
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(_ROUNDS.value):
        with _server(_our_command) as (url, server):
            ours.append(_measured(url, Path(_POLICY.value).resolve().name, server))
        if _PEER.value:
            with _server(_peer_command) as (url, server):
                theirs.append(_measured(url, _POLICY.value, server))
    found = {"clients": _CLIENTS.value, "tokens_per_s": _median(ours, 0), "processor_s_per_1000": _median(ours, 1)}
    if theirs:
        found |= {"peer_tokens_per_s": _median(theirs, 0), "peer_processor_s_per_1000": _median(theirs, 1)}
        pairs = list(zip(ours, theirs, strict=True))
        found["ratio"] = round(statistics.median(own[0] / other[0] for own, other in pairs), 2)
        found["processor_ratio"] = round(statistics.median(other[1] / own[1] for own, other in pairs), 2)
    print(json.dumps(found))


def _median(rounds: list[tuple[float, float]], place: int) -> float:
    return round(statistics.median(one[place] for one in rounds), 2)


def _our_command(port: int) -> list[str]:
    return [
        sys.executable, "-m", "masksearch_jax.serve", f"--policy={_POLICY.value}", f"--config.port={port}",
        f"--config.slots={_CLIENTS.value}", "--config.total_tokens=512",
    ]  # fmt: skip


def _peer_command(port: int) -> list[str]:
    return [
        _PEER.value, "-m", "transformers.cli.transformers", "serve", _POLICY.value, "--host=127.0.0.1",
        f"--port={port}", "--device=cpu", "--dtype=float32", *_PEER_FLAGS.value.split(),
    ]  # fmt: skip


@contextlib.contextmanager
def _server(command) -> Iterator[tuple[str, subprocess.Popen]]:
    """Yield the URL and the process of a server that answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(command(port), env=os.environ | {"HF_HUB_OFFLINE": "1"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server does not start: {' '.join(command(port))}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", server
    finally:
        server.terminate()
        server.wait(60)


def _measured(url: str, model: str, server: subprocess.Popen) -> tuple[float, float]:
    """Return (tokens a second of all clients, seconds of the processors for a thousand tokens)."""
    client = openai.OpenAI(base_url=url, api_key="none", timeout=_START_S, max_retries=0)

    def ask(number: int) -> int:
        asked = [{"role": "user", "content": _QUESTION.format(number=number)}]
        reply = client.chat.completions.create(model=model, messages=asked, temperature=0, max_tokens=_TOKENS.value)
        return reply.usage.completion_tokens

    def ask_often(number: int) -> int:
        return sum(ask(number + _CLIENTS.value * turn) for turn in range(_REQUESTS.value))

    with concurrent.futures.ThreadPoolExecutor(_CLIENTS.value) as clients:
        list(clients.map(ask, range(_CLIENTS.value)))
        began, used = time.perf_counter(), _processor_seconds(server)
        tokens = sum(clients.map(ask_often, range(_CLIENTS.value)))
    seconds, used = time.perf_counter() - began, _processor_seconds(server) - used
    return tokens / seconds, 1000 * used / tokens


def _processor_seconds(server: subprocess.Popen) -> float:
    """Return the seconds that a process has spent on processors (Linux)."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    app.run(main)
