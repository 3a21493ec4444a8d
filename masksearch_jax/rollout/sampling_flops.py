"""The model FLOPs of a run of the engine, from what was read and written (model/flops.py)."""

from collections.abc import Sequence

import numpy as np

from masksearch_jax.model import flops
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rollout.trajectory import Trajectory


def of_run(
    cfg: ModelConfig,
    groups: Sequence[int],
    prompts: Sequence[np.ndarray],
    trajectories: Sequence[Trajectory],
    copied: Sequence[tuple[int, int]],
) -> float:
    """Return the FLOPs of sampling `trajectories`.

    groups, prompts: of each trajectory. Equal prompts of a group pass through the model once. The last token of a
    sequence never does, and each sampled token takes the logits of one position. copied: (first, end) of
    tokens that a sequence did not read because their keys and values were copied from another one.
    """
    shared = {(group, prompt.tobytes()): len(prompt) for group, prompt in zip(groups, prompts, strict=True)}
    prefilled = flops.of_sequences(cfg, np.array(list(shared.values())) - 1, 0)
    lengths = np.array([len(trajectory.ids) for trajectory in trajectories])
    starts = np.array([trajectory.prompt_length for trajectory in trajectories])
    sampled = sum(int(trajectory.trainable.sum()) for trajectory in trajectories)
    read = flops.forward(cfg, prefilled + flops.of_sequences(cfg, lengths - 1, sampled, known=starts - 1))
    first, end = np.array(copied, np.int64).reshape(-1, 2).T
    return read - flops.forward(cfg, flops.of_sequences(cfg, end, 0, known=first))
