"""Benchmark search at scale: our index beside raw ScaNN and FAISS, on one thread. Prints one JSON line.

    python -m benchmarks.search --count=100000 --out=FOLDER                      all engines, vectors of kind 'real'
    python -m benchmarks.search --count=1000000 --engines=ours,ivfpq --out=FOLDER
    python -m benchmarks.search --count=100000 --kind=uniform --out=FOLDER

Vectors and queries come from benchmarks/vectors.py, 384 wide. Each engine is built in a process of its own, whose peak
memory is that of the build, and searched in another. The even queries tune it to each recall@10 (ours by the product's
tuner, FAISS over grids of its numbers). The odd queries are then searched in one call of all of them, and the median of
ROUNDS counts.

`ours` is `scann_index.ScannIndex` as the search tool calls it. `raw` and `tool` are measured beside it, in the same
process and in turn. `raw` is the same ScaNN searcher, called once for all queries with the same settings. `tool` is
`SearchTool` over the same index and a store of passages in memory, with an encoder that looks the vectors up, so that
it adds everything but encoding and reading. The tool fetches 16 more than it is asked for. `cost` of `ours` and of
`tool` is its time over raw's, less one. `old` is the index of a plain tree of sqrt(n) leaves with float32 reordering.
`ivfpq` is FAISS's IVF-PQ of four bits with fast scan and a float32 refinement, `hnsw` its graph of 32 links over
float32. Memory of serving is what the process grew by while it loaded and searched, in bytes per vector, anonymous and
mapped from disk.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import vectors
from masksearch_jax.data.records import Passage
from masksearch_jax.retrieval.index import recall_check, scann_index, tuning
from masksearch_jax.retrieval.index.index_settings import ScannSettings
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.tool import SearchTool

ENGINES = ("ours", "old", "ivfpq", "hnsw")
TARGETS = (0.95, 0.99)
ROUNDS = 5
K = 10
SCANN = {"ours": {}, "old": {"soar": 0.0, "reordering": "float32"}}  # `settings` adds the leaves of `old`
_NPROBE = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_REFINED = (2, 4, 8, 16, 32, 64)
_EF = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def memory() -> dict[str, int]:
    """Return the bytes of this process: VmHWM (peak), RssAnon, RssFile."""
    text = Path("/proc/self/status").read_text()
    return {name: int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) * 1024 for name in ("VmHWM", "RssAnon", "RssFile")}


def settings(engine: str, count: int, shard_size: int) -> ScannSettings:
    chosen = dict(SCANN[engine], method="tree", shard_size=shard_size)
    if engine == "old":
        chosen["leaves"] = round(min(count, shard_size) ** 0.5)
    return ScannSettings(**chosen)


def build(engine: str, base: np.ndarray, target: Path, shard_size: int) -> None:
    """Build one engine over float32 [N, D] and save it into the folder `target`."""
    if engine in SCANN:
        how = scann_index.plan(settings(engine, len(base), shard_size), len(base))
        scann_index.build_scann(base, how, target)
        return
    import faiss

    faiss.omp_set_num_threads(1)
    dims = base.shape[1]
    if engine == "hnsw":
        index = faiss.IndexHNSWFlat(dims, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        index.add(base)
    else:
        lists = 2 * round(len(base) ** 0.5)
        index = faiss.index_factory(dims, f"IVF{lists},PQ{dims // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(len(base))[: 100 * lists]
        index.train(base[np.sort(sample)])
        index.add(base)
    target.mkdir(parents=True)
    faiss.write_index(index, str(target / "faiss"))


class Faiss:
    """A FAISS index at one setting, with the same `search` as our index."""

    def __init__(self, index, engine: str):
        self._index, self._engine = index, engine
        self.setting: dict[str, int] = {}

    def at(self, **setting: int) -> "Faiss":
        import faiss

        self.setting = setting
        if self._engine == "hnsw":
            self._index.hnsw.efSearch = setting["ef"]
        else:
            self._index.k_factor = setting["refined"]
            faiss.downcast_index(self._index.base_index).nprobe = setting["nprobe"]
        return self

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = self._index.search(queries, k)
        return rows, scores

    def tune(self, truth: recall_check.Truth, target: float) -> "Faiss":
        """Return itself at the fastest setting of the grid that reaches the target, at the widest if none does."""
        grid = [[{"ef": ef} for ef in _EF]]
        if self._engine == "ivfpq":
            grid = [[{"nprobe": n, "refined": refined} for n in _NPROBE] for refined in _REFINED]
        best = None
        for line in grid:
            reached = next((one for one in line if truth.measure(self.at(**one)) >= target), None)
            if reached is not None:
                taken = min(_seconds(self.at(**reached), truth.queries) for _ in range(3))
                best = min(best or (taken, reached), (taken, reached), key=lambda pair: pair[0])
        return self.at(**best[1]) if best else self.at(**grid[-1][-1])


class Raw:
    """ScaNN's own searcher, called once for all queries, with the settings of our index."""

    def __init__(self, index: scann_index.ScannIndex):
        (self._searcher,), self._plan = index._searchers, index.plan

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        plan = self._plan
        return self._searcher.search_batched(queries, k, max(plan.reorder, k), plan.leaves_to_search)


