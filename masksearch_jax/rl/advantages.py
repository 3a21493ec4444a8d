"""From rewards of a group of trajectories to one advantage per trajectory (DAPO, arXiv 2503.14476, section 2)."""

import numpy as np

# Rewards closer than this are equal. Exact equality fails in floating point: np.std([0.1] * 3) is 1.4e-17, not 0.
CONSTANT = 1e-6

MODES = ("group", "mean")


def group_advantages(
    rewards: np.ndarray, ddof: int = 1, eps: float = 1e-6, mode: str = "group", tol: float = CONSTANT
) -> np.ndarray:
    """Returns the advantages, float64 [groups, n], of `rewards` [groups, n]: n samples of one prompt in each row.

    mode 'group': (R - mean) / (std + eps), std with `ddof` (1 as torch.std, verl and Tunix; the paper gives none).
    mode 'mean': R - mean (Dr.GRPO, arXiv 2503.20783). A constant group (max - min <= tol) and one with fewer than two
    samples carry no signal: zeros. A NaN reward (its judge failed) stays NaN and stays out of its group's mean and std;
    `rl.batch` drops the sample. Raises ValueError for rewards that are not two-dimensional or are infinite, and for an
    unknown mode.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [groups, n], got shape {rewards.shape}")
    if np.isinf(rewards).any():
        raise ValueError(f"rewards hold infinite values at {np.argwhere(np.isinf(rewards))[:4].tolist()}")
    if mode not in MODES:
        raise ValueError(f"advantage mode {mode!r} is none of {MODES}")
    out = np.full(rewards.shape, np.nan)
    for row, group in zip(out, rewards, strict=True):
        known = ~np.isnan(group)
        row[known] = _advantages_of(group[known], ddof, eps, mode, tol)
    return out


def _advantages_of(group: np.ndarray, ddof: int, eps: float, mode: str, tol: float) -> np.ndarray:
    if group.size < 2 or group.max() - group.min() <= tol:
        return np.zeros_like(group)
    centred = group - group.mean()
    return centred if mode == "mean" else centred / (group.std(ddof=ddof) + eps)
