"""Supervised fine-tuning on demonstrations: stage I of the paper on RAMP, stage II on questions, the warm start of RL.

In: W/demonstrations (packed by data.pipeline, curriculum by number of masks), a mesh, and a function that evaluates
during training. Out: W/<name>/checkpoints, metrics.jsonl, config.json, history.jsonl (the settings of every start). The
loss covers the policy's own tokens only; prompt and observations are read but not learned. A run that is killed and
started again ends with the same parameters bit for bit. With several processes, each builds the same global batch from
the same cursor and copies its own rows to its devices.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from masksearch_jax.data import pipeline
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.data.stream_fingerprint import check_fingerprint
from masksearch_jax.model import flops
from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import distributed, metrics, stop_signals
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import ConfigSection, Params
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.text.tool_names import tool_names
from masksearch_jax.trainers import checked_permutation
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.trainers.row_checks import check_rows
from masksearch_jax.trainers.stage import Evaluate, Saved, TrainingStage, changed_settings
from masksearch_jax.trainers.stage_settings import SftSettings
from masksearch_jax.trainers.stopwatch import Stopwatch


def loss_fn(policy: Policy, params: Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, state_lib.Sums]:
    """Return the summed negative log-likelihood of the trainable targets, their count, and {"loss": both}.

    batch: int32 and bool arrays [rows, length] (data.pipeline).
    """
    logp, _ = policy.log_probs(
        params, batch["ids"], batch["positions"], batch["segments"], batch["targets"], batch["loss_mask"]
    )
    with jax.named_scope("loss"):
        mask = batch["loss_mask"].astype(jnp.float32)
        total, count = -jnp.sum(logp * mask), jnp.sum(mask)
    return total, count, {"loss": (total, count)}


def make_step(policy: Policy, tx: optax.GradientTransformation, micro_batches: int) -> jax.stages.Wrapped:
    """Return the jitted step (state, batch, base) -> (state, sums). The state is donated, shardings are explicit.

    base: the frozen base of adapters; {} without adapters.
    """
    shardings = state_lib.state_shardings(policy, tx)

    def step(state, batch, base):
        split = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
        return state_lib.update(functools.partial(loss_fn, policy), policy, tx, state, split, base)

    return jax.jit(
        step,
        in_shardings=(shardings, mesh_lib.batch_sharding(policy.mesh), policy.base_shardings),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )


def _resume(saved: Saved, batches: pipeline.DemonstrationIterator, means: metrics.Mean) -> int:
    """Set the data and the sums since the last row of the log to where a checkpoint has them; return their tokens."""
    batches.set_state(saved.cursor)
    means.set_state(saved.meta.get("unlogged", {}))
    return saved.meta.get("unlogged_tokens", 0)


@stop_signals.deferred()  # the loop checks for a stop signal after each step
def run(
    cfg: ConfigSection,
    workdir: Path,
    policy: Policy,
    *,
    name: str = "sft",
    params: Params | None = None,
    evaluate: Evaluate | None = None,
) -> Params:
    """Train with the settings `cfg.<name>`, write to W/<name>, and return the final parameters (TRAIN layout).

    params: the parameters to start from (default: initialised from `cfg.seed`). With adapters they include the base,
    which checkpoints do not hold. evaluate: (params, step) -> scores, called every `eval_every` steps. Raises
    ValueError before the first step for settings or data that cannot work, and DivergedError when steps no longer
    change anything.
    """
    settings: SftSettings = cfg[name]
    changed_settings(cfg, workdir, name, "sft", policy)  # raises if a fixed one has, before anything is opened
    # ---- data -----------------------------------------------------------------------------------------------------
    tokenizer = tokenizer_lib.load(workdir / "data")
    curriculum = Curriculum([(examples, dict(weights)) for examples, weights in settings.curriculum])
    folder_of = workdir / "demonstrations"
    batches = pipeline.demonstrations(
        {task: [folder_of / f"{task}.array_record"] for task in curriculum.tasks},
        curriculum,
        seed=cfg.seed + settings.seed_offset,
        rows=settings.rows,
        row_length=settings.row_length,
        tokenizer_fingerprint=tokenizer.fingerprint,
        augmentation=checked_permutation.load(workdir / "data", tokenizer, tool_names(cfg.tools))
        if settings.augment
        else None,
        share=settings.share,
    )
    # ---- optimizer and program ------------------------------------------------------------------------------------
    check_rows(name, settings.rows, settings.micro_batches, policy.mesh)
    tx = optimizer_lib.build_optimizer(settings.optimizer, policy.abstract_trainable)
    # ---- own checkpoint > given parameters > fresh ones -----------------------------------------------------------
    stage = TrainingStage(cfg, workdir, name, "sft", policy, evaluate)
    if params is None and stage.needs_params:
        params = policy.init_params(cfg.seed)
    state, saved = stage.start(tx, params, {"data_fingerprint": batches.fingerprint})
    del params
    step_fn = make_step(policy, stage.scaled(tx), settings.micro_batches)
    means, trained = metrics.Mean(), 0
    if saved:
        check_fingerprint(saved.meta["data_fingerprint"], batches.fingerprint)
        trained = _resume(saved, batches, means)
    distributed.same("the data", {"fingerprint": batches.fingerprint, **batches.get_state()})
    start = int(state.step)
    stage.begin(start, state, {}, batches.get_state())
    stage.evaluate_overdue(start, state, saved)
    # ---- loop -----------------------------------------------------------------------------------------------------
    seconds, tokens, load = Stopwatch(), 0, flops.Load()
    stage.print_start(start, "the first step compiles")
    for step in stage.steps(start):
        distributed.alive(f"{name} step {step}")
        seconds.start("data")
        batch = next(batches)
        seconds.start("step")
        del batch["examples"]
        new = flops.of_rows(
            policy.config, batch["segments"], batch["positions"], int(np.count_nonzero(batch["loss_mask"]))
        )
        tokens, trained, load = tokens + new.tokens, trained + new.tokens, load + new
        state, sums = step_fn(state, distributed.put(batch, mesh_lib.batch_sharding(policy.mesh)), stage.base)
        means.add(sums)
        stage.watch.add(step, sums)
        if stage.watch.due or step == stage.last:
            stage.settle(step)
        if step % settings.log_every == 0 or step == stage.last:
            row = means.result() | {"examples": batches.index, "phase": curriculum.phase(batches.index)}
            spent = seconds.take()
            costs = stage.costs.row(spent, {"step": flops.training(policy.config, load)}, tokens)
            stage.write(step, row | {"tokens": trained} | costs | {f"seconds/{k}": v for k, v in spent.items()})
            tokens, trained, load = 0, 0, flops.Load()
        if stage.rollback.wanted:
            state, saved = stage.roll_back(tx, state, step, batches.get_state())
            trained = _resume(saved, batches, means)
            if stage.rollback.scale != 1:
                step_fn = make_step(policy, stage.scaled(tx), settings.micro_batches)
            seconds.take()
            tokens, load = 0, flops.Load()
            continue
        if stage.evaluates(step) or stage.saves(step):
            jax.block_until_ready(sums)  # both would wait for the steps that still run, whose time is not theirs
        seconds.pause()
        evaluated = True
        if stage.evaluates(step):
            evaluated = stage.evaluate(step, state)
        stop = not evaluated or bool(stage.alarmed) or distributed.preempted()
        if stage.saves(step) or stop:
            # The sums for the next row of the log, as far as they have been collected.
            unlogged = {"unlogged": means.get_state(), "unlogged_tokens": trained} if trained else {}
            stage.save(step, state, unlogged, batches.get_state(), evaluated)
        if stop:
            stage.stop(step)
    return stage.finish(state)
