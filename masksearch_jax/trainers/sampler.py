"""The rollout batches of DAPO, one for each policy version.

Usually an iteration samples its own batch. With `staleness` 1 it samples the next one instead, while it trains on the
batch that the iteration before left; only the first iteration samples both. Then searches and the last long episodes
leave no device idle. Each batch is at most one version old when it is trained on.
"""

import functools
from collections.abc import Callable, Sequence

import jax

from masksearch_jax.data.pipeline import TaskIterator
from masksearch_jax.data.token_permutation import TokenPermutation
from masksearch_jax.model.policy import Policy
from masksearch_jax.rl.own_reward import OwnReward
from masksearch_jax.rl.rewards import RewardConfig
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import distributed, metrics
from masksearch_jax.runtime.types import Params
from masksearch_jax.trainers import rollout_batch
from masksearch_jax.trainers.position import Position
from masksearch_jax.trainers.stage_settings import DapoSettings

Groups = Sequence[rollout_batch.Group]


class Sampler:
    """Samples with a decode copy of the parameters. newest: the RolloutBatch that was sampled last.

    It is None as long as none was sampled: a resumed run without staleness may first train on groups that wait.
    """

    newest: rollout_batch.RolloutBatch | None = None

    def __init__(
        self,
        engine: RolloutEngine,
        policy: Policy,
        tasks: TaskIterator,
        settings: DapoSettings,
        reward: RewardConfig,
        augmentation: TokenPermutation | None,
        judge: rollout_batch.Judge | None,
        seed: int,
        own_reward: OwnReward | None = None,
    ):
        """settings: the section `cfg.dapo`. The other arguments are those of `rollout_batch.generate`."""
        self._engine, self._stale = engine, bool(settings.staleness)
        self._decode_copy = policy.decode_copy(outlives=self._stale)
        self._params: Params | None = None
        self._generate = functools.partial(
            rollout_batch.generate, engine, tasks=tasks, settings=settings, reward_cfg=reward,
            augmentation=augmentation, judge=judge, seed=seed, own_reward=own_reward,
        )  # fmt: skip

    def warm_up(self, params: Params) -> None:
        """Compile every program of the rollouts: nothing compiles, or runs out of memory, later."""
        self._engine.warm_up(self._decode_copy(params))

    def load(self, params: Params) -> None:
        """Copy the parameters that the next batches are sampled with."""
        self._params = jax.block_until_ready(self._decode_copy(params))

    def batch(self, position: Position, means: metrics.Mean) -> tuple[Groups, Groups]:
        """Return the groups to train on now, and those carried over: sampled now, or waiting since the last iteration.

        Raises PreemptedError if a stop signal comes while it samples.
        """
        groups, carried = position.waiting, position.carried
        if not groups:
            groups, carried = self._sample(position.version, carried, means)
        if not self._stale:
            self._params = None  # the copy may share buffers with the state that the first step donates
        return groups, carried

    def ahead(
        self, version: int, carried: Groups, overlap: Callable[[], bool], means: metrics.Mean
    ) -> tuple[Groups, Groups]:
        """With staleness, sample the batch of the next iteration, and meanwhile call `overlap` as the engine does.

        Returns (groups that wait, groups carried over); without staleness ([], carried).
        """
        if not self._stale:
            return [], carried
        with distributed.unbroken():  # no preemption here: the parameters change during this rollout
            found = self._sample(version, carried, means, overlap)
        self._params = None
        return found

    def _sample(
        self, version: int, carried: Groups, means: metrics.Mean, overlap: Callable[[], bool] | None = None
    ) -> tuple[Groups, Groups]:
        assert self._params is not None, "load() comes before each batch"
        self.newest = found = self._generate(self._params, carried=carried, version=version, overlap=overlap)
        means.add(found.measured)
        return found.batch, found.carried
