"""From trajectories and their advantages to the fixed-shape arrays of a few optimizer steps.

In: (trajectory, advantage) in the order of their groups. Out: one `UpdateBatch` per optimizer step (mini-batch), its
arrays stacked by micro-batch. Everything per token is shifted once, here: position t carries what belongs to the token
that it predicts, id t + 1. Masks come from lengths and from what the sampler recorded, never from ids. Left out:
putting arrays on devices, and dividing: `tokens` of a mini-batch is the sum of its mask (design decision 5).

Axes: M micro-batches, R rows, T positions.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from masksearch_jax.data import packing
from masksearch_jax.rollout.trajectory import Trajectory

Array = np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The shapes that an update may have: one compiled program for each (length, micro-batches) that occurs.

    lengths: row lengths T to choose from. rows: rows R of a micro-batch. micro: numbers M of micro-batches to choose
    from. packed: several sequences to a row, kept apart by segment ids; else one to a row.
    """

    lengths: tuple[int, ...]
    rows: int
    micro: tuple[int, ...] = (1,)
    packed: bool = True

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("rows", [self.rows]), ("micro", self.micro)):
            if not values or min(values) < 1:
                raise ValueError(f"batch shape {name} must hold positive numbers, got {values}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateBatch:
    """One optimizer step's worth of tokens; every field [M, R, T] (or [R, T] inside a scan over micro-batches)."""

    ids: Array  # int32, what the model reads
    positions: Array  # int32, from 0 in every sequence
    segments: Array  # int32, 1, 2, .. along a row; 0 is padding
    targets: Array  # int32, id t + 1 of the same sequence; 0 where there is none
    mask: Array  # bool, the policy sampled the target
    sampler_logp: Array  # float32, log-prob of the target as the sampler reported it; 0 outside the mask
    old_logp: Array  # float32, denominator of the ratio; the sampler's until `with_old_logp`
    versions: Array  # int32, policy version that sampled the target; -1 outside the mask
    advantages: Array  # float32, of the target's trajectory; 0 outside the mask

    @property
    def tokens(self) -> int:
        """Targets that the policy sampled: the count that the loss sum is divided by."""
        return int(self.mask.sum())


def with_old_logp(batch: UpdateBatch, recomputed: Array, version: int | None) -> UpdateBatch:
    """Returns the batch with the trainer's recomputed log-probs [M, R, T] as denominator.

    recomputed: under the parameters of policy `version`. Tokens of an older version (carried-over groups) keep their
    behaviour log-prob, the sampler's: the trainer no longer holds the parameters that wrote them. None: every token
    gets the trainer's, and the lag is left to importance weights (loss.truncated_importance_weights).
    """
    current = batch.mask if version is None else batch.mask & (batch.versions == version)
    old = np.where(np.asarray(current), np.asarray(recomputed, np.float32), np.asarray(batch.sampler_logp))
    return dataclasses.replace(batch, old_logp=old)


def build(items: Iterable[tuple[Trajectory, float]], mini_batches: int, shape: BatchShape) -> list[UpdateBatch]:
    """Returns `mini_batches` update batches (fewer if there are fewer trajectories) of one common shape.

    items: (trajectory, advantage), ordered by group and sample; they are cut into consecutive mini-batches whose sizes
    differ by one at most. A NaN advantage (its reward failed) drops the trajectory. Out of the allowed shapes the one
    with the fewest positions is taken. A function of its arguments alone.
    Raises ValueError, naming the trajectory, for arrays that disagree; and if no shape fits or nothing is left.
    """
    items = [(trajectory, float(advantage)) for trajectory, advantage in items if not np.isnan(advantage)]
    if not items or mini_batches < 1:
        raise ValueError(f"cannot build {mini_batches} mini-batches of {len(items)} trajectories")
    features = [_features(trajectory, advantage) for trajectory, advantage in items]
    chunks = [[features[i] for i in part] for part in np.array_split(np.arange(len(items)), mini_batches) if part.size]
    length, micro = _choose([[len(one["ids"]) for one in chunk] for chunk in chunks], shape)
    return [_lay_out(chunk, length, micro, shape) for chunk in chunks]


def _features(trajectory: Trajectory, advantage: float) -> dict[str, np.ndarray]:
    """Returns the per-token arrays of one trajectory, each in its place in the sequence (not shifted yet)."""
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
        # Shifted up by one so that the zero of padding reads -1 in the end.
        "versions": np.where(trainable, np.asarray(trajectory.versions) + 1, 0).astype(np.int32),
        "advantages": np.where(trainable, advantage, 0).astype(np.float32),
    }


def _choose(chunks: Sequence[Sequence[int]], shape: BatchShape) -> tuple[int, int]:
    """Returns the (row length, micro-batches) with the fewest positions that holds every mini-batch of lengths."""
    longest = max(max(lengths) for lengths in chunks)
    fitting = []
    for length in sorted(shape.lengths):
        if length < longest:
            continue
        rows = max(len(_rows(lengths, length, shape.packed)) for lengths in chunks)
        fitting += [(length * micro, length, micro) for micro in shape.micro if micro * shape.rows >= rows]
    if not fitting:
        raise ValueError(
            f"mini-batches of up to {max(map(len, chunks))} trajectories, the longest of {longest} tokens, fit none of "
            f"the shapes lengths={shape.lengths} x rows={shape.rows} x micro={shape.micro}; allow longer rows or more "
            "micro-batches"
        )
    return min(fitting)[1:]


def _rows(lengths: Sequence[int], length: int, packed: bool) -> list[list[int]]:
    """Returns the sequences of each row, longest first: first fit wastes least in that order."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if not packed:
        return [[i] for i in order]
    return [[order[i] for i in row] for row in packing.pack([lengths[i] for i in order], length)]


def _lay_out(chunk: Sequence[dict[str, np.ndarray]], length: int, micro: int, shape: BatchShape) -> UpdateBatch:
    rows = _rows([len(one["ids"]) for one in chunk], length, shape.packed)
    flat = packing.fill(rows, chunk, length, micro * shape.rows)
    segments = flat["segments"]
    per_target = ("mask", "sampler_logp", "versions", "advantages")
    shifted = {name: packing.of_next(flat[name], segments) for name in per_target}
    shifted["versions"] = shifted["versions"] - 1
    fields = {
        "ids": flat["ids"],
        "positions": flat["positions"],
        "segments": segments,
        "targets": packing.of_next(flat["ids"], segments),
        "old_logp": shifted["sampler_logp"].copy(),
        **shifted,
    }
    return UpdateBatch(**{name: value.reshape(micro, shape.rows, length) for name, value in fields.items()})
