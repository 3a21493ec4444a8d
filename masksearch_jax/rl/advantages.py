"""The advantage of each trajectory, from the rewards of its group (DAPO, arXiv 2503.14476, section 2)."""

import numpy as np

# Rewards that differ by no more than this count as equal. Exact equality fails in floating point: np.std([0.1] * 3) is
# 1.4e-17, not 0.
CONSTANT = 1e-6

MODES = ("group", "mean")


def group_advantages(
    rewards: np.ndarray, ddof: int = 1, eps: float = 1e-6, mode: str = "group", tol: float = CONSTANT
) -> np.ndarray:
    """Return the advantages, float64 [groups, n], of `rewards` [groups, n]. Each row holds n samples of one prompt.

    mode 'group': (R - mean) / (std + eps), std with `ddof` (1 as in torch.std, verl and Tunix; the paper gives none).
    mode 'mean': R - mean (Dr.GRPO, arXiv 2503.20783). A constant group (max - min <= tol) or one with fewer than two
    samples carries no signal, so its advantages are 0. A NaN reward (its judge failed) gives a NaN advantage and is
    left out of its group's mean and std; `update_batch.build_batches` drops the sample. Raises ValueError for rewards
    that are not two-dimensional or are infinite, and for an unknown mode.
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
    centred: np.ndarray = group - group.mean()
    return centred if mode == "mean" else centred / (group.std(ddof=ddof) + eps)
