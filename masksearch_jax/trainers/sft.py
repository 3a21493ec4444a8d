"""Supervised fine-tuning on demonstrations: stage I of the paper on RAMP, stage II on questions, the warm start of RL.

In: W/demonstrations (packed by data.pipeline, curriculum by number of masks), a mesh, and a function that evaluates
during training. Out: W/<name>/checkpoints, metrics.jsonl, config.json, history.jsonl (the settings of every start). The
loss covers the policy's own tokens only; prompt and observations are read but not learned. A run that is killed and
started again ends with the same parameters bit for bit. With several processes, each builds the same global batch from
the same cursor and copies its own rows to its devices.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from masksearch_jax.data import pipeline
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.data.stream_fingerprint import check_fingerprint
from masksearch_jax.model import logprobs, lora, transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import distributed, metrics, settings_history, stop_signals
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.trainers import checked_permutation
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.trainers.divergence import UpdateWatch, check_finite
from masksearch_jax.trainers.row_checks import check_rows

Evaluate = Callable[[Any, int], dict[str, Any]]


def loss_fn(
    model_cfg: ModelConfig, params: Any, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array, state_lib.Sums]:
    """Return the summed negative log-likelihood of the trainable targets, their count, and {"loss": both}.

    batch: int32 and bool arrays [rows, length] (data.pipeline).
    """
    hidden = transformer.forward(model_cfg, params, batch["ids"], batch["positions"], batch["segments"])
    logp, _ = logprobs.token_logprobs(model_cfg, params, hidden, batch["targets"], wanted=batch["loss_mask"])
    mask = batch["loss_mask"].astype(jnp.float32)
    total, count = -jnp.sum(logp * mask), jnp.sum(mask)
    return total, count, {"loss": (total, count)}


def make_step(model_cfg: ModelConfig, tx, mesh, micro_batches: int):
    """Return the jitted step (state, batch, *frozen) -> (state, sums). The state is donated, shardings are explicit.

    frozen: the base, if the state holds adapters; otherwise nothing.
    """
    shardings = state_lib.state_shardings(model_cfg, tx, mesh)
    loss = functools.partial(loss_fn, model_cfg)

    def step(state, batch, *frozen):
        split = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
        grads, _, count, sums = state_lib.accumulate(loss, state.params, split, *frozen)
        state, norm, good = state_lib.apply_gradients(state, tx, grads, count)
        one = jnp.ones(())
        return state, sums | {
            "grad_norm": (jnp.where(good, norm, 0.0), good.astype(jnp.float32)),
            "skipped": (1.0 - good, one),
        }

    return jax.jit(
        step,
        in_shardings=(shardings, mesh_lib.batch_sharding(mesh), *state_lib.frozen_shardings(model_cfg, mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )


@stop_signals.deferred()  # the loop checks for a stop signal after each step
def run(
    cfg: Any,
    workdir: Path,
    model_cfg: ModelConfig,
    mesh,
    *,
    name: str = "sft",
    params: Any = None,
    evaluate: Evaluate | None = None,
) -> Any:
    """Train with the settings `cfg.<name>`, write to W/<name>, and return the final parameters (TRAIN layout).

    params: the parameters to start from (default: initialised from `cfg.seed`). With adapters they include the base,
    which checkpoints do not hold. evaluate: (params, step) -> scores, called every `eval_every` steps. Raises
    ValueError before the first step for settings or data that cannot work, and DivergedError when steps no longer
    change anything.
    """
    settings, folder = cfg[name], workdir / name
    stage = stage_of(cfg, workdir, name, "sft", model_cfg)
    stage.differences()  # raises if a fixed setting has changed, before anything is opened
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
        augmentation=checked_permutation.load(workdir / "data", tokenizer) if settings.augment else None,
        share=settings.share,
    )
    # ---- model and optimizer --------------------------------------------------------------------------------------
    check_rows(name, settings.rows, settings.micro_batches, mesh)
    tx = optimizer_lib.build(settings.optimizer, state_lib.abstract_trained(model_cfg, mesh))
    step_fn = make_step(model_cfg, tx, mesh, settings.micro_batches)
    # ---- own checkpoint > given parameters > fresh ones -----------------------------------------------------------
    checkpoints = Checkpointer(folder / "checkpoints", keep=2)
    log = metrics.MetricsLog(folder, primary=distributed.primary(), tensorboard=cfg.tensorboard)
    if params is None and (model_cfg.lora or checkpoints.latest() is None):
        params = transformer.init_params(model_cfg, cfg.seed, mesh)
    frozen = lora.split(params)[1]
    facts = state_lib.adapter_facts(model_cfg, frozen, cfg.pretrained, cfg.seed)
    means, trained, evaluation_due = metrics.Mean(), 0, False
    if checkpoints.latest() is not None:
        state_lib.check_adapters(checkpoints.meta(), facts, folder)
        state, meta, data_state = checkpoints.restore(None, state_lib.abstract_state(model_cfg, tx, mesh))
        check_fingerprint(meta["data_fingerprint"], batches.fingerprint)
        batches.set_state(data_state)
        means.set_state(meta.get("unlogged", {}))
        trained, evaluation_due = meta.get("unlogged_tokens", 0), meta.get("evaluation_due", False)
    else:
        state = state_lib.create(params, model_cfg, tx, mesh)
    distributed.same("the data", {"fingerprint": batches.fingerprint, **batches.get_state()})
    start = int(state.step)
    log.cut(start)  # also at 0, because a run that was killed before its first checkpoint has left rows
    stage.begin(start)
    check_finite(state.params, f"{name} at step {start}")
    watch = UpdateWatch(name, "steps", settings.max_without_update, settings.optimizer.learning_rate, start)
    if start:
        watch.saved(start)
    del params

    def score(step: int) -> None:
        found = evaluate(lora.join(state.params, *frozen), step)
        log.write(step, {f"eval/{name}": value for name, value in found.items()})

    if evaluation_due and evaluate:
        score(start)
    # ---- loop -----------------------------------------------------------------------------------------------------
    began, tokens, note = time.perf_counter(), 0, metrics.Note()
    ahead = range(start + 1, settings.steps + 1)
    metrics.say(name, f"{_from(start)} to step {settings.steps}; the first step compiles", distributed.primary())
    for step in metrics.progress(ahead, len(ahead), name, distributed.primary(), note):
        distributed.alive(f"{name} step {step}")
        batch, unscored = next(batches), {}
        del batch["examples"]
        new = int(np.count_nonzero(batch["segments"]))
        tokens, trained = tokens + new, trained + new
        state, sums = step_fn(state, distributed.put(batch, mesh_lib.batch_sharding(mesh)), *frozen)
        means.add(sums)
        watch.add(step, sums)
        if watch.due or step == settings.steps:
            watch.settle(checkpoints, last=step == settings.steps)
        if step % settings.log_every == 0 or step == settings.steps:
            row = means.result() | {"examples": batches.index, "phase": curriculum.phase(batches.index)}
            rate = tokens / (time.perf_counter() - began)  # without the time of evaluations
            log.write(step, row | {"tokens": trained, "tokens_per_s": round(rate, 1)})
            note.text = f"loss {row.get('loss', float('nan')):.3f}, {rate:,.0f} tokens/s"
            began, tokens, trained = time.perf_counter(), 0, 0
        if evaluate and settings.eval_every and step % settings.eval_every == 0 and step < settings.steps:
            try:
                score(step)
            except distributed.PreemptedError:  # abandoned; the resumed run does this evaluation
                unscored = {"evaluation_due": True}
            began, tokens = time.perf_counter(), 0
        stop = bool(unscored) or distributed.preempted()
        if step % settings.checkpoint_every == 0 or step == settings.steps or stop:
            watch.settle(checkpoints)
            # The sums for the next row of the log, as far as they have been collected.
            unlogged = {"unlogged": means.get_state(), "unlogged_tokens": trained} if trained else {}
            meta = {"data_fingerprint": batches.fingerprint} | facts | unlogged | unscored
            stage.check_present()
            checkpoints.save(step, state, meta, batches.get_state())
            watch.saved(step)
        if stop:
            checkpoints.wait()
            raise distributed.PreemptedError(f"{name} was told to stop and saved step {step}; start it again to go on")
    checkpoints.wait()
    stage.check_present()
    checkpoints.close()
    log.close()
    metrics.say(name, f"done: step {settings.steps} in {folder / 'checkpoints'}", distributed.primary())
    return lora.join(state.params, *frozen)


def _from(step: int) -> str:
    return f"goes on from step {step}" if step else "from the start"


def stage_of(cfg: Any, workdir: Path, name: str, kind: str, model_cfg: ModelConfig) -> settings_history.Stage:
    """Return the Stage of W/<name>, which compares its settings with those of earlier starts. kind: 'sft' or 'dapo'."""
    settings, model = cfg.to_dict(), dataclasses.asdict(model_cfg)
    return settings_history.Stage(workdir / name, kind, settings, model, primary=distributed.primary())
