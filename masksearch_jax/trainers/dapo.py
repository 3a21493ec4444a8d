"""DAPO (arXiv 2503.14476) with a search tool in the loop: stage I of the paper by RL.

In: tasks in W/data, an SFT checkpoint, a searcher. Out: W/dapo/checkpoints, metrics.jsonl, config.json, history.jsonl,
trajectories (a sample of the episodes).
One iteration is, in order: rollouts of whole groups (dynamic sampling with refill), rewards, advantages over a group,
old log-probs by the trainer, several optimizer steps with clip-higher and a token-mean loss, evaluation, checkpoint.
There is no KL term and no entropy bonus, as in the paper. A checkpoint is saved between iterations and holds everything
that the next iteration depends on, so that a killed and resumed run equals an uninterrupted one.
With `staleness` 1, which is off by default and not in the paper, the next rollout batch is sampled with the old
parameters while this one is trained on (sampler.py). Token-level truncated importance weights correct the lag.
With several processes, the engine returns the same trajectories in the same order on each, so that all of them do the
same work on the host.
"""

import functools
from collections.abc import Collection, Mapping
from pathlib import Path

from masksearch_jax.data import pipeline
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.model.policy import Policy
from masksearch_jax.rl import advantages, loss
from masksearch_jax.rl.own_reward import OwnReward
from masksearch_jax.rl.rewards import RewardConfig
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import distributed, metrics, stop_signals
from masksearch_jax.runtime.types import ConfigSection, Json, JsonObject, Params
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.text.tool_names import tool_names
from masksearch_jax.trainers import checked_permutation, position, rollout_batch
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers.dapo_programs import make_programs
from masksearch_jax.trainers.divergence import DivergedError
from masksearch_jax.trainers.position import Position
from masksearch_jax.trainers.sample_histograms import histograms
from masksearch_jax.trainers.sampler import Sampler
from masksearch_jax.trainers.stage import Evaluate, TrainingStage, changed_settings
from masksearch_jax.trainers.stage_settings import DapoSettings
from masksearch_jax.trainers.stopwatch import Stopwatch
from masksearch_jax.trainers.trajectory_sample import TrajectorySample
from masksearch_jax.trainers.updates import UpdateSteps, batch_shape, build_updates, model_flops, on_devices


