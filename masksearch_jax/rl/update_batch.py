"""The fixed-shape arrays of a few optimizer steps, built from trajectories and their advantages.

In: (trajectory, advantage) in the order of their groups. Out: one `UpdateBatch` per optimizer step (mini-batch), its
arrays stacked by micro-batch. All per-token values are shifted once, here: position t holds the values of the token
that it predicts, id t + 1. Masks come from lengths and from what the sampler recorded, never from ids. With shared
prefixes (prefix_trees.py) these values stand in entries of their own instead of at positions. Left out:
putting arrays on devices, and dividing by the count (`tokens`, the sum of a mini-batch's mask).

Axes: M micro-batches, R rows, T positions.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import jax
import numpy as np

from masksearch_jax.data import packing
from masksearch_jax.rl import prefix_trees
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.runtime.types import Leaf

# The per-token arrays of each sequence of a mini-batch, by name.
Features: TypeAlias = Sequence[Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The shapes that an update may have. One program is compiled for each (length, micro-batches) that occurs.

    lengths: the row lengths T to choose from. rows: rows R of a micro-batch. micro: the numbers of micro-batches M to
    choose from. packed: True for several sequences per row, kept apart by segment ids; False for one per row.
    share_prefixes: lay out the sequences of a row as a tree, in which a common prefix stands once.
    """

    lengths: tuple[int, ...]
    rows: int
    micro: tuple[int, ...] = (1,)
    packed: bool = True
    share_prefixes: bool = False

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("rows", [self.rows]), ("micro", self.micro)):
            if not values or min(values) < 1:
                raise ValueError(f"batch shape {name} must hold positive numbers, got {values}")
        if self.share_prefixes and not self.packed:
            raise ValueError("batch shape share_prefixes puts several sequences into a row; set packed=True")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateBatch:
    """The tokens of one optimizer step. Every field is [M, R, T], or [R, T] inside a scan over micro-batches.

    The last three fields are None unless sequences share prefixes. Then a row holds trees of tokens, and the fields
    from `targets` to `advantages` hold one value for each sampled token of each sequence, at the front of the row.
    """

    ids: Leaf  # int32, what the model reads
    positions: Leaf  # int32, from 0 in every sequence; the depth in a tree
    segments: Leaf  # int32, 1, 2, .. along a row, of the sequence or tree that a position belongs to; 0 is padding
    targets: Leaf  # int32, id t + 1 of the same sequence; 0 where there is none
    mask: Leaf  # bool, True where the policy sampled the target
    sampler_logp: Leaf  # float32, log-prob of the target as the sampler reported it; 0 outside the mask
    old_logp: Leaf  # float32, denominator of the ratio; the sampler's log-prob until `with_old_logp` replaces it
    versions: Leaf  # int32, policy version that sampled the target; -1 outside the mask
    advantages: Leaf  # float32, of the target's trajectory; 0 outside the mask
    ends: Leaf | None = None  # int32, one past the last index of the subtree of a position
    sources: Leaf | None = None  # int32, index in its row of the position that predicts a target
    sequences: Leaf | None = None  # int32, 1, 2, .. along a row, of the sequence that a target belongs to; 0 is none

    @property
    def target_sequences(self) -> Leaf:
        """The number within its row of the sequence that each target belongs to; 0 is none."""
        return self.segments if self.sequences is None else self.sequences

    @property
    def tokens(self) -> int:
        """The number of targets that the policy sampled. The loss sum is divided by it."""
        return int(self.mask.sum())


def with_old_logp(batch: UpdateBatch, recomputed: np.ndarray | jax.Array, version: int | None) -> UpdateBatch:
    """Return the batch with the trainer's recomputed log-probs [M, R, T] as denominator.

    recomputed: under the parameters of policy `version`. Tokens of other versions (carried-over groups) keep the
    sampler's log-prob, because the trainer no longer holds the parameters that wrote them. With version None every
    token gets the trainer's log-prob, and importance weights correct the lag (loss.truncated_importance_weights).
    """
    current = batch.mask if version is None else batch.mask & (batch.versions == version)
    old = np.where(np.asarray(current), np.asarray(recomputed, np.float32), np.asarray(batch.sampler_logp))
    return dataclasses.replace(batch, old_logp=old)


