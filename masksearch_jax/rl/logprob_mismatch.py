"""How far the sampler's log-probs are from the trainer's.

Both should be the log-probs of the same tokens under the same parameters. A difference comes from a bug or from
arithmetic (another kernel, another dtype), and RL on wrong log-probs fails silently. Plain numpy.
"""

import numpy as np


def measure(trainer: np.ndarray, sampler: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return {name: (sum, count)} from both log-probs float32 [n] of the same n tokens; {} if n is 0.

    sampler_abs_diff: |trainer - sampler|. sampler_kl: sampler - trainer, an estimate of KL(sampler || trainer).
    sampler_max_diff: the largest |trainer - sampler|. sampler_prob_diff: |difference| of the probabilities.
    sampler_correlation: Pearson's correlation of the probabilities; left out if either side is constant.
    """
    if not len(trainer):
        return {}
    count = float(len(trainer))
    difference = np.asarray(trainer, np.float64) - np.asarray(sampler, np.float64)
    ours, theirs = np.exp(np.asarray(trainer, np.float64)), np.exp(np.asarray(sampler, np.float64))
    found = {
        "sampler_abs_diff": (float(np.abs(difference).sum()), count),
        "sampler_kl": (float(-difference.sum()), count),
        "sampler_max_diff": (float(np.abs(difference).max()), 1.0),
        "sampler_prob_diff": (float(np.abs(ours - theirs).sum()), count),
    }
    if ours.std() > 0 and theirs.std() > 0:
        found["sampler_correlation"] = (float(np.corrcoef(ours, theirs)[0, 1]), 1.0)
    return found