@stop_signals.deferred()  # rollouts check for a stop signal at each engine step, the loop after each iteration
def run(
    cfg: ConfigSection,
    workdir: Path,
    policy: Policy,
    engine: RolloutEngine,
    *,
    params: Params | None = None,
    evaluate: Evaluate | None = None,
    judge: rollout_batch.Judge | None = None,
    task_ids: Mapping[str, Collection[str]] | None = None,
    own_reward: OwnReward | None = None,
) -> Params:
    """Train with the settings `cfg.dapo`, write to W/dapo, and return the final parameters (TRAIN layout).

    engine: samples with the training-time searcher. params: the SFT warm start, adapters and their base included. They
    may be None if there are no adapters and W/dapo holds a checkpoint. judge: scores answers for reward.answer 'judge'.
    task_ids: for each task, the ids to draw from (workflows/answerable.py); None takes all of them. own_reward: the
    function of `dapo.reward.file`, whose parts are added to the reward.
    Raises ValueError before the first step if the pipeline, index, tokenizer, base or own reward differs from that of
    the checkpoint.
    """
    settings: DapoSettings = cfg.dapo
    changed_settings(cfg, workdir, "dapo", "dapo", policy)  # raises if a fixed one has, before anything is opened
    # ---- data and reward ------------------------------------------------------------------------------------------
    tokenizer = tokenizer_lib.load(workdir / "data")
    curriculum = Curriculum([(prompts, dict(weights)) for prompts, weights in settings.curriculum])
    tasks = pipeline.tasks(
        workdir / "data" / "tasks", "train", curriculum, seed=cfg.seed, tokenizer_fingerprint=tokenizer.fingerprint,
        room=cfg.episode.total_tokens, refuse=cfg.rollout.long_prompts == "refuse", only=task_ids,
    )  # fmt: skip
    tools = tool_names(cfg.tools)
    augmentation = checked_permutation.load(workdir / "data", tokenizer, tools) if settings.augment else None
    reward = RewardConfig(**settings.reward.to_dict())
    if reward.file and own_reward is None:
        raise ValueError(f"dapo.reward.file={reward.file}: its function was not given")
    if reward.answer == "judge" and judge is None:
        raise ValueError("dapo.reward.answer='judge': no judge was given")
    shape = batch_shape(settings, cfg.episode.total_tokens, policy.mesh)
    # ---- optimizer and programs -----------------------------------------------------------------------------------
    tx = optimizer_lib.build_optimizer(settings.optimizer, policy.abstract_trainable)
    # ---- own checkpoint > given parameters ------------------------------------------------------------------------
    stage = TrainingStage(cfg, workdir, "dapo", "dapo", policy, evaluate)
    if params is None and stage.needs_params:
        raise ValueError(
            f"{stage.folder} holds no checkpoint and no parameters were given to start from; train SFT first"
        )
    identity = {"index": engine.searcher.fingerprint, "tokenizer": tokenizer.fingerprint, "seed": cfg.seed}
    if own_reward:
        identity["reward"] = own_reward.digest
    state, saved = stage.start(tx, params, {"data_fingerprint": tasks.fingerprint, "identity": identity})
    del params
    old_logprobs, step = make_programs(policy, settings, stage.scaled(tx))
    at = position.restore(saved, tasks, curriculum, identity) if saved else Position.of(tasks, curriculum, 0)
    distributed.same("what they train on", identity | {"data": tasks.fingerprint, **at.cursor})
    stage.begin(at.version, state, at.to_json(), at.cursor)
    kept = TrajectorySample(cfg, stage.folder, tokenizer, augmentation, at.version, stage.rollback.count)
    # ---- every program of the rollouts, before the first episode --------------------------------------------------
    distributed.alive("compiling the programs of the rollouts")
    stage.print_start(at.version, "compiling the programs of the rollouts")
    sampler = Sampler(engine, policy, tasks, settings, reward, augmentation, judge, cfg.seed, own_reward)
    sampler.warm_up(stage.params(state))
    stage.evaluate_overdue(at.version, state, saved)
    # ---- loop: one policy version an iteration --------------------------------------------------------------------
    means, seconds = metrics.Mean(), Stopwatch()

    def roll_back(state, step, version):
        state, saved = stage.roll_back(tx, state, version, tasks.get_state())
        means.set_state({})
        seconds.take()
        if stage.rollback.scale != 1:
            step = make_programs(policy, settings, stage.scaled(tx))[1]
        at = position.restore(saved, tasks, curriculum, identity)
        kept.cut(at.version, stage.rollback.count)
        return state, step, at

    for version in stage.steps(at.version):
        # ---- sample ----
        seconds.start("reshard")
        sampler.load(stage.params(state))
        seconds.start("rollout")
        try:
            groups, carried = sampler.batch(at, means)
        except distributed.PreemptedError:
            # The parameters are still those of the previous iteration. Its end is saved, and the resumed run samples
            # this batch again.
            if at.version not in (0, stage.checkpoints.latest()):
                stage.save(at.version, state, at.to_json(), at.cursor)
            stage.stop(at.version)
        except DivergedError as error:
            stage.rollback.want(error)
            state, step, at = roll_back(state, step, version)
            continue
        kept.sampled(version, sampler.newest)
        # ---- score, then update; with staleness the next batch is sampled meanwhile ----
        seconds.start("logprobs")
        reference = functools.partial(on_devices, old_logprobs, state.params, stage.base, policy.mesh)
        updates = build_updates(groups, settings, shape, reference, at.version, means)
        work = model_flops(policy.config, settings, updates)
        seconds.start("rollout")
        steps = UpdateSteps(step, state, updates, stage.base, policy.mesh, means, version)
        try:
            waiting, carried = sampler.ahead(at.version, carried, steps.take, means)
        except DivergedError as error:
            stage.rollback.want(error)
            state, step, at = roll_back(steps.state, step, version)
            continue
        seconds.start("update")
        state = steps.take_rest()
        kept.sampled(version, sampler.newest)  # with staleness the batch that was sampled meanwhile
        # ---- log ----
        row = means.result()
        seconds.pause()  # kept episodes, evaluation and checkpoint after this iteration
        sampled = sampler.newest.stats if sampler.newest else {}
        _write_row(stage, version, row, seconds.take(), work | {"rollout": sampled.get("flops", 0.0)}, {
            "phase": at.phase, "prompts": tasks.index, "skipped_total": int(state.skipped),
            **_named("rollout", sampled),
            **_named("search", engine.searcher.stats),  # since the start
            **_named("judge", getattr(judge, "stats", {})),
        })  # fmt: skip
        kept.trained(version, groups, updates, functools.partial(
            on_devices, old_logprobs, state.params, stage.base, policy.mesh
        ))  # fmt: skip
        if sampler.newest and settings.show_every and (version == 1 or version % settings.show_every == 0):
            stage.print_message(f"iteration {version}, {stage.view.note}\n{sampler.newest.example}")
        stage.log.samples(
            version,
            {"episode": sampler.newest.example} if sampler.newest else {},
            functools.partial(histograms, groups, updates, version - 1, steps.ratio_counts),
        )
        stage.settle(version)
        if stage.rollback.wanted:
            state, step, at = roll_back(state, step, version)
            continue
        at = Position.of(tasks, curriculum, version, carried, waiting)
        # ---- evaluate and save ----
        evaluated = stage.evaluate(version, state) if stage.evaluates(version) else True
        stop = not evaluated or bool(stage.alarmed) or distributed.preempted()
        if stage.saves(version) or stop:
            stage.save(version, state, at.to_json(), at.cursor, evaluated)
        if stop:
            stage.stop(version)
    kept.close()
    return stage.finish(state)


