"""DAPO (arXiv 2503.14476) with a search tool in the loop: stage I of the paper by RL.

In: tasks in W/data, an SFT checkpoint, a searcher. Out: W/dapo/checkpoints, metrics.jsonl, config.json, history.jsonl.
One iteration is, in order: rollouts of whole groups (dynamic sampling with refill), rewards, advantages over a group,
old log-probs by the trainer, several optimizer steps with clip-higher and a token-mean loss, evaluation, checkpoint.
There is no KL term and no entropy bonus, as in the paper. A checkpoint is saved between iterations and holds everything
that the next iteration depends on, so that a killed and resumed run equals an uninterrupted one (design decision 7).
With `staleness` 1, which is off by default and not in the paper, the next rollout batch is sampled with the old
parameters while this one is trained on. Searches and the last long episodes then leave no device idle. Each batch is
at most one version old when it is trained on, and token-level truncated importance weights correct the lag.
With several processes, the engine returns the same trajectories in the same order on each, so that all of them do the
same work on the host.
"""

import functools
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from masksearch_jax.data import pipeline
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.data.stream_fingerprint import check_fingerprint
from masksearch_jax.model import logprobs, lora, transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rl import advantages, logprob_mismatch, loss, update_batch
from masksearch_jax.rl.rewards import RewardConfig
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import distributed, metrics, stop_signals
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.trainers import checked_permutation, rollout_batch
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.trainers.divergence import UpdateWatch, check_finite
from masksearch_jax.trainers.sft import Evaluate, stage_of

_log = logging.getLogger(__name__)
# The position of a run between two iterations: data state, curriculum phase, carried groups, waiting groups.
Position = tuple[dict[str, Any], int, list[rollout_batch.Group], list[rollout_batch.Group]]


def policy_logprobs(model_cfg: ModelConfig, temperature: float, params: Any, rows: update_batch.UpdateBatch):
    """Return (log-prob, entropy) of the targets that the policy sampled, float32 [R, T], 0 for all other targets.

    temperature: that of the sampler.
    """
    hidden = transformer.forward(model_cfg, params, rows.ids, rows.positions, rows.segments)
    return logprobs.token_logprobs(model_cfg, params, hidden, rows.targets, temperature, wanted=rows.mask)


def loss_fn(model_cfg: ModelConfig, settings: Any, params: Any, rows: update_batch.UpdateBatch):
    """Return the clipped token-level loss of one micro-batch as (sum, count, metrics); DAPO equation 8."""
    logp, entropy = policy_logprobs(model_cfg, settings.temperature, params, rows)
    weights = None
    if settings.tis_cap:
        weights = loss.truncated_importance_weights(rows.old_logp, rows.sampler_logp, rows.mask, settings.tis_cap)
    total, count, sums = loss.policy_loss(
        logp,
        rows.old_logp,
        rows.advantages,
        rows.mask,
        settings.clip_low,
        settings.clip_high,
        settings.dual_clip,
        weights=weights,
        aggregation=settings.aggregation,
        segments=rows.segments,
        horizon=max(settings.row_lengths),
        entropy=jax.lax.stop_gradient(entropy),
    )
    return total, count, sums | {"loss": (total, count)}


def check(settings: Any) -> None:
    """Raise ValueError for settings of advantage, loss and reward that do not exist or cannot be combined."""
    if settings.advantage not in advantages.MODES:
        raise ValueError(f"dapo.advantage={settings.advantage!r} is none of {advantages.MODES}")
    if settings.old_logprobs == "sampler" and (settings.staleness or settings.tis_cap):
        raise ValueError(
            f"dapo.old_logprobs='sampler' with dapo.staleness={settings.staleness}, dapo.tis_cap={settings.tis_cap}: "
            "importance weights are of the trainer's log-probs over the sampler's; set old_logprobs='trainer'"
        )
    horizon = max(settings.row_lengths)
    loss.check(settings.clip_low, settings.clip_high, settings.dual_clip, settings.aggregation, horizon)
    RewardConfig(**settings.reward.to_dict())


