"""When training stops by itself: too many steps in a row without an update, or parameters that are not finite.

A step whose gradient is not finite changes nothing (trainers/state.py), and neither does an iteration of DAPO without a
group that carries a signal. A few of either are normal. A long run of them means that the policy is ruined or that
there is nothing to learn from. To continue would waste hours, and new checkpoints would replace the last good one.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.types import Params

# A stage does not count as finished if at least this many steps at its very end had no finite gradient.
_AT_THE_END = 3
_NOT_FINITE = "had gradients that were not finite"


class DivergedError(ValueError):
    """Training stopped because its steps no longer change anything, or because the parameters are not finite."""


@dataclasses.dataclass
class UpdateWatch:
    """The counter of steps in a row without an update.

    stage: its name, for messages. unit: 'steps' or 'iterations'. limit: this many in a row end the run; 0 turns the
    watch off. learning_rate: the peak, for the diagnosis. start: the step that the run starts or resumes from.
    """

    stage: str
    unit: str
    limit: int
    learning_rate: float
    start: int

    def __post_init__(self):
        self._pending: list[tuple[int, Mapping[str, tuple[ArrayLike, ArrayLike]]]] = []
        self._streak: list[int] = []
        self._reasons: dict[str, int] = {}
        self._last_finite: tuple[int, float, float] | None = None
        self._last_update = -1
        self._saved: int | None = None

    def add(self, step: int, sums: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
        """Add the (sum, count) pairs of a step: 'skipped', 'loss', 'grad_norm'.

        If 'skipped' is missing, the step had nothing to train on. Device arrays are not waited for until `settle`.
        """
        self._pending.append((step, {name: sums[name] for name in ("skipped", "loss", "grad_norm") if name in sums}))

    @property
    def due(self) -> bool:
        """True once `limit` steps wait for `settle`."""
        return 0 < self.limit <= len(self._pending)

    def settle(self, checkpoints: Checkpointer, last: bool = False) -> None:
        """Judge the steps added since the last call. Call it before a checkpoint is saved.

        A saved step is known to be good once a later step made an update. last: True if the stage ends here. It then
        does not count as finished if its last few steps had no finite gradient, or if a stage that started from step 0
        made no update at all.
        Raises DivergedError if the steps in a row without an update reach `limit`, or if the stage does not count as
        finished. Checkpoints newer than the good one are renamed before. With limit 0 it never raises.
        """
        for step, sums in jax.device_get(self._pending):
            means = {name: float(pair[0]) / float(pair[1]) for name, pair in sums.items() if float(pair[1])}
            taken = means.get("skipped", 1.0) < 1.0
            if taken:
                self._streak, self._reasons, self._last_update = [], {}, step
                loss, norm = means.get("loss", math.nan), means.get("grad_norm", math.nan)
                if math.isfinite(loss) and math.isfinite(norm):
                    self._last_finite = (step, loss, norm)
            else:
                self._streak.append(step)
                reason = _NOT_FINITE if "skipped" in sums else "had nothing to train on"
                self._reasons[reason] = self._reasons.get(reason, 0) + 1
        self._pending = []
        if self._saved is not None and self._last_update > self._saved:
            checkpoints.confirm(self._saved)
            self._saved = None
        ruined = list(self._reasons) == [_NOT_FINITE] and len(self._streak) >= _AT_THE_END
        in_vain = self.start == 0 and self._last_update < 0 and self._streak
        if self.limit and (len(self._streak) >= self.limit or last and (ruined or in_vain)):
            checkpoints.wait()
            raise DivergedError(self._diagnosis(checkpoints.set_aside_doubtful()))

    def saved(self, step: int) -> None:
        """Record that step `step` was saved. The next step that makes an update shows that it is good."""
        if self._saved is None:
            self._saved = step

    def _diagnosis(self, good: int | None) -> str:
        reasons = " and ".join(f"{count} {reason}" for reason, count in sorted(self._reasons.items()))
        parts = [
            f"{self.stage} stopped: {self.unit} {self._streak[0]} to {self._streak[-1]} changed nothing ({reasons})"
        ]
        if self._last_finite:
            step, loss, norm = self._last_finite
            parts.append(f"the last update was at {step}, with loss {loss:.4g} and gradient norm {norm:.4g}")
        else:
            parts.append(f"there was no update since {self.start}")
        parts.append(f"the peak learning rate is {self.learning_rate:g}")
        if good is None:
            parts.append("no checkpoint of this stage is known to be good; the others were renamed to diverged-*")
        else:
            parts.append(f"checkpoint {good} is the last one known to be good, newer ones were renamed to diverged-*")
        if _NOT_FINITE in self._reasons:
            advice = f"lower {self.stage}.optimizer.learning_rate, raise its warmup or lower its clip"
        else:
            advice = (
                "look at its rewards in metrics.jsonl: all samples of a group scored alike, so train SFT for longer, "
                "raise the group size, or take easier tasks"
            )
        parts.append(f"{advice}, and start again: the stage goes on from the good checkpoint")
        return "; ".join(parts)


def check_finite(params: Params, source: str) -> None:
    """Raise DivergedError unless all parameters are finite. source: where they come from, for the message."""
    bad = [
        jax.tree_util.keystr(path)
        for (path, _), good in zip(
            jax.tree_util.tree_flatten_with_path(params)[0], jax.device_get(_finite(params)), strict=True
        )
        if not good
    ]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise DivergedError(f"{source}: the parameters {bad[0]}{more} are not all finite; start from others")


def check_logprobs(trajectories: Sequence[Trajectory], version: int) -> None:
    """Raise DivergedError unless the sampler's log-probs of all trajectories are finite.

    Finite weights can be so large that their results are not finite.
    """
    bad = sum(not np.isfinite(trajectory.logprobs).all() for trajectory in trajectories)
    if bad:
        raise DivergedError(
            f"policy {version}: {bad} of {len(trajectories)} episodes have log-probs that are not finite, so its "
            "weights are ruined; start from an earlier checkpoint or from another stage"
        )


@jax.jit
def _finite(params: Params) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
