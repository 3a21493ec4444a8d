"""Measure the model FLOPs utilisation of a finished SFT stage on the machine at hand. Prints one JSON line.

    python -m masksearch_jax.train --config=configs/sft.py --workdir=W
    python -m benchmarks.mfu --stage=W/sft

A training token counts 6 FLOPs per parameter (a tied embedding is counted once, an untied one as two tables), and 12
per layer, head, head dimension and visible position of causal attention (PaLM, appendix B). The peak is the rate that a
float32 product of two square matrices reaches here.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime import metrics

_STAGE = flags.DEFINE_string("stage", None, "Folder of a stage of SFT.", required=True)
_SIZE = flags.DEFINE_integer("size", 2048, "Of the matrices of the peak.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Products; the fastest counts.")


def flops_of_token(cfg: ModelConfig, parameters: int, length: float) -> float:
    """Return the FLOPs of a token, forward and backward pass, as the mean over an example of `length` tokens."""
    return 6 * parameters + 12 * cfg.layers * cfg.heads * cfg.head_dim * length / 2


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


def main(_) -> None:
    folder = Path(_STAGE.value)
    rows = [row for row in metrics.read_rows(folder / "metrics.jsonl") if "tokens_per_s" in row]
    if len(rows) < 2:
        raise SystemExit(f"{folder}/metrics.jsonl has {len(rows)} rows with tokens_per_s; 2 are needed (sft.log_every)")
    cfg = ModelConfig(**json.loads((folder / "config.json").read_text())["model"])
    parameters = sum(x.size for x in jax.tree.leaves(transformer.abstract_params(cfg, mesh_lib.make_mesh())))
    rate = statistics.median(row["tokens_per_s"] for row in rows[1:])  # the first row includes compilation
    length = sum(row["tokens"] for row in rows) / rows[-1]["examples"]
    done, best = rate * flops_of_token(cfg, parameters, length), peak(_SIZE.value, _ROUNDS.value)
    print(json.dumps({
        "benchmark": "mfu", "parameters": parameters, "example_tokens": round(length, 1),
        "tokens_per_s": round(rate, 1), "gflop_per_s": round(done / 1e9, 2), "peak_gflop_per_s": round(best / 1e9, 1),
        "mfu": round(done / best, 4),
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
