"""DAPO's dynamic sampling: which groups of a rollout are trained on, and what happens to surplus groups.

In: per group, the scores of its samples (format + answer, before any length term) and the policy version that wrote
it. Out: group ids. Everything is ordered by id, never by arrival, so that thread timing decides nothing. Left out:
generating more groups until enough are kept (trainers/rollout_batch.py).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from masksearch_jax.rl.advantages import CONSTANT

# An int, or a tuple such as (epoch, prompt). Ids have to sort in the order in which the groups were drawn.
GroupId = TypeVar("GroupId", int, tuple[int, ...])


def informative(scores: Sequence[float], tol: float = CONSTANT) -> bool:
    """Return True if max - min of the scores exceeds `tol`. NaN scores (a failed judge) are ignored.

    Scores are format + answer. With the length term added, a group of wrong answers of different lengths would pass.
    """
    known = np.asarray(scores, np.float64)
    known = known[~np.isnan(known)]
    return bool(known.size >= 2 and known.max() - known.min() > tol)


def keep_groups(scores: Mapping[GroupId, Sequence[float]], tol: float = CONSTANT) -> list[GroupId]:
    """Return the ids of the informative groups, in order of id."""
    return sorted(group for group, values in scores.items() if informative(values, tol))


@dataclasses.dataclass(frozen=True)
class Selection(Generic[GroupId]):
    """What happens to the kept groups, as ordered lists of ids.

    batch: trained on now. carried: kept for the next rollout batch. dropped: surplus or too old.
    """

    batch: list[GroupId]
    carried: list[GroupId]
    dropped: list[GroupId]


def select(kept: Mapping[GroupId, int], target: int, version: int, carry_over: bool = False) -> Selection[GroupId]:
    """Select the first `target` groups by id for training. kept: id -> policy version that wrote the group.

    version: the policy version of this rollout batch. Groups more than one version older are dropped. Without
    `carry_over` (the paper's DAPO) surplus groups are dropped too. With it (our extension) surplus groups written by
    this version wait for the next batch, where they are one version old. That is the limit, so a group is never carried
    twice. A carried group is trained on with its behaviour log-probs as denominator (`update_batch.with_old_logp`).
    Raises ValueError for a target below 1 or a group from a later version.
    """
    if target < 1:
        raise ValueError(f"target must be at least one group, got {target}")
    newer = [group for group, written in kept.items() if written > version]
    if newer:
        raise ValueError(f"groups {newer[:4]} were written by a later policy version than {version}")
    fresh_enough = [group for group in sorted(kept) if kept[group] >= version - 1]
    batch: list[GroupId] = fresh_enough[:target]
    surplus: list[GroupId] = fresh_enough[target:]
    carried: list[GroupId] = [group for group in surplus if carry_over and kept[group] == version]
    used = {*batch, *carried}
    return Selection(batch, carried, [group for group in sorted(kept) if group not in used])