def build_batches(items: Iterable[tuple[Trajectory, float]], mini_batches: int, shape: BatchShape) -> list[UpdateBatch]:
    """Return `mini_batches` update batches (fewer if there are fewer trajectories) of one common shape.

    items: (trajectory, advantage), ordered by group and sample. They are cut into consecutive mini-batches whose sizes
    differ by at most one. A trajectory with a NaN advantage (its reward failed) is dropped. The shape is the allowed
    one with the fewest positions that fits. The result depends on the arguments alone.
    Raises ValueError that names the trajectory if its arrays disagree; also if no shape fits or nothing is left.
    """
    items = [(trajectory, float(advantage)) for trajectory, advantage in items if not np.isnan(advantage)]
    if not items or mini_batches < 1:
        raise ValueError(f"cannot build {mini_batches} mini-batches of {len(items)} trajectories")
    features = [_features(trajectory, advantage) for trajectory, advantage in items]
    groups = [trajectory.group for trajectory, _ in items]
    parts = [part for part in np.array_split(np.arange(len(items)), mini_batches) if part.size]
    chunks = [([features[i] for i in part], [groups[i] for i in part]) for part in parts]
    length, micro = _choose(chunks, shape)
    return [_lay_out(*chunk, length, micro, shape) for chunk in chunks]


def _features(trajectory: Trajectory, advantage: float) -> dict[str, np.ndarray]:
    """Return the per-token arrays of one trajectory, aligned with its ids (not shifted yet)."""
    name = f"trajectory of task {trajectory.task_id} (group {trajectory.group}, sample {trajectory.sample})"
    trainable = np.asarray(trajectory.trainable, bool)
    n = len(trajectory.ids)
    for field in ("trainable", "logprobs", "versions"):
        if len(getattr(trajectory, field)) != n:
            raise ValueError(f"{name}: {field} has {len(getattr(trajectory, field))} values for {n} ids")
    if not n or trainable[0]:
        raise ValueError(f"{name}: the first token must be the prompt's, nothing predicts it")
    if not np.isfinite(np.asarray(trajectory.logprobs)[trainable]).all():
        raise ValueError(f"{name}: logprobs of its sampled tokens are not finite")
    return {
        "ids": np.asarray(trajectory.ids, np.int32),
        "mask": trainable,
        "sampler_logp": np.where(trainable, trajectory.logprobs, 0).astype(np.float32),
        # One is added here and subtracted in `_lay_out`, so that padding, which is 0, ends up as -1.
        "versions": np.where(trainable, np.asarray(trajectory.versions) + 1, 0).astype(np.int32),
        "advantages": np.where(trainable, advantage, 0).astype(np.float32),
    }


def _choose(chunks: Sequence[tuple[Features, Sequence[int]]], shape: BatchShape) -> tuple[int, int]:
    """Return the (row length, micro-batches) with the fewest positions that holds every mini-batch.

    chunks: for each mini-batch its sequences and their groups.
    """
    longest = max(len(one["ids"]) for features, _ in chunks for one in features)
    fitting = []
    for length in sorted(shape.lengths):
        if length < longest:
            continue
        rows = max(len(_rows(*chunk, length, shape)) for chunk in chunks)
        fitting += [(length * micro, length, micro) for micro in shape.micro if micro * shape.rows >= rows]
    if not fitting:
        most = max(len(features) for features, _ in chunks)
        raise ValueError(
            f"mini-batches of up to {most} trajectories, the longest of {longest} tokens, fit none of "
            f"the shapes lengths={shape.lengths} x rows={shape.rows} x micro={shape.micro}; allow longer rows or more "
            "micro-batches"
        )
    return min(fitting)[1:]


def _rows(features: Features, groups: Sequence[int], length: int, shape: BatchShape) -> list[list[int]]:
    """Return the indices of the sequences in each row. They are assigned longest first: first fit then wastes least."""
    if shape.share_prefixes:
        return prefix_trees.assign_rows(features, groups, length)
    lengths = [len(one["ids"]) for one in features]
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if not shape.packed:
        return [[i] for i in order]
    return [[order[i] for i in row] for row in packing.pack([lengths[i] for i in order], length)]


def _lay_out(features: Features, groups: Sequence[int], length: int, micro: int, shape: BatchShape) -> UpdateBatch:
    rows, count = _rows(features, groups, length, shape), micro * shape.rows
    if shape.share_prefixes:
        fields = prefix_trees.fill(rows, features, length, count)
    else:
        fields = _aligned(packing.fill(rows, features, length, count))
    fields["versions"] -= 1
    fields["old_logp"] = fields["sampler_logp"].copy()
    return UpdateBatch(**{name: value.reshape(micro, shape.rows, length) for name, value in fields.items()})


def _aligned(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return packed rows with targets, and what belongs to a target at the position that predicts it."""
    shifted = {name: packing.of_next(flat[name], flat["segments"]) for name in prefix_trees.PER_ENTRY}
    return flat | {"targets": packing.of_next(flat["ids"], flat["segments"])} | shifted
