"""Measure tokens per second of one SFT optimizer step on the peers' shape. Prints one JSON line.

    python -m benchmarks.sft                            8 rows of 512 tokens, all trained on, AdamW, float32
    python -m benchmarks.sft --peer='PYTHON FOLDER'     the peer's tunix_sft.py in turn with ours; the ratio
    python -m benchmarks.sft --pretrained=HF_FOLDER     a published model: 4 rows of 640, the last 15 % trained on
    python -m benchmarks.sft --pretrained=HF_FOLDER --peer='PYTHON FOLDER'   beside the peer's smollm2_torch_sft.py

Peak memory is that of the whole process, compilation included, and of the largest peer.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks import workload
from configs import common
from masksearch_jax.model import config as model_config
from masksearch_jax.model import transformer
from masksearch_jax.model.policy import Policy
from masksearch_jax.model.published import load
from masksearch_jax.runtime import cli, distributed
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import optimizer, sft, state

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds.")
_STEPS = flags.DEFINE_integer("steps", 0, "Optimizer steps of a round; 0: 10 of the small model, 1 of a published one.")
_DEVICES = flags.DEFINE_integer("cpu_devices", 2, "Devices that a CPU host counts as.")
_PEER = flags.DEFINE_string("peer", "", "Python of the peer's environment and folder of its scripts: runs it in turn.")
_PRETRAINED = flags.DEFINE_string("pretrained", "", "Folder of a published model to train, instead of the small one.")
_ROWS = flags.DEFINE_integer("rows", 4, "Rows of a published model's batch.")
_LENGTH = flags.DEFINE_integer("length", 640, "Tokens of such a row; all rows are full.")
_TRAINED = flags.DEFINE_integer("trained", 15, "Percent of such a row that is trained on: its last tokens.")
_ATTENTION = flags.DEFINE_string("attention", "auto", "model.attention of a published model.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "model.dtype of a published model.")
_REMAT = flags.DEFINE_string("remat", "none", "model.remat of a published model.")
_RANK = flags.DEFINE_integer("lora_rank", 0, "Trains adapters of this rank; 0: all weights.")


def batch(rng: np.random.Generator, vocab_size: int, rows: int, length: int, trained: int) -> dict[str, np.ndarray]:
    """Return full rows of random ids; the last `trained` targets of each row are trained on.

    The arrays are int32 and bool [rows, length], as data.pipeline makes them.
    """
    shape = rows, length
    ids = rng.integers(3, vocab_size, shape, dtype=np.int32)
    mask = np.zeros(shape, bool)
    mask[:, length - trained - 1 : -1] = True  # nothing follows the last token
    return {
        "ids": ids,
        "targets": np.roll(ids, -1, axis=1),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "segments": np.ones(shape, np.int32),
        "loss_mask": mask,
    }


def peer(python: str, folder: str) -> float:
    """Run one round of the peer's script; return its tokens per second."""
    command = [python, "tunix_sft.py"]
    if _PRETRAINED.value:
        shape = [f"--rows={_ROWS.value}", f"--length={_LENGTH.value}"]
        command = [python, "smollm2_torch_sft.py", _PRETRAINED.value, *shape, "--steps=2"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["tokens_per_s"]


def model(mesh) -> tuple[Policy, transformer.Params]:
    """Return the small model with random weights, or the published one, with fresh adapters if they are asked for."""
    if not _PRETRAINED.value:
        policy = Policy(workload.MODEL, mesh)
        return policy, policy.init_params(0)
    chosen = {"attention": _ATTENTION.value, "dtype": _DTYPE.value, "remat": _REMAT.value}
    cfg, params = load.load_pretrained(_PRETRAINED.value, mesh, **chosen)
    adapters = model_config.LoraConfig(_RANK.value) if _RANK.value else None
    policy = Policy(dataclasses.replace(cfg, lora=adapters), mesh)
    return policy, policy.adapt(params, 0)


def main(_) -> None:
    cli.split_cpu(_DEVICES.value)
    mesh = mesh_lib.make_mesh()
    rng = np.random.default_rng(0)
    rates, ratios, cpu = [], [], []
    rows, length, trained = workload.SFT_ROWS, workload.SFT_LENGTH, workload.SFT_LENGTH - 1
    steps = _STEPS.value or 10
    if _PRETRAINED.value:
        rows, length, trained = _ROWS.value, _LENGTH.value, _LENGTH.value * _TRAINED.value // 100
        steps = _STEPS.value or 1
    with jax.set_mesh(mesh):
        policy, params = model(mesh)
        rate = 1e-5 if _PRETRAINED.value else 1e-4
        tx = optimizer.build_optimizer(common.optimizer("adamw", rate), policy.abstract_trainable)
        step = sft.make_step(policy, tx, 1)
        train, base = state.create_state(policy, tx, params), policy.split(params)[1]
        del params
        for number in range(_ROUNDS.value + 1):
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(steps):
                made = batch(rng, policy.config.vocab_size, rows, length, trained)
                train, sums = step(train, distributed.put(made, mesh_lib.batch_sharding(mesh)), base)
            jax.block_until_ready(train)
            if number == 0:
                continue  # the round that compiles
            rates.append(steps * rows * length / (time.perf_counter() - began))
            cpu.append((time.process_time() - busy) / steps)
            if _PEER.value:
                ratios.append(rates[-1] / peer(*_PEER.value.split()))
            # A round of a published model takes minutes, so show each.
            print(f"round {number}: {rates[-1]:.1f} tokens/s", *map("beside the peer x {:.2f}".format, ratios[-1:]),
                  file=sys.stderr)  # fmt: skip
    loss, count = sums["loss"]
    print(json.dumps({
        "benchmark": "sft",
        "tokens_per_s": round(statistics.median(rates), 1),
        "ratio": round(statistics.median(ratios), 2) if ratios else None,
        "ratios": [round(ratio, 2) for ratio in ratios],
        "cpu_s": round(statistics.median(cpu), 2),  # CPU seconds of a step, which other work hardly changes
        "loss": round(float(loss / count), 4),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "peer_peak_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 2) if ratios else None,
        "settings": {
            flag.name: flag.value
            for flag in (_STEPS, _DEVICES, _ROUNDS, _PRETRAINED, _ROWS, _LENGTH, _TRAINED, _ATTENTION, _DTYPE, _REMAT,
                         _RANK)
        },
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
