"""Time the viewer on many episodes of the length of a language model's. Prints one JSON line, then ends.

    python -m benchmarks.viewer                     100,000 episodes of training, 2,000 of two evaluations
    python -m benchmarks.viewer --episodes=2000 --keep=FOLDER

Makes a run of invented words in a temporary folder (in FOLDER if that is given, which is then kept and used again),
serves it as `python -m masksearch_jax.report --serve` does, and asks over HTTP what a person asks: a list in each
order, pages near the end, rare and common words, filters, an episode, a group, two sources. Each question is asked
`--repeats` times; the line has the median and the largest milliseconds of each, the median of the processor's
milliseconds (on a busy machine the rest is waiting), the bytes that the page and an answer weigh (compressed), and how
long it took to write an episode. The server and the client share this process.
"""

import argparse
import gzip
import json
import random
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import uvicorn

from masksearch_jax.evals.runner import Row, write_rows
from masksearch_jax.trajectories.episode import Episode, pack_arrays
from masksearch_jax.trajectories.store import FILE, FOLDER, EpisodeStore
from masksearch_jax.viewer import http_app, sources, static_files

_GROUP = 8  # samples of a prompt
_TOKENS = 420  # of an episode: a prompt of 90, two turns of 35 and results of 260
_VOCABULARY = 40_000
_POOL = 64  # different arrays of tokens; what they hold makes no difference to the times
_COMMON, _RARE = "the", "rarissimum"