def _write_row(
    stage: TrainingStage,
    version: int,
    row: dict[str, float],
    seconds: dict[str, float],
    flops: dict[str, float],
    counters: JsonObject,
) -> None:
    """Log one iteration, and report its update to the watch.

    row: means of rewards, behaviour and losses. seconds: what the iteration's time was spent on. flops: model FLOPs
    by the same parts.
    """
    stage.watch.add(version, {name: (value, 1.0) for name, value in row.items()})
    costs = stage.costs.row(seconds, flops, counters.get("rollout/tokens", 0))
    stage.write(version, row | _named("seconds", seconds) | costs | counters)


def _named(prefix: str, values: Mapping[str, Json]) -> JsonObject:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def validate_dapo(settings: DapoSettings) -> None:
    """Raise ValueError for settings of advantage, loss and reward that do not exist or cannot be combined."""
    if settings.advantage not in advantages.MODES:
        raise ValueError(f"dapo.advantage={settings.advantage!r} is none of {advantages.MODES}")
    if settings.old_logprobs == "sampler" and (settings.staleness or settings.tis_cap):
        raise ValueError(
            f"dapo.old_logprobs='sampler' with dapo.staleness={settings.staleness}, dapo.tis_cap={settings.tis_cap}: "
            "importance weights are of the trainer's log-probs over the sampler's; set old_logprobs='trainer'"
        )
    horizon = max(settings.row_lengths)
    loss.validate_loss(settings.clip_low, settings.clip_high, settings.dual_clip, settings.aggregation, horizon)
    RewardConfig(**settings.reward.to_dict())
