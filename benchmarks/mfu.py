"""Measure the model FLOPs utilisation of a finished stage on the machine at hand. Prints one JSON line.

    python -m masksearch_jax.train --config=configs/sft.py --workdir=W
    python -m benchmarks.mfu --stage=W/sft

The rows of a stage hold `flops_per_s` (masksearch_jax/model/flops.py), and `mfu` where the maker of the devices names a
peak. A CPU has none: here the peak is the rate that a float32 product of two square matrices reaches.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags

from masksearch_jax.runtime import metrics

_STAGE = flags.DEFINE_string("stage", None, "Folder of a stage, such as W/sft.", required=True)
_SIZE = flags.DEFINE_integer("size", 2048, "Of the matrices of the peak.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Products; the fastest counts.")


def peak(size: int, rounds: int) -> float:
    """Return the FLOP/s of float32 products of [size, size]."""
    a = jnp.ones((size, size), jnp.float32)
    product, seconds = jax.jit(jnp.matmul), []
    product(a, a).block_until_ready()
    for _ in range(rounds):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def rates(rows: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Return the median tokens per second and FLOP/s of the rows but the first, which includes compilation."""
    found = [[row[name] for row in rows[1:]] for name in ("tokens_per_s", "flops_per_s")]
    return statistics.median(found[0]), statistics.median(found[1])


def main(_) -> None:
    path = Path(_STAGE.value) / "metrics.jsonl"
    rows = [row for row in metrics.read_rows(path) if "flops_per_s" in row]
    if len(rows) < 2:
        raise SystemExit(f"{path} has {len(rows)} rows with flops_per_s; 2 are needed (sft.log_every)")
    (tokens, done), best = rates(rows), peak(_SIZE.value, _ROUNDS.value)
    print(json.dumps({
        "benchmark": "mfu", "tokens_per_s": round(tokens, 1), "gflop_per_s": round(done / 1e9, 2),
        "peak_gflop_per_s": round(best / 1e9, 1), "mfu": round(done / best, 4),
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
