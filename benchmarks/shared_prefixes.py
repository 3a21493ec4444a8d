"""Measure an optimizer step of DAPO with and without `dapo.share_prefixes`, in turn. Prints one JSON line.

    python -m benchmarks.shared_prefixes                            a small model with random weights
    python -m benchmarks.shared_prefixes --pretrained=HF_FOLDER     a published model

Rows, buckets, group size and loss are those of configs/language_model.py. Groups have its lengths: a prompt of 250
tokens, a first turn of 35, results of 150 and a last turn of 60. A share `--same` of the samples of a group writes the
same first turn and reads the same results; the others part from it in the middle of the turn.
"""

import dataclasses
import json
import statistics
import sys
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks import workload
from configs import language_model
from masksearch_jax.model import packed_attention
from masksearch_jax.model.policy import Policy
from masksearch_jax.model.published import load
from masksearch_jax.rl import update_batch
from masksearch_jax.rollout.trajectory import StopReason, Trajectory
from masksearch_jax.runtime import cli, distributed
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import dapo_programs, optimizer, state, updates

_PRETRAINED = flags.DEFINE_string("pretrained", "", "Folder of a published model, instead of the small one.")
_GROUPS = flags.DEFINE_integer("groups", 4, "Groups of the step.")
_SAME = flags.DEFINE_float("same", 0.6, "Share of a group's samples that write the same first turn.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measured rounds, each a step of either kind.")
_DEVICES = flags.DEFINE_integer("cpu_devices", 2, "Devices that a CPU host counts as.")

_PROMPT, _TURN, _READ, _LAST = 250, 35, 150, 60


def samples(groups: int, group_size: int, same: float, vocab_size: int) -> list[tuple[Trajectory, float]]:
    """Return (trajectory, advantage) of random episodes of two turns, ordered by group and sample."""
    rng, found = np.random.default_rng(0), []

    def tokens(count: int) -> np.ndarray:
        return rng.integers(3, vocab_size, count, dtype=np.int32)

    trainable = np.concatenate([np.full(n, kind) for n, kind in (
        (_PROMPT, False), (_TURN, True), (_READ, False), (_LAST, True)
    )])  # fmt: skip
    for group in range(groups):
        start = tokens(_PROMPT + _TURN + _READ)
        for sample in range(group_size):
            begun = start if sample < same * group_size else start[: _PROMPT + _TURN // 2]
            ids = np.concatenate([begun, tokens(trainable.size - begun.size)])
            logprobs = np.where(trainable, -rng.random(ids.size), 0).astype(np.float32)
            found.append((Trajectory(
                task_id=f"{group}", group=group, sample=sample, ids=ids, trainable=trainable, logprobs=logprobs,
                versions=np.where(trainable, 0, -1), prompt_length=_PROMPT, turns=(), stop=StopReason.ANSWER, answer="",
            ), float(rng.normal())))  # fmt: skip
    return found


def main(_) -> None:
    cli.split_cpu(_DEVICES.value)
    config = language_model.get_config()
    settings, mesh = config.dapo, mesh_lib.make_mesh(**config.mesh.to_dict())
    cfg, params = workload.MODEL, None
    with jax.set_mesh(mesh):
        if _PRETRAINED.value:
            cfg, params = load.load_pretrained(_PRETRAINED.value, mesh, attention="auto")
        cfg = packed_attention.choose(dataclasses.replace(cfg, attention="auto"), mesh, settings.row_lengths, True)
        policy = Policy(cfg, mesh)
        tx = optimizer.build_optimizer(settings.optimizer, policy.abstract_trainable)
        step = dapo_programs.make_programs(policy, settings, tx)[1]
        train = state.create_state(policy, tx, policy.init_params(0) if params is None else params)
        del params
        items = samples(_GROUPS.value, settings.group_size, _SAME.value, cfg.vocab_size)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        rows: dict[bool, int] = {}
        for number in range(_ROUNDS.value + 1):
            for share in seconds:
                settings.share_prefixes = share
                shape = updates.batch_shape(settings, config.episode.total_tokens, mesh)
                (batch,) = update_batch.build_batches(items, 1, shape)
                rows[share] = batch.ids.shape[0] * batch.ids.shape[1]
                began = time.perf_counter()
                train, _ = step(train, distributed.put(batch, updates.update_sharding(mesh)), {})
                jax.block_until_ready(train)
                if number:  # the first round compiles
                    seconds[share].append(time.perf_counter() - began)
            print(f"round {number}: {seconds}", file=sys.stderr)
    ratios = [plain / shared for plain, shared in zip(seconds[False], seconds[True], strict=True)]
    print(json.dumps({
        "benchmark": "shared_prefixes",
        "ratio": round(statistics.median(ratios), 2),  # how many times faster a step with shared prefixes is
        "ratios": [round(ratio, 2) for ratio in ratios],
        "rows": [rows[False], rows[True]],
        "seconds": [round(statistics.median(seconds[share]), 2) for share in seconds],
        "settings": {flag.name: flag.value for flag in (_PRETRAINED, _GROUPS, _SAME, _ROUNDS, _DEVICES)},
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
