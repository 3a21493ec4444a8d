"""How far the sampler's log-probs are from the trainer's, and when that is alarming.

Both should be the log-probs of the same tokens under the same parameters. A difference comes from a bug or from
arithmetic (another kernel, another dtype), and RL on wrong log-probs fails silently. Plain numpy.
"""

from collections.abc import Mapping, Sequence

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


def alarms(measured: Mapping[str, tuple[float, float]], prob_diff: float, correlation: float) -> Sequence[str]:
    """Return a sentence for each limit that the values of `measure` violate, as a value that is not finite does.

    prob_diff: the highest allowed mean difference of probabilities (verl's documentation calls 0.01 alarming and 0.005
    healthy). correlation: the lowest allowed correlation.
    """
    found = []
    mean, lowest = (
        (measured[name][0] / measured[name][1] if name in measured else fine)
        for name, fine in (("sampler_prob_diff", 0.0), ("sampler_correlation", 1.0))
    )
    if not mean <= prob_diff:
        found.append(f"their probabilities differ by {mean:.4g} on average, over dapo.alarm_prob_diff={prob_diff}")
    if not lowest >= correlation:
        found.append(f"they correlate by {lowest:.4g}, under dapo.alarm_correlation={correlation}")
    return found
