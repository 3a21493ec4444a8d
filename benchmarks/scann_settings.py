"""Measure recall@10 and queries per second of raw ScaNN by what is fixed at its build. Prints a JSON line per setting.

    python -m benchmarks.scann_settings --out=FOLDER leaves=316,soar=0 leaves=632,soar=1.5,reordering=INT8

Each setting is built anew over the vectors of benchmarks/vectors.py. The first 500 queries search it in one call, for
each number of leaves and of reordered candidates. The line holds "leaves/reordered": [recall, queries a second]. One
thread.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks import vectors
from masksearch_jax.retrieval.index import exact, scann_index

K = 10
LEAVES = (4, 8, 16, 32, 64, 128, 192, 256, 400)
REORDERED = (30, 60, 120, 300, 1000)
DEFAULTS = {"leaves": 316, "soar": 0.0, "dims_per_block": 2, "reordering": "FLOAT32"}


def build(base: np.ndarray, setting: dict):
    module = scann_index._scann()
    sample = min(len(base), 100_000)
    builder = module.scann_ops_pybind.builder(base, K, "dot_product").set_n_training_threads(1)
    builder = builder.tree(setting["leaves"], 1, training_sample_size=sample, soar_lambda=setting["soar"] or None)
    builder = builder.score_ah(
        setting["dims_per_block"], anisotropic_quantization_threshold=0.2, training_sample_size=sample
    )
    return builder.reorder(100, quantize=module.ReorderType[setting["reordering"]]).build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--kind", choices=vectors.KINDS, default="real")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("settings", nargs="+")
    arguments = parser.parse_args()
    base, queries = map(np.array, vectors.make(arguments.out, arguments.kind, arguments.count))
    queries = queries[:500]
    truth, _ = exact.ExactSearcher(base).search(queries, K)
    for text in arguments.settings:
        given = dict(pair.split("=") for pair in text.split(","))
        setting = {name: type(value)(given.get(name, value)) for name, value in DEFAULTS.items()}
        searcher, found = build(base, setting), {}
        for leaves in LEAVES:
            for reordered in REORDERED if leaves <= setting["leaves"] else ():
                started = time.perf_counter()
                rows, _ = searcher.search_batched(queries, K, reordered, leaves)
                rate = len(queries) / (time.perf_counter() - started)
                shared = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(rows, truth, strict=True)])
                found[f"{leaves}/{reordered}"] = [round(float(shared), 3), round(rate)]
        print(json.dumps(setting | {"found": found}), flush=True)


if __name__ == "__main__":
    main()
