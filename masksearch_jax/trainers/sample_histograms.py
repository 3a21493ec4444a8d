"""The distributions of an iteration of DAPO that TensorBoard and W&B show.

Enters: the groups and update batches that were trained on. Leaves: histograms. It is called only if they are shown.
"""

from collections.abc import Sequence

import jax
import numpy as np

from masksearch_jax.rl import loss
from masksearch_jax.rl.update_batch import UpdateBatch
from masksearch_jax.runtime.metrics import Histogram
from masksearch_jax.trainers.rollout_batch import Group


def histograms(
    groups: Sequence[Group], updates: Sequence[UpdateBatch], version: int, ratio_counts: Sequence[jax.Array]
) -> dict[str, Histogram]:
    """Return the histograms by name; one without any values is left out.

    `advantages` and `lengths` (tokens that the policy wrote) count episodes. `logprob_differences` (trainer minus
    sampler, of the tokens that policy `version` sampled) and `ratios` (new over old probability, as each step met them)
    count tokens. updates: as `build_updates` returned them. ratio_counts: `UpdateSteps.ratio_counts`.
    """
    differences = []
    for update in updates:
        current = update.mask & (update.versions == version)
        differences.append((update.old_logp - update.sampler_logp)[current])
    found = {
        "advantages": Histogram.of([a for update in updates for a in _by_episode(update)]),
        "lengths": Histogram.of([one.generated for group in groups for one in group.trajectories]),
        "logprob_differences": Histogram.of(np.concatenate(differences) if differences else []),
        "ratios": _ratios(ratio_counts),
    }
    return {name: one for name, one in found.items() if one is not None}


def _by_episode(update: UpdateBatch) -> np.ndarray:
    """Return the advantage of each episode of an update, in no particular order."""
    mask, sequences = np.asarray(update.mask), np.asarray(update.target_sequences)
    length = sequences.shape[-1]
    row = np.broadcast_to(np.arange(sequences.size // length).reshape(*sequences.shape[:-1], 1), sequences.shape)
    number = (row * (length + 1) + sequences)[mask]
    return np.asarray(update.advantages)[mask][np.unique(number, return_index=True)[1]]


def _ratios(reached: Sequence[jax.Array]) -> Histogram | None:
    if not reached:
        return None
    at_least = np.sum([np.asarray(one, np.float64) for one in reached], axis=0)
    counts = np.rint(at_least - np.append(at_least[1:], 0)).astype(np.int64)
    edges = np.array([*loss.RATIO_EDGES, np.exp(loss.LOG_RATIO_LIMIT)])
    return Histogram(edges, counts) if counts.any() else None
