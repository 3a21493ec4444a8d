"""From a rollout batch to optimizer steps: the update batches of an iteration, and the steps that take them.

Enters: groups with rewards, and a program for the trainer's log-probs. Leaves: a new train state. The log-probs of all
updates are computed before the first step, which donates the parameters that they need.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from masksearch_jax.model import flops
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rl import advantages, logprob_mismatch, update_batch
from masksearch_jax.runtime import distributed, metrics
from masksearch_jax.runtime.types import Params
from masksearch_jax.trainers import rollout_batch
from masksearch_jax.trainers.stage_settings import DapoSettings
from masksearch_jax.trainers.state import TrainState


def update_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the sharding of an UpdateBatch [M, R, T]: rows over the data axes."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def batch_shape(
    settings: DapoSettings, total_tokens: int, mesh: jax.sharding.Mesh | None = None
) -> update_batch.BatchShape:
    """Return the buckets of update shapes. mesh: None skips the check that rows divide over it.

    Raises ValueError if an episode or a mini-batch may not fit, or if rows do not divide over the mesh.
    """
    shape = update_batch.BatchShape(
        tuple(settings.row_lengths),
        settings.rows,
        tuple(settings.micro_batches),
        share_prefixes=settings.share_prefixes,
    )
    if max(shape.lengths) < total_tokens:
        raise ValueError(
            f"dapo.row_lengths={shape.lengths}: an episode may have episode.total_tokens={total_tokens} tokens"
        )
    trajectories = -(-settings.groups * settings.group_size // settings.minibatches)
    if shape.rows * max(shape.micro) < trajectories:  # each may need a row of its own
        raise ValueError(
            f"dapo.rows={shape.rows} x micro_batches={shape.micro} are fewer than the {trajectories} rows that a "
            "mini-batch may need; raise either"
        )
    shards = mesh.shape["data"] * mesh.shape["fsdp"] if mesh is not None else 1
    if shape.rows % shards:
        raise ValueError(f"dapo.rows={shape.rows} does not divide over {shards} shards (mesh data x fsdp)")
    return shape


def on_devices(
    old_logprobs: Callable, trainable: Params, base: Params, mesh: jax.sharding.Mesh, update: update_batch.UpdateBatch
) -> np.ndarray:
    """Return the log-probs [M, R, T] of a batch as a numpy array on every process.

    old_logprobs: the program of `dapo_programs.make_programs`; trainable and base are its arguments.
    """
    return distributed.fetch(old_logprobs(trainable, distributed.put(update, update_sharding(mesh)), base))


def build_updates(
    groups: Sequence[rollout_batch.Group],
    settings: DapoSettings,
    shape: update_batch.BatchShape,
    old_logprobs: Callable[[update_batch.UpdateBatch], np.ndarray],
    version: int,
    means: metrics.Mean,
) -> list[update_batch.UpdateBatch]:
    """Return the rollout batch as `settings.minibatches` updates with the trainer's log-probs as denominator.

    The result is [] if there are no groups or the judge gave no verdict at all. old_logprobs: computes log-probs under
    the parameters of policy `version`, so it has to be called before the first optimizer step. `means` gets the
    mismatch between these and the sampler's log-probs of that version's tokens, by how many versions the tokens lag
    behind, and with settings.share_prefixes the share of the samples' tokens that is not computed again. With
    settings.old_logprobs 'sampler' the denominator is the sampler's log-prob, and nothing is recomputed or compared;
    `approx_kl` of the first update then measures the mismatch.
    """
    if not groups:
        return []
    scaled = advantages.group_advantages(
        np.array([[r.total for r in g.rewards] for g in groups]), mode=settings.advantage
    )
    items = [(t, a) for g, row in zip(groups, scaled, strict=True) for t, a in zip(g.trajectories, row, strict=True)]
    if all(np.isnan(advantage) for _, advantage in items):  # the judge gave no verdict on any of them
        return []
    updates = update_batch.build_batches(items, settings.minibatches, shape)
    for update in updates:
        means.add({"staleness": (float((version - update.versions)[update.mask].sum()), float(update.tokens))})
    if settings.share_prefixes:
        whole = sum(len(trajectory.ids) for trajectory, advantage in items if not np.isnan(advantage))
        computed = sum(int(np.count_nonzero(update.segments)) for update in updates)
        means.add({"shared_tokens": (float(whole - computed), float(whole))})
    if settings.old_logprobs == "sampler":
        return updates
    pairs = []
    for i, update in enumerate(updates):
        recomputed = np.asarray(old_logprobs(update))
        current = update.mask & (update.versions == version)
        pairs.append((recomputed[current], update.sampler_logp[current]))
        updates[i] = update_batch.with_old_logp(update, recomputed, None if settings.staleness else version)
    means.add(logprob_mismatch.measure(*(np.concatenate(side) for side in zip(*pairs, strict=True))))
    return updates


def model_flops(
    cfg: ModelConfig, settings: DapoSettings, updates: Sequence[update_batch.UpdateBatch]
) -> dict[str, float]:
    """Return the model FLOPs of training on `updates`, and of the log-probs that were recomputed for them."""
    loads = (flops.of_rows(cfg, update.segments, update.positions, update.tokens) for update in updates)
    load = sum(loads, flops.Load())
    recomputed = settings.old_logprobs == "trainer"
    return {"logprobs": flops.forward(cfg, load) if recomputed else 0.0, "update": flops.training(cfg, load)}


class UpdateSteps:
    """The optimizer steps of one iteration, which can be taken one by one while a rollout runs.

    state: the newest. ratio_counts: of each step taken, how many of its tokens reached each of loss.RATIO_EDGES.
    """

    def __init__(
        self,
        step: Callable,
        state: TrainState,
        updates: Sequence[update_batch.UpdateBatch],
        base: Params,
        mesh: jax.sharding.Mesh,
        means: metrics.Mean,
        version: int,
    ):
        """step: the program (state, UpdateBatch, base) -> (state, sums). version: of the policy after the steps."""
        self.state = state
        self._step, self._left, self._base, self._means = step, list(updates), base, means
        self._layout, self._version = update_sharding(mesh), version
        self.ratio_counts: list[jax.Array] = []

    def take(self) -> bool:
        """Take the next step, if any is left, and wait for it. Returns True if more are left."""
        if self._left:
            jax.block_until_ready(self._take())
        return bool(self._left)

    def take_rest(self) -> TrainState:
        """Take all steps that are left, and return the state after them."""
        while self._left:
            self._take()
        return self.state

    def _take(self):
        distributed.alive(f"dapo update {self._version}")
        self.state, sums = self._step(self.state, distributed.put(self._left.pop(0), self._layout), self._base)
        self.ratio_counts.append(sums.pop("ratio_counts")[0])
        self._means.add(sums)
        return sums