class _Words:
    """Text with the word frequencies of a natural one (Zipf)."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        letters = "abcdefghijklmnoprstuvwz"
        self._words = ["".join(self._random.choices(letters, k=self._random.randint(3, 9))) for _ in range(_VOCABULARY)]
        self._words[:3] = [_COMMON, "of", "in"]
        self._weights = np.cumsum(1.0 / np.arange(1, _VOCABULARY + 1)).tolist()

    def text(self, count: int) -> str:
        return " ".join(self._random.choices(self._words, cum_weights=self._weights, k=count))


def _fields(words: _Words, group: int) -> dict:
    """Return the parts of an episode that training and evaluation have alike."""
    gold = words.text(2)
    found = words.text(60)
    rare = f" {_RARE}" if group % 5000 == 7 else ""
    turns = [
        {
            "action": "search", "text": f"<think> {words.text(12)}</think><search> {words.text(3)}</search>",
            "query": words.text(3), "passages": [group, group + 1],
            "observation": f"<information> {found} {gold} {words.text(60)}{rare}</information>", "error": "",
        },
        {
            "action": "answer", "text": f"<think> {words.text(20)} {gold}</think><answer> {gold}</answer>", "query": "",
            "passages": [], "observation": "", "error": "",
        },
    ]  # fmt: skip
    return {"text": f"{words.text(25)} [mask] {words.text(15)}", "golds": [[gold]], "spans": [gold], "turns": turns}


def _trained(words: _Words, group: int, packed: list[bytes]) -> Iterator[tuple[Episode, bytes]]:
    for sample in range(_GROUP):
        fields = _fields(words, group)
        score = ((group * 7 + sample * 3) % 5) / 4
        yield (
            Episode(
                source="dapo", step=1 + group // 32, version=group // 32, group=group, sample=sample,
                task_id=f"train/ramp_1/{group}", task="ramp_1" if group % 4 else "ramp_2",
                stop="turns" if score == 0 else "answer", answer=fields["spans"][0], score=score, format=1.0,
                searches=1 + sample % 3, tokens=60 + sample, hit=1.0, span_scores=[score], span_hits=[True],
                reward=0.1 + score, length=0.0, **fields,
            ),
            packed[(group + sample) % _POOL],
        )  # fmt: skip


def make_run(workdir: Path, episodes: int) -> float:
    """Write the run; return the processor's milliseconds that one episode of training took."""
    words, rng = _Words(0), np.random.default_rng(0)
    trainable = np.zeros(_TOKENS, np.uint8)
    trainable[90:125] = trainable[385:] = 1
    values = (rng.standard_normal((_POOL, 3, _TOKENS)) * trainable).astype(np.float32)
    texts = [f" {word}" for word in words.text(_TOKENS).split()]
    ids = np.arange(_TOKENS, dtype=np.int32)
    packed = [
        pack_arrays({"ids": ids, "trainable": trainable, "sampler": -abs(one[0]), "prompt": ids[90:91]}, texts)
        for one in values
    ]
    updated = [
        pack_arrays({"trainer": -abs(one[0]), "after": -abs(one[1]), "clipped": np.sign(one[2]).astype(np.int8)})
        for one in values
    ]
    store = EpisodeStore(workdir / "dapo" / FOLDER / FILE)
    start, done = time.process_time(), 0
    for group in range(episodes // _GROUP):
        store.add(_trained(words, group, packed))
        if group % 2:
            store.set_trained(
                "dapo", 1 + group // 32, [(group, s, s - 3.5, updated[(group + s) % _POOL]) for s in range(_GROUP)]
            )
        done += _GROUP
    seconds = time.process_time() - start
    store.close()
    for policy in ("sft", "dapo"):
        write_rows(workdir / "evaluate" / policy / "rows.jsonl", (_row(words, n) for n in range(1000)))
    for stage in ("sft", "dapo"):
        lines = [
            {"step": n, "time": n, **{f"group/{k}": rng.random() for k in range(60)}, "loss": 1 / n}
            for n in range(1, 501)
        ]
        (workdir / stage).mkdir(exist_ok=True)
        (workdir / stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 1000 * seconds / max(done, 1)


def _row(words: _Words, place: int) -> Row:
    fields = _fields(words, place)
    return Row(
        task_id=f"test/ramp_1/{place}", kind="ramp", masks=1, span_kinds=["name"], answer=fields["spans"][0],
        recalls=[1.0], f1s=[1.0], ems=[1.0], recall=float(place % 2), f1=1.0, em=1.0, format=1.0, hits=[True], hit=1.0,
        searches=1, queries=[], distinct_queries=1, tokens=60, stop="answer", **fields,
    )  # fmt: skip


def questions(episodes: int) -> dict[str, tuple[str, dict[str, str]]]:
    """Return {name: (question, what is given)}."""
    last = str(max(0, episodes - 100))
    group = str(episodes // _GROUP // 2)
    return {
        "overview": ("overview", {}),
        "list": ("episodes", {}),
        "list_by_reward": ("episodes", {"sort": "reward"}),
        "list_last_page": ("episodes", {"sort": "tokens", "offset": last}),
        "filtered": ("episodes", {"sources": "0~dapo", "task": "ramp_1", "min_searches": "2", "trained": "yes"}),
        "search_rare": ("episodes", {"q": _RARE}),
        "search_common": ("episodes", {"q": _COMMON}),
        "search_two_and_sort": ("episodes", {"q": f"{_COMMON} of", "sort": "advantage"}),
        "episode": ("episode", {"source": "0~dapo", "group": group, "sample": "3"}),
        "group": ("group", {"source": "0~dapo", "group": group}),
        "compare": ("compare", {"a": "0~evaluate/sft", "b": "0~evaluate/dapo"}),
        "compare_training": ("compare", {"a": "0~dapo", "b": "0~dapo"}),
        "curves": ("curves", {}),
    }


def measure(address: str, episodes: int, repeats: int) -> dict:
    """Return {name: {'cpu_ms', 'median_ms', 'largest_ms', 'bytes'}} of every question."""
    found = {}
    for name, (question, given) in questions(episodes).items():
        times, busy = [], []
        for _ in range(repeats):
            request = urllib.request.Request(
                f"{address}/api/{question}?{urlencode(given)}", headers={"Accept-Encoding": "gzip"}
            )
            start, processor = time.perf_counter(), time.process_time()
            with urllib.request.urlopen(request) as reply:
                content = reply.read()
            times.append(1000 * (time.perf_counter() - start))
            busy.append(1000 * (time.process_time() - processor))
        found[name] = {
            "cpu_ms": round(statistics.median(busy), 1),
            "median_ms": round(statistics.median(times), 1), "largest_ms": round(max(times), 1), "bytes": len(content)
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", default="", help="folder of the run, which is kept and used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(options.keep or temporary)
        is_there = (workdir / "dapo" / FOLDER / FILE).exists()
        written = None if is_there else make_run(workdir, options.episodes)
        start = time.perf_counter()
        runs = sources.Runs([workdir])
        opened = time.perf_counter() - start
        config = uvicorn.Config(http_app.application(runs), http_app.HOST, 0, log_level="error", lifespan="off")
        server, listener = uvicorn.Server(config), config.bind_socket()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        address = f"http://{http_app.HOST}:{listener.getsockname()[1]}"
        files = [static_files.read(name) or b"" for name in (static_files.STYLE, *static_files.SCRIPTS)]
        page = [static_files.served_page().encode(), *files]
        result = {
            "episodes": options.episodes,
            "file_mb": round((workdir / "dapo" / FOLDER / FILE).stat().st_size / 1e6, 1),
            "write_cpu_ms_per_episode": written and round(written, 3),
            "open_s": round(opened, 2),
            "page_bytes": sum(map(len, page)),
            "page_bytes_compressed": sum(len(gzip.compress(one)) for one in page),
            "questions": measure(address, options.episodes, options.repeats),
        }
        server.should_exit = True
        thread.join(10)
        runs.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
