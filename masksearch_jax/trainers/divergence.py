"""When training stops by itself: too many steps in a row without an update, or parameters that are not finite.

Where rollback is on, training first returns to its last good checkpoint (trainers/rollback.py).

A step whose gradient is not finite changes nothing (trainers/state.py), and neither does an iteration of DAPO without a
group that carries a signal. A few of either are normal. A long run of them means that the policy is ruined or that
there is nothing to learn from. To continue would waste hours, and new checkpoints would replace the last good one.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

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
_NOTHING = "had nothing to train on"


class DivergedError(ValueError):
    """Training stopped because its steps no longer change anything, or because the parameters are not finite."""


@dataclasses.dataclass
class UpdateWatch:
    """The counter of steps in a row without an update.

    stage: its name, for messages. unit: 'steps' or 'iterations'. limit: this many in a row end the run; 0 turns the
    watch off. learning_rate: the peak, for the diagnosis. start: the step that the run starts or resumes from.
    early: settle after this many steps in a row without a finite gradient, before the limit; 0: at the limit. proof: a
    saved step counts as good only once an update follows that is more than this many steps later. doubtful: the saved
    steps that do not count as good yet, ascending. not_finite: steps without a finite gradient just before `start`.
    """

    stage: str
    unit: str
    limit: int
    learning_rate: float
    start: int
    early: int = 0
    proof: int = 0
    doubtful: list[int] = dataclasses.field(default_factory=list)
    not_finite: int = 0

    def __post_init__(self):
        self._pending: list[tuple[int, Mapping[str, tuple[ArrayLike, ArrayLike]]]] = []
        self._streak = list(range(self.start - self.not_finite + 1, self.start + 1))
        self._reasons: dict[str, int] = {_NOT_FINITE: self.not_finite} if self.not_finite else {}
        self._last_finite: tuple[int, float, float] | None = None
        self._last_update = -1

    def add(self, step: int, sums: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
        """Add the (sum, count) pairs of a step: 'skipped', 'loss', 'grad_norm'.

        If 'skipped' is missing, the step had nothing to train on. Device arrays are not waited for until `settle`.
        """
        self._pending.append((step, {name: sums[name] for name in ("skipped", "loss", "grad_norm") if name in sums}))

    @property
    def due(self) -> bool:
        """True if the steps that wait for `settle` may complete a row of `limit` or `early` steps."""
        waiting = len(self._pending) + len(self._streak)
        return any(0 < most <= waiting for most in (self.limit, self.early))

    def review(self, checkpoints: Checkpointer) -> None:
        """Count the steps added since the last call, and confirm the newest saved step that now counts as good."""
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
                reason = _NOT_FINITE if "skipped" in sums else _NOTHING
                self._reasons[reason] = self._reasons.get(reason, 0) + 1
        self._pending, self.not_finite = [], self._reasons.get(_NOT_FINITE, 0)
        good = max((step for step in self.doubtful if self._last_update > step + self.proof), default=None)
        if good is not None:
            checkpoints.confirm(good)
            self.doubtful = [step for step in self.doubtful if step > good]

    @property
    def ruined(self) -> bool:
        """True if the last few steps all had no finite gradient; a stage must not end so."""
        return list(self._reasons) == [_NOT_FINITE] and len(self._streak) >= _AT_THE_END

    def settle(self, checkpoints: Checkpointer, last: bool = False) -> None:
        """Judge the steps added since the last call. Call it before a checkpoint is saved.

        A saved step is known to be good once a later step made an update. last: True if the stage ends here. It then
        does not count as finished if its last few steps had no finite gradient, or if a stage that started from step 0
        made no update at all.
        Raises DivergedError if the steps in a row without an update reach `limit`, or if the stage does not count as
        finished. Checkpoints newer than the good one are renamed before. With limit 0 it never raises.
        """
        self.review(checkpoints)
        in_vain = self.start == 0 and self._last_update < 0 and self._streak
        if self.limit and (len(self._streak) >= self.limit or last and (self.ruined or in_vain)):
            reasons = " and ".join(f"{count} {reason}" for reason, count in sorted(self._reasons.items()))
            self.give_up(
                checkpoints, f"{self.unit} {self._streak[0]} to {self._streak[-1]} changed nothing ({reasons})"
            )

    def give_up(self, checkpoints: Checkpointer, why: str) -> NoReturn:
        """Rename the checkpoints newer than the good one, and raise DivergedError that says why and what to do."""
        checkpoints.wait()
        raise DivergedError(self._diagnosis(why, checkpoints.set_aside_doubtful()))

    def saved(self, step: int) -> None:
        """Record that step `step` was saved. A later step that makes an update shows that it is good."""
        self.doubtful.append(step)

    def _diagnosis(self, why: str, good: int | None) -> str:
        parts = [f"{self.stage} stopped: {why}"]
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
        if list(self._reasons) != [_NOTHING]:
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