def make_programs(model_cfg: ModelConfig, settings: Any, tx: Any, mesh: Any) -> tuple[Callable, Callable]:
    """Return two jitted programs: (params, UpdateBatch) -> log-probs and (state, UpdateBatch) -> (state, sums).

    The log-probs are [M, R, T]. With adapters, params are the adapters alone, and both programs take the frozen base as
    a last argument.
    """
    shardings = state_lib.state_shardings(model_cfg, tx, mesh)
    rows, base = update_sharding(mesh), state_lib.frozen_shardings(model_cfg, mesh)

    def old_logprobs(params, update, *frozen):
        params = lora.join(params, *frozen)
        return jax.lax.map(lambda one: policy_logprobs(model_cfg, settings.temperature, params, one)[0], update)

    def step(state, update, *frozen):
        grads, _, count, sums = state_lib.accumulate(
            functools.partial(loss_fn, model_cfg, settings), state.params, update, *frozen
        )
        state, norm, good = state_lib.apply_gradients(state, tx, grads, count)
        taken, one = good.astype(jnp.float32), jnp.ones(())
        return state, sums | {"grad_norm": (jnp.where(good, norm, 0.0), taken), "skipped": (1.0 - taken, one)}

    return (
        jax.jit(old_logprobs, in_shardings=(shardings.params, rows, *base), out_shardings=rows),
        jax.jit(step, in_shardings=(shardings, rows, *base), out_shardings=(shardings, None), donate_argnums=0),
    )


