"""SFT: tokens a second of one optimizer step on the peers' shape, every token trained on. Prints one JSON line.

    python -m benchmarks.sft                            8 rows of 512 tokens, AdamW, float32
    python -m benchmarks.sft --peer='PYTHON FOLDER'     the peer's tunix_sft.py in turn with ours; the ratio
"""

import json
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks import workload
from configs import common
from masksearch_jax import distributed, sharding
from masksearch_jax.model import transformer
from masksearch_jax.trainers import optimizer, sft, state

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds.")
_STEPS = flags.DEFINE_integer("steps", 10, "Optimizer steps of a round.")
_DEVICES = flags.DEFINE_integer("cpu_devices", 2, "Devices that a CPU host counts as.")
_PEER = flags.DEFINE_string("peer", "", "Python of the peer's environment and folder of its scripts: runs it in turn.")


def batch(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Full rows of random ids: int32 and bool [rows, length], as data.pipeline makes them."""
    shape = workload.SFT_ROWS, workload.SFT_LENGTH
    ids = rng.integers(3, workload.MODEL.vocab_size, shape, dtype=np.int32)
    mask = np.ones(shape, bool)
    mask[:, -1] = False  # nothing follows
    return {
        "ids": ids,
        "targets": np.roll(ids, -1, axis=1),
        "positions": np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1)),
        "segments": np.ones(shape, np.int32),
        "loss_mask": mask,
    }


def peer(python: str, folder: str) -> float:
    """Tokens a second of one round of the peer's script."""
    done = subprocess.run([python, "tunix_sft.py"], cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["tokens_per_s"]


def main(_) -> None:
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    mesh = sharding.make_mesh()
    rng = np.random.default_rng(0)
    rates, ratios = [], []
    with jax.set_mesh(mesh):
        tx = optimizer.build(common.optimizer("adamw", 1e-4), transformer.abstract_params(workload.MODEL, mesh))
        step = sft.make_step(workload.MODEL, tx, mesh, 1)
        train = state.create(transformer.init_params(workload.MODEL, 0, mesh), workload.MODEL, tx, mesh)
        for number in range(_ROUNDS.value + 1):
            began = time.perf_counter()
            for _ in range(_STEPS.value):
                train, sums = step(train, distributed.put(batch(rng), sharding.batch_sharding(mesh)))
            jax.block_until_ready(train)
            if number == 0:
                continue  # compilation
            tokens = _STEPS.value * workload.SFT_ROWS * workload.SFT_LENGTH
            rates.append(tokens / (time.perf_counter() - began))
            if _PEER.value:
                ratios.append(rates[-1] / peer(*_PEER.value.split()))
    loss, count = sums["loss"]
    print(json.dumps({
        "benchmark": "sft",
        "tokens_per_s": round(statistics.median(rates), 1),
        "ratio": round(statistics.median(ratios), 2) if ratios else None,
        "ratios": [round(ratio, 2) for ratio in ratios],
        "loss": round(float(loss / count), 4),
        "settings": {flag.name: flag.value for flag in (_STEPS, _DEVICES, _ROUNDS)},
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