class Tool:
    """`SearchTool` over an index; this object is also its encoder, its passages and its exclusion (of nothing)."""

    mode = "none"

    def __init__(self, index: scann_index.ScannIndex, queries: np.ndarray):
        """queries: float32 [Q, D], the only ones that it can be asked."""
        self._index, self._vectors, self.ids = index, queries, np.arange(len(index.vectors))
        self._queries = [Query(str(i)) for i in range(len(queries))]

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors[[int(text) for text in texts]]

    def get(self, ids: Sequence[int]) -> list[Passage]:
        return [Passage(i, i, "title", "text", "train") for i in ids]

    def rows(self, query: Query) -> np.ndarray:
        return np.empty(0, np.int64)

    def search(self, queries: np.ndarray, k: int) -> None:
        """Answer all queries by a tool that has nothing cached."""
        SearchTool(self, self._index, None, self, self, "").search(self._queries, k)


def _seconds(index, queries: np.ndarray) -> float:
    started = time.perf_counter()
    index.search(queries, K)
    return time.perf_counter() - started


def _rates(indices: dict[str, object], queries: np.ndarray) -> dict[str, float]:
    """Return the median queries per second of each index; they are searched in turn."""
    taken = {name: [] for name in indices}
    for _ in range(ROUNDS):
        for name, index in indices.items():
            taken[name].append(_seconds(index, queries))
    return {name: len(queries) / statistics.median(seconds) for name, seconds in taken.items()}


def measure(engine: str, base: np.ndarray, queries: np.ndarray, target: Path, shard_size: int) -> dict:
    before = memory()
    tuned, held = queries[::2], queries[1::2]
    if engine in SCANN:
        index = scann_index.ScannIndex.load(target)
    else:
        import faiss

        faiss.omp_set_num_threads(1)
        index = Faiss(faiss.read_index(str(target / "faiss")), engine)
        index.at(**({"ef": 100} if engine == "hnsw" else {"nprobe": 32, "refined": 10}))
    index.search(queries, K)
    after = memory()
    truth, held_truth = recall_check.Truth(base, tuned, K), recall_check.Truth(base, held, K)
    out = {
        "serving_bytes": {
            name: round((after[key] - before[key]) / len(base))
            for name, key in (("anonymous", "RssAnon"), ("mapped", "RssFile"))
        },
        "disk_bytes": round(sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / len(base)),
        "at": {},
    }  # fmt: skip
    for goal in TARGETS:
        if engine in SCANN:
            chosen, _ = tuning.tune(index, truth, settings(engine, len(base), shard_size), goal)
            row = {"leaves_to_search": chosen.plan.leaves_to_search, "reorder": chosen.plan.reorder}
            peers = {"ours": chosen, "tool": Tool(chosen, held)}
            if chosen.plan.shards == 1:
                peers["raw"] = Raw(chosen)
        else:
            chosen = index.tune(truth, goal)
            row, peers = dict(chosen.setting), {engine: chosen}
        rates = _rates(peers, held)
        row |= {"recall": round(held_truth.measure(chosen), 4)} | {f"qps_{name}": round(r) for name, r in rates.items()}
        if "raw" in peers:
            row |= {f"cost_{name}": round(rates["raw"] / rates[name] - 1, 3) for name in ("ours", "tool")}
            # ScaNN's own scores are of quantised vectors, so what it found is judged by exact ones.
            rows, _ = peers["raw"].search(held, K)
            scores = np.take_along_axis(held @ np.asarray(base[np.unique(rows)]).T, _columns(rows), 1)
            row["recall_raw"] = round(float((scores >= held_truth._least).mean()), 4)
        out["at"][str(goal)] = row
    return out


def _columns(rows: np.ndarray) -> np.ndarray:
    """Return int64 like `rows`: the place of each entry among the distinct ones."""
    return np.unique(rows, return_inverse=True)[1].reshape(rows.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--kind", choices=vectors.KINDS, default="real")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--shard_size", type=int, default=ScannSettings().shard_size)
    parser.add_argument("--out", type=Path, required=True, help="keeps vectors and indices; an index there is reused")
    parser.add_argument("--role", choices=("all", "build", "measure"), default="all", help="of a process; leave it")
    arguments = parser.parse_args()
    base, queries = vectors.make(arguments.out, arguments.kind, arguments.count)
    queries = np.array(queries)
    name = f"{arguments.kind}-{arguments.count}-{arguments.shard_size}"
    if arguments.role == "all":
        result = {}
        for engine in arguments.engines.split(","):
            result[engine] = {}
            for role in ("build", "measure"):
                options = [*sys.argv[1:], f"--engines={engine}", f"--role={role}"]
                command = [sys.executable, "-m", "benchmarks.search", *options]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=_one_thread())
                result[engine] |= json.loads(done.stdout.splitlines()[-1])
        print(json.dumps({"benchmark": "search", "kind": arguments.kind, "count": arguments.count, "engines": result}))
        return
    engine, target = arguments.engines, arguments.out / f"{name}-{arguments.engines}"
    if arguments.role == "measure":
        print(json.dumps(measure(engine, base, queries, target, arguments.shard_size)))
        return
    report = target.with_suffix(".json")
    if not report.exists():
        before, started = memory(), time.perf_counter()
        build(engine, base, target, arguments.shard_size)
        seconds, peak = time.perf_counter() - started, memory()["VmHWM"] - before["RssAnon"] - before["RssFile"]
        report.write_text(json.dumps({"build_s": round(seconds, 1), "build_peak_bytes": round(peak / len(base))}))
    print(report.read_text())


def _one_thread() -> dict[str, str]:
    """Pin this process to one core; return an environment in which every library has one thread."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return os.environ | {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


if __name__ == "__main__":
    main()