def update_sharding(mesh: Any) -> NamedSharding:
    """Return the sharding of an UpdateBatch [M, R, T]: rows over the data axes."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


@stop_signals.deferred()  # rollouts check for a stop signal at each engine step, the loop after each iteration
def run(
    cfg: Any,
    workdir: Path,
    model_cfg: ModelConfig,
    mesh: Any,
    engine: RolloutEngine,
    *,
    params: Any = None,
    evaluate: Evaluate | None = None,
    judge: rollout_batch.Judge | None = None,
    task_ids: Collection[str] | None = None,
) -> Any:
    """Train with the settings `cfg.dapo`, write to W/dapo, and return the final parameters (TRAIN layout).

    engine: samples with the training-time searcher. params: the SFT warm start, adapters and their base included. They
    may be None if there are no adapters and W/dapo holds a checkpoint. judge: scores answers for reward.answer 'judge'.
    task_ids: the training tasks to draw from (workflows/answerable.py); None takes all of them.
    Raises ValueError before the first step if the pipeline, index, tokenizer or base differs from that of the
    checkpoint.
    """
    settings, folder = cfg.dapo, workdir / "dapo"
    stage = stage_of(cfg, workdir, "dapo", "dapo", model_cfg)
    stage.differences()  # raises if a fixed setting has changed, before anything is opened
    # ---- data and reward ------------------------------------------------------------------------------------------
    tokenizer = tokenizer_lib.load(workdir / "data")
    curriculum = Curriculum([(prompts, dict(weights)) for prompts, weights in settings.curriculum])
    tasks = pipeline.tasks(
        workdir / "data" / "tasks", "train", curriculum, seed=cfg.seed, tokenizer_fingerprint=tokenizer.fingerprint,
        room=cfg.episode.total_tokens, refuse=cfg.rollout.long_prompts == "refuse", only=task_ids,
    )  # fmt: skip
    augmentation = checked_permutation.load(workdir / "data", tokenizer) if settings.augment else None
    reward_cfg = RewardConfig(**settings.reward.to_dict())
    if reward_cfg.answer == "judge" and judge is None:
        raise ValueError("dapo.reward.answer='judge': no judge was given")
    shape = batch_shape(settings, cfg.episode.total_tokens, mesh)
    # ---- model and optimizer --------------------------------------------------------------------------------------
    tx = optimizer_lib.build(settings.optimizer, state_lib.abstract_trained(model_cfg, mesh))
    old_logprobs, step_fn = make_programs(model_cfg, settings, tx, mesh)
    decode_copy = state_lib.decode_copy(model_cfg, mesh, outlives=bool(settings.staleness))
    # ---- own checkpoint > given parameters ------------------------------------------------------------------------
    checkpoints = Checkpointer(folder / "checkpoints", keep=2)
    log = metrics.MetricsLog(folder, primary=distributed.primary(), tensorboard=cfg.tensorboard)
    carried: list[rollout_batch.Group] = []
    waiting: list[rollout_batch.Group] = []  # with staleness: the batch that was sampled ahead
    version, evaluation_due = 0, False
    # What has to be equal in a resumed run, besides the data.
    identity = {"index": engine.searcher.fingerprint, "tokenizer": tokenizer.fingerprint, "seed": cfg.seed}
    if params is None and (model_cfg.lora or checkpoints.latest() is None):
        raise ValueError(f"{folder} holds no checkpoint and no parameters were given to start from; train SFT first")
    frozen = lora.split(params)[1]
    facts = state_lib.adapter_facts(model_cfg, frozen, cfg.pretrained, cfg.seed)
    if checkpoints.latest() is not None:
        state_lib.check_adapters(checkpoints.meta(), facts, folder)
        state, meta, data_state = checkpoints.restore(None, state_lib.abstract_state(model_cfg, tx, mesh))
        check_fingerprint(meta["data_fingerprint"], tasks.fingerprint)
        check_identity(meta["identity"], identity)
        tasks.set_state(data_state)
        version, evaluation_due = meta["version"], meta.get("evaluation_due", False)
        carried, waiting = (list(map(rollout_batch.from_json, meta[name])) for name in ("carried", "waiting"))
    else:
        state = state_lib.create(params, model_cfg, tx, mesh)
    log.cut(version)  # also at 0, because a run that was killed before its first checkpoint has left rows
    stage.begin(version)
    distributed.same("what they train on", identity | {"data": tasks.fingerprint, **tasks.get_state()})
    del params
    check_finite(state.params, f"dapo at iteration {version}")
    # ---- every program of the rollouts, before the first episode: nothing compiles, or runs out of memory, later ----
    distributed.alive("compiling the programs of the rollouts")
    begin = f"goes on from iteration {version}" if version else "from the start"
    say = functools.partial(metrics.say, "dapo", primary=distributed.primary())
    say(f"{begin} to iteration {settings.iterations}; compiling the programs of the rollouts")
    engine.warm_up(decode_copy(lora.join(state.params, *frozen)))

    def train_on_next(
        version: int, updates: list[update_batch.UpdateBatch], means: metrics.Mean, wait: bool = False
    ) -> bool:
        """Pop the first of `updates`, if any, and do its optimizer step. Returns True if more are left.

        wait: True to block until the step is done.
        """
        nonlocal state
        if updates:
            distributed.alive(f"dapo update {version}")
            state, sums = step_fn(state, distributed.put(updates.pop(0), update_sharding(mesh)), *frozen)
            means.add(sums)
            if wait:
                jax.block_until_ready(sums)
        return bool(updates)

    watch = UpdateWatch("dapo", "iterations", settings.max_without_update, settings.optimizer.learning_rate, version)
    if version:
        watch.saved(version)

    def score(version: int) -> None:
        found = evaluate(lora.join(state.params, *frozen), version)
        log.write(version, {f"eval/{name}": value for name, value in found.items()})

    def save(version: int, position: Position, unscored: dict[str, bool]) -> None:
        stage.check_present()
        data_state, phase, carried, waiting = position
        meta = {
            "data_fingerprint": tasks.fingerprint,
            "identity": identity,
            **facts,
            "version": version,
            "phase": phase,
            "carried": [rollout_batch.to_json(group) for group in carried],
            "waiting": [rollout_batch.to_json(group) for group in waiting],
            **unscored,
        }
        checkpoints.save(version, state, meta, data_state)
        watch.saved(version)

    if evaluation_due and evaluate:
        score(version)
    # ---- loop: one policy version an iteration --------------------------------------------------------------------
    last, note = time.perf_counter(), metrics.Note()
    ahead = range(version + 1, settings.iterations + 1)
    for version in metrics.progress(ahead, len(ahead), "dapo", distributed.primary(), note):
        began = time.perf_counter()
        phase = curriculum.phase(tasks.index)
        before: Position = (tasks.get_state(), phase, carried, waiting)
        means, unscored = metrics.Mean(), {}
        sampling_params = jax.block_until_ready(decode_copy(lora.join(state.params, *frozen)))
        sample = functools.partial(
            rollout_batch.generate, engine, sampling_params, tasks, settings, reward_cfg, augmentation,
            version=version - 1, seed=cfg.seed, judge=judge,
        )  # fmt: skip
        del sampling_params
        resharded = time.perf_counter()
        if not waiting:
            try:
                found = sample(carried)
            except distributed.PreemptedError:
                # The parameters are still those of the previous iteration. Its end is saved, and the resumed run
                # samples this batch again.
                if version - 1 not in (0, checkpoints.latest()):
                    save(version - 1, before, {})
                checkpoints.wait()
                raise distributed.PreemptedError(
                    f"dapo was told to stop and saved iteration {version - 1}; start it again"
                ) from None
            waiting, carried = found.batch, found.carried
            means.add(found.measured)
        if not settings.staleness:
            # It holds the sampling parameters, which may share buffers with the state that the first step donates.
            del sample
        sampled = time.perf_counter()
        # The first step below donates these parameters, so all log-probs are computed before it.
        reference = functools.partial(_on_devices, old_logprobs, state.params, frozen, mesh)
        updates = build_updates(waiting, settings, shape, reference, version - 1, means)
        waiting, scored, overlapped = [], time.perf_counter(), 0.0
        if settings.staleness:
            with distributed.unbroken():  # no preemption here: the parameters change during this rollout
                found = sample(carried, overlap=functools.partial(train_on_next, version, updates, means, wait=True))
            waiting, carried = found.batch, found.carried
            means.add(found.measured)
            overlapped = time.perf_counter() - scored
            del sample
        while train_on_next(version, updates, means):
            pass
        row = means.result()
        ended = time.perf_counter()
        # With staleness, part of the update happens during the rollout; rollout/overlap_s measures it.
        timing = {
            "seconds/reshard": resharded - began,
            "seconds/rollout": sampled - resharded + overlapped,
            "seconds/logprobs": scored - sampled,
            "seconds/update": ended - scored - overlapped,
            "seconds/since_last": began - last,  # checkpoint and evaluation after the previous iteration
        }
        last = ended
        watch.add(version, {name: (value, 1.0) for name, value in row.items()})
        timing |= {f"rollout/{name}": value for name, value in found.stats.items()}
        timing |= {f"search/{name}": value for name, value in engine.searcher.stats.items()}  # since the start
        timing |= {f"judge/{name}": value for name, value in getattr(judge, "stats", {}).items()}
        log.write(version, row | timing | {"phase": phase, "prompts": tasks.index, "skipped_total": int(state.skipped)})
        note.text = _in_a_line(row, ended - began)
        if settings.show_every and (version == 1 or version % settings.show_every == 0):
            say(f"iteration {version}, {note.text}\n{found.example}")
        watch.settle(checkpoints, last=version == settings.iterations)
        if evaluate and settings.eval_every and version % settings.eval_every == 0 and version < settings.iterations:
            try:
                score(version)
            except distributed.PreemptedError:  # abandoned; the resumed run does this evaluation
                unscored = {"evaluation_due": True}
        stop = bool(unscored) or distributed.preempted()
        if version % settings.checkpoint_every == 0 or version == settings.iterations or stop:
            save(version, (tasks.get_state(), curriculum.phase(tasks.index), carried, waiting), unscored)
        if stop:
            checkpoints.wait()
            raise distributed.PreemptedError(f"dapo was told to stop and saved iteration {version}; start it again")
    checkpoints.wait()
    stage.check_present()
    checkpoints.close()
    log.close()
    say(f"done: iteration {settings.iterations} in {folder / 'checkpoints'}")
    return lora.join(state.params, *frozen)


def _in_a_line(row: dict[str, float], seconds: float) -> str:
    """Return the main values of an iteration as one line of text. seconds: how long the iteration took."""
    wanted = {"reward": "reward", "reward_answer": "answer", "reward_format": "form", "generated_tokens": "tokens"}
    found = [f"{label} {row[name]:.3g}" for name, label in wanted.items() if name in row]
    return ", ".join([*found, f"{seconds:.0f} s an iteration"])


def _on_devices(
    old_logprobs: Callable, params: Any, frozen: tuple, mesh: Any, update: update_batch.UpdateBatch
) -> np.ndarray:
    """Return the log-probs [M, R, T] of a batch as a numpy array on every process."""
    return distributed.fetch(old_logprobs(params, distributed.put(update, update_sharding(mesh)), *frozen))


def build_updates(
    groups: Sequence[rollout_batch.Group],
    settings: Any,
    shape: update_batch.BatchShape,
    old_logprobs: Callable[[update_batch.UpdateBatch], jax.Array],
    version: int,
    means: metrics.Mean,
) -> list[update_batch.UpdateBatch]:
    """Return the rollout batch as `settings.minibatches` updates with the trainer's log-probs as denominator.

    The result is [] if there are no groups or the judge gave no verdict at all. old_logprobs: computes log-probs under
    the parameters of policy `version`, so it has to be called before the first optimizer step. `means` gets the
    mismatch between these and the sampler's log-probs of that version's tokens, with a warning if it is alarming, and
    by how many versions the tokens lag behind. With settings.old_logprobs 'sampler' the denominator is the sampler's
    log-prob, and nothing is recomputed or compared; `approx_kl` of the first update then measures the mismatch.
    """
    if not groups:
        return []
    scaled = advantages.group_advantages(
        np.array([[r.total for r in g.rewards] for g in groups]), mode=settings.advantage
    )
    items = [(t, a) for g, row in zip(groups, scaled, strict=True) for t, a in zip(g.trajectories, row, strict=True)]
    if all(np.isnan(advantage) for _, advantage in items):  # the judge gave no verdict on any of them
        return []
    updates = update_batch.build(items, settings.minibatches, shape)
    for update in updates:
        means.add({"staleness": (float((version - update.versions)[update.mask].sum()), float(update.tokens))})
    if settings.old_logprobs == "sampler":
        return updates
    pairs = []
    for i, update in enumerate(updates):
        recomputed = np.asarray(old_logprobs(update))
        current = update.mask & (update.versions == version)
        pairs.append((recomputed[current], update.sampler_logp[current]))
        updates[i] = update_batch.with_old_logp(update, recomputed, None if settings.staleness else version)
    measured = logprob_mismatch.measure(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    means.add(measured)
    for alarm in logprob_mismatch.alarms(measured, settings.alarm_prob_diff, settings.alarm_correlation):
        _log.warning(
            "policy %d: the sampler's log-probs are not the trainer's: %s. Compare model.dtype and kernels of both, or "
            "set dapo.tis_cap=2.",
            version,
            alarm,
        )
    return updates


def batch_shape(settings: Any, total_tokens: int, mesh: Any = None) -> update_batch.BatchShape:
    """Return the buckets of update shapes. mesh: None skips the check that rows divide over it.

    Raises ValueError if an episode or a mini-batch may not fit, or if rows do not divide over the mesh.
    """
    shape = update_batch.BatchShape(tuple(settings.row_lengths), settings.rows, tuple(settings.micro_batches))
    if max(shape.lengths) < total_tokens:
        raise ValueError(
            f"dapo.row_lengths={shape.lengths}: an episode may have episode.total_tokens={total_tokens} tokens"
        )
    trajectories = -(-settings.groups * settings.group_size // settings.minibatches)
    if shape.rows * max(shape.micro) < trajectories:  # each may need a row of its own
        raise ValueError(
            f"dapo.rows={shape.rows} x micro_batches={shape.micro} are fewer than the {trajectories} rows that a "
            "mini-batch may need; raise either"
        )
    shards = mesh.shape["data"] * mesh.shape["fsdp"] if mesh is not None else 1
    if shape.rows % shards:
        raise ValueError(f"dapo.rows={shape.rows} does not divide over {shards} shards (mesh data x fsdp)")
    return shape


def check_identity(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ValueError if index, tokenizer or seed differ between the checkpoint and this run; it names which."""
    different = [
        f"{name}: {saved.get(name)} there, {current[name]} here" for name in current if saved.get(name) != current[name]
    ]
    if different:
        raise ValueError(
            "the checkpoint was written with something else: "
            + "; ".join(different)
            + "; use another --workdir or restore it"
        )
