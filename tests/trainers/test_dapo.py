import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from masksearch_jax.data import pipeline
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.model.policy import Policy
from masksearch_jax.rl import update_batch as batch_lib
from masksearch_jax.rl.rewards import Reward, RewardConfig
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.runtime import distributed, metrics
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import alarms, dapo, dapo_programs, position, rollout_batch, updates
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.workflows import synthesis_stage, training
from masksearch_jax.workflows.context import RunContext


@pytest.fixture
def warm(cfg, workdir):
    """(job, SFT parameters): enough SFT for some episodes to answer."""
    context = RunContext(cfg, workdir)
    synthesis_stage.run(cfg, workdir, context.searcher("train"))
    cfg.sft.steps = cfg.sft.optimizer.total_steps = 6
    return context, training.train_sft(context)


def finish(context, params):
    engine = context.engine("train", context.cfg.dapo.temperature)
    with jax.set_mesh(context.mesh):
        return dapo.run(context.cfg, context.workdir, context.policy, engine, params=params)


@pytest.mark.parametrize(
    ("staleness", "shared"),
    [(0, False), pytest.param(0, True, marks=pytest.mark.slow), pytest.param(1, True, marks=pytest.mark.slow)],
)
def test_resumed_equals_uninterrupted_bit_for_bit(warm, staleness, shared, monkeypatch):
    context, params = warm
    context.cfg.dapo.update({"staleness": staleness, "tis_cap": 2.0 * staleness, "share_prefixes": shared})
    context.cfg.dapo.dynamic_sampling = False  # so that every iteration has something to learn from
    whole = finish(context, params)
    (context.workdir / "dapo").rename(context.workdir / "whole")
    # Told to stop while the fourth batch is sampled: the third iteration is saved, though a checkpoint is not due.
    runs, run = [], RolloutEngine.run
    with monkeypatch.context() as patch:
        patch.setattr(RolloutEngine, "run", lambda self, *args, **more: runs.append(1) or run(self, *args, **more))
        patch.setattr(distributed, "preempted", lambda: len(runs) > 3)
        with pytest.raises(distributed.PreemptedError, match="saved iteration 3"):
            finish(context, params)
    assert len(runs) == 4
    resumed = finish(context, None)  # the checkpoint is all it needs
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), whole, resumed)
    kept = ("step", "reward", "generated_tokens", "prompts", "phase")
    rows = [
        [{k: r[k] for k in kept} for r in metrics.read_rows(context.workdir / d / "metrics.jsonl")]
        for d in ("whole", "dapo")
    ]
    assert rows[0] == rows[1]


def test_iteration_measures_what_it_should(warm):
    context, params = warm
    context.cfg.dapo.update({"iterations": 2, "dynamic_sampling": False, "minibatches": 1, "checkpoint_every": 2})
    finish(context, params)
    for row in metrics.read_rows(context.workdir / "dapo" / "metrics.jsonl"):
        # Sampler and trainer agree, so the first (and here only) step has ratio 1 and clips nothing.
        assert row["sampler_max_diff"] < 1e-4
        assert abs(row["ratio"] - 1) < 1e-4 and row["clip_low"] == row["clip_high"] == 0
        assert row["batch_groups"] == context.cfg.dapo.groups and row["skipped"] == 0
        assert row["rollout/compiles"] == 0  # all of it came before the first iteration
        parts = {name: row[f"{name}/flops"] for name in ("rollout", "logprobs", "update")}
        spent = sum(row[f"seconds/{name}"] for name in ("reshard", "rollout", "logprobs", "update"))
        assert row["flops_per_s"] == pytest.approx(sum(parts.values()) / spent)
        # The update reads what the log-probs do, and costs three times as much; the rollout read the groups at least.
        assert parts["update"] == pytest.approx(3 * parts["logprobs"]) and parts["rollout"] > 0
        stops = sum(value for name, value in row.items() if name.startswith("stop/"))
        assert stops == pytest.approx(1)
        # Since the searcher was made, which the demonstrations were searched with too.
        assert row["search/queries"] > row["rollout/searches"] and row["search/cache_hits"] > 0
        assert 0 < row["search/latency_p50_ms"] <= row["search/latency_p99_ms"]


@pytest.mark.slow
def test_sampling_ahead_lags_one_version_and_timing_changes_nothing(warm):
    """Updates run inside the rollouts, whenever these have room; when that is changes no parameter."""
    context, params = warm
    context.cfg.dapo.update({"iterations": 3, "dynamic_sampling": False, "staleness": 1, "tis_cap": 2.0})
    first = finish(context, params)
    rows = metrics.read_rows(context.workdir / "dapo" / "metrics.jsonl")
    assert [row["staleness"] for row in rows] == [0, 1, 1]
    assert "sampler_correlation" in rows[0] and "sampler_correlation" not in rows[1]  # no token of its own version
    assert all(row["rollout/overlap_s"] > 0 for row in rows)
    (context.workdir / "dapo").rename(context.workdir / "first")
    context.cfg.rollout.slots //= 2  # other engine steps, other room
    second = finish(context, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first, second)


@pytest.mark.slow
def test_a_resumed_run_may_switch_staleness_off(warm):
    """It first trains on the batch that waits in the checkpoint, and samples none for that iteration."""
    context, params = warm
    context.cfg.dapo.update({"iterations": 1, "dynamic_sampling": False, "staleness": 1, "tis_cap": 2.0})
    finish(context, params)
    context.cfg.dapo.update({"iterations": 3, "staleness": 0})
    finish(context, params)
    rows = metrics.read_rows(context.workdir / "dapo" / "metrics.jsonl")
    assert [row["staleness"] for row in rows] == [0, 1, 0]
    assert ["rollout/tokens" in row for row in rows] == [True, False, True]


def test_a_sampler_that_disagrees_raises_the_alarm(cfg, workdir):
    model_cfg = RunContext(cfg, workdir).policy.config
    shape = batch_lib.BatchShape((64,), 4, (1,), packed=False)
    means, groups, watch = metrics.Mean(), _groups(model_cfg), alarms.Alarms(cfg.alarms, "dapo", "iteration")
    updates.build_updates(groups, cfg.dapo, shape, lambda u: u.sampler_logp, 0, means)
    assert not watch.judge(1, means.result())
    updates.build_updates(groups, cfg.dapo, shape, lambda u: u.sampler_logp + 0.5, 0, means)
    (verdict,) = watch.judge(2, means.result())
    assert "over alarms.sampler_difference.threshold=0.01" in verdict.sentence and "tis_cap=2" in verdict.sentence


def test_log_probs_of_the_sampler_may_be_the_denominator(cfg, workdir):
    """One forward pass less; the update is that of recomputed ones, as the sampler's numbers are the trainer's."""
    model_cfg = RunContext(cfg, workdir).policy.config
    shape = batch_lib.BatchShape((64,), 4, (1,), packed=False)
    means, groups = metrics.Mean(), _groups(model_cfg)
    recomputed = updates.build_updates(groups, cfg.dapo, shape, lambda u: u.sampler_logp, 0, metrics.Mean())
    cfg.dapo.old_logprobs = "sampler"
    sampled = updates.build_updates(groups, cfg.dapo, shape, lambda u: pytest.fail("nothing is recomputed"), 0, means)
    jax.tree.map(np.testing.assert_array_equal, recomputed, sampled)
    assert means.result() == {"staleness": 0.0}
    cfg.dapo.tis_cap = 2.0
    with pytest.raises(ValueError, match=r"dapo.old_logprobs='sampler' with dapo.staleness=0, dapo.tis_cap=2.0"):
        training.validate_training(cfg)


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_text", "seqio", "tensorflow_datasets", "clu", "keras"):
    sys.modules[name] = None
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from conftest import small_config
from masksearch_jax.workflows import training
cfg = small_config()
cfg.sft.steps = cfg.sft.checkpoint_every = 2
cfg.dapo.update({{"iterations": 1, "dynamic_sampling": False}})
training.run(cfg, Path({workdir!r}))
assert all(sys.modules[name] is None for name in ("tensorflow", "seqio", "clu"))
print("trained")
"""


@pytest.mark.slow
def test_the_whole_trainer_runs_where_tensorflow_does_not_exist(workdir):
    here = Path(__file__).parent
    code = WITHOUT_TENSORFLOW.format(root=str(here.parent.parent), here=str(here), workdir=str(workdir))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0 and "trained" in done.stdout, done.stderr[-3000:]
    rows = metrics.read_rows(workdir / "dapo" / "metrics.jsonl")
    assert len(rows) == 1 and rows[0]["skipped"] == 0 and rows[0]["batch_groups"] == 2


def test_resume_refuses_another_index(warm):
    context, params = warm
    context.cfg.dapo.update({"iterations": 2, "checkpoint_every": 2, "dynamic_sampling": False})
    finish(context, params)
    context.cfg.dapo.iterations = 4
    context.cfg.search.exclusion = "article"
    other = RunContext(context.cfg, context.workdir)
    with pytest.raises(ValueError, match='search.exclusion is "passage" there and "article" here'):
        finish(other, None)
    with pytest.raises(ValueError, match="index: a there, b here"):  # built anew, with the same settings
        position.check_identity({"index": "a", "seed": 0}, {"index": "b", "seed": 0})


# --- dynamic sampling ------------------------------------------------------------------------------------------------


class ScriptedEngine:
    """Rewards by script: sample s of group g answers right if `right(g, s)`."""

    def __init__(self, tokenizer, right):
        self.tokenizer, self.right, self.requests, self.stats = tokenizer, right, [], {"engine_steps": 2}

    def run(self, params, requests, version, seed, greedy, overlap=None):
        assert not greedy and overlap is None
        self.requests += requests
        return [self._one(r, version) for r in requests]

    def _one(self, request, version):
        golds = "; ".join(a[0] for a in request.task.answers)
        said = golds if self.right(request.group, request.sample) else "nobody"
        text = f"<answer> {said}</answer>"
        wrote = self.tokenizer.encode(text)
        n = len(request.task.prompt)
        ids = np.array([*request.task.prompt, *wrote], np.int32)
        trainable = np.arange(len(ids)) >= n
        return Trajectory(
            task_id=request.task.id, group=request.group, sample=request.sample, ids=ids, trainable=trainable,
            logprobs=np.where(trainable, -0.5, 0).astype(np.float32),
            versions=np.where(trainable, version, -1).astype(np.int32),
            prompt_length=n, turns=(Turn("answer", n, len(ids), text),), stop=StopReason.ANSWER, answer=said,
        )  # fmt: skip


def collect_with(cfg, workdir, right, carried=(), version=3):
    context = RunContext(cfg, workdir)
    engine = ScriptedEngine(context.tokenizer, right)
    tasks = pipeline.tasks(
        workdir / "data" / "tasks", "train", Curriculum([(None, {"ramp_1": 1.0})]), seed=0, tokenizer_fingerprint="t"
    )
    found = rollout_batch.generate(engine, None, tasks, cfg.dapo, RewardConfig(), None, list(carried), version, seed=0)
    return found, engine, tasks


def test_groups_without_signal_are_refilled_and_the_rest_ordered_by_id(cfg, workdir):
    cfg.dapo.update({"prompts": 4, "groups": 3, "max_generations": 5})
    # Of prompts 0..3 only 2 is mixed, of 4..7 all are: a second generation fills the batch.
    found, engine, tasks = collect_with(cfg, workdir, lambda g, s: s % 2 == 0 if g >= 4 or g == 2 else g == 1)
    assert [g.id for g in found.batch] == [2, 4, 5]
    assert tasks.index == 8 and found.carried == []
    assert found.measured["generations"] == (2.0, 1.0) and found.stats == {"engine_steps": 4}
    assert found.measured["kept_groups"] == (5.0, 8.0)
    # Keys are unique to a sample of a prompt of the stream, whatever generation it came from.
    assert len({r.key for r in engine.requests}) == len(engine.requests) == 8 * cfg.dapo.group_size


def test_a_spent_budget_gives_a_smaller_batch(cfg, workdir):
    cfg.dapo.update({"prompts": 4, "groups": 3, "max_generations": 2})
    found, _, tasks = collect_with(cfg, workdir, lambda g, s: s == 0 if g == 5 else True)
    assert [g.id for g in found.batch] == [5] and tasks.index == 8
    found, _, _ = collect_with(cfg, workdir, lambda g, s: False)
    assert found.batch == [] and updates.build_updates([], cfg.dapo, None, None, 0, metrics.Mean()) == []


def test_dynamic_sampling_can_be_switched_off(cfg, workdir):
    cfg.dapo.update({"prompts": 4, "groups": 3, "dynamic_sampling": False})
    found, _, tasks = collect_with(cfg, workdir, lambda g, s: True)
    assert [g.id for g in found.batch] == [0, 1, 2] and tasks.index == 4


def test_surplus_waits_one_version_and_no_longer(cfg, workdir):
    cfg.dapo.update({"prompts": 4, "groups": 3, "carry_over": True})
    found, _, _ = collect_with(cfg, workdir, lambda g, s: s == 0, version=3)
    assert [g.id for g in found.carried] == [3]
    # Through a checkpoint and back, bit for bit.
    saved = json.loads(json.dumps([rollout_batch.to_json(g) for g in found.carried]))
    (back,) = [rollout_batch.from_json(g) for g in saved]
    for a, b in zip(found.carried[0].trajectories, back.trajectories, strict=True):
        for field in dataclasses.fields(Trajectory):
            left, right = getattr(a, field.name), getattr(b, field.name)
            assert np.array_equal(left, right) and getattr(left, "dtype", 0) == getattr(right, "dtype", 0)
    assert back.rewards == found.carried[0].rewards
    late, _, _ = collect_with(cfg, workdir, lambda g, s: s == 0, carried=[back], version=4)
    assert [g.id for g in late.batch] == [0, 1, 2] and late.carried[0].id == 3
    stale, _, _ = collect_with(cfg, workdir, lambda g, s: s == 0 if g != 1 else True, carried=[back], version=5)
    assert 3 in [g.id for g in stale.batch] and all(g.version == 5 for g in stale.batch)


# --- update ----------------------------------------------------------------------------------------------------------


def _groups(model_cfg, seed=0):
    """Two groups of four random trajectories, half of them right."""
    rng, groups = np.random.default_rng(seed), []
    for g in range(2):
        trajectories, rewards = [], []
        for s in range(4):
            n = int(rng.integers(20, 60))
            trainable = (rng.random(n) < 0.4) & (np.arange(n) > 3)
            trajectories.append(Trajectory(
                task_id=f"{g}", group=g, sample=s, ids=rng.integers(3, model_cfg.vocab_size, n).astype(np.int32),
                trainable=trainable, logprobs=np.where(trainable, -3.0, 0).astype(np.float32),
                versions=np.where(trainable, 0, -1).astype(np.int32),
                prompt_length=4, turns=(), stop=StopReason.ANSWER, answer="",
            ))  # fmt: skip
            rewards.append(Reward(1.0, float(s % 2), 0.0, float(s % 2), float(s % 2) + 0.1 * s))
        groups.append(rollout_batch.Group(g, 0, "ramp_1", tuple(trajectories), tuple(rewards)))
    return groups


def _update(cfg, policy, shape):
    tx = optimizer_lib.build_optimizer({"kind": "adamw", "learning_rate": 1e-2, "eps": 1e-3}, policy.abstract_trainable)
    with jax.set_mesh(policy.mesh):
        state = state_lib.create_state(policy, tx, policy.init_params(0))
        old, step = dapo_programs.make_programs(policy, cfg.dapo, tx)
        means, groups = metrics.Mean(), _groups(policy.config)
        built = updates.build_updates(groups, cfg.dapo, shape, lambda u: old(state.params, u, {}), 0, means)
        for update in built:
            state, sums = step(state, update, {})
            means.add(sums)
    assert step._cache_size() == 1
    return jax.device_get(state.params), means.result()


@pytest.mark.slow
def test_split_packing_and_mesh_change_nothing(cfg, workdir):
    model_cfg = RunContext(cfg, workdir).policy.config
    single = mesh_lib.make_mesh(1, 1, 1)
    params, measured = _update(cfg, Policy(model_cfg, single), batch_lib.BatchShape((64,), 4, (1,), packed=False))
    assert measured["grad_norm"] > 0 and measured["skipped"] == 0
    shapes = [
        (single, batch_lib.BatchShape((64,), 2, (2,), packed=False)),  # micro-batches
        (single, batch_lib.BatchShape((96,), 4, (1, 2))),  # padding
        (single, batch_lib.BatchShape((160,), 2, (1, 2))),  # packed
        (mesh_lib.make_mesh(2, 2, 2), batch_lib.BatchShape((64,), 4, (1,), packed=False)),
        (mesh_lib.make_mesh(1, 4, 1), batch_lib.BatchShape((160,), 4, (1,))),
    ]
    for mesh, shape in shapes:
        other, other_measured = _update(cfg, Policy(model_cfg, mesh), shape)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), params, other)
        for name in ("loss", "ratio", "entropy", "approx_kl", "sampler_max_diff"):
            assert np.isclose(measured[name], other_measured[name], atol=1e-5), name


def test_shapes_and_settings_are_refused_before_work(cfg, workdir):
    cfg.dapo.row_lengths = (100,)
    with pytest.raises(ValueError, match="row_lengths"):
        updates.batch_shape(cfg.dapo, 160, mesh_lib.make_mesh(1, 1, 1))
    cfg.dapo.update({"row_lengths": (160,), "rows": 1, "micro_batches": (1, 2)})
    with pytest.raises(ValueError, match="micro_batches"):
        updates.batch_shape(cfg.dapo, 160, mesh_lib.make_mesh(1, 1, 1))
    cfg.dapo.update({"rows": 3, "micro_batches": (4,)})
    with pytest.raises(ValueError, match="rows"):
        updates.batch_shape(cfg.dapo, 160, mesh_lib.make_mesh(2, 1, 1))
    cfg.rollout.top_p = 0.9
    with pytest.raises(ValueError, match="top_p"):
        training.validate_training(cfg)
    cfg.rollout.top_p = 1.0
    for name, wrong in (("advantage", "mode"), ("aggregation", "sequence-mean"), ("clip_low", 2.0)):
        kept, cfg.dapo[name] = cfg.dapo[name], wrong
        with pytest.raises(ValueError, match=name):
            training.validate_training(cfg)
        cfg.dapo[name] = kept
    cfg.dapo.staleness = 1
    with pytest.raises(ValueError, match=r"set dapo.tis_cap=2\.0"):
        training.validate_training(cfg)
    cfg.dapo.update({"tis_cap": 2.0, "carry_over": True})
    with pytest.raises(ValueError, match="two versions old"):
        training.validate_training(cfg)
    cfg.dapo.update({"staleness": 0, "tis_cap": 0.0, "carry_over": False})
    cfg.dapo.reward.answer = "judge"
    with pytest.raises(ValueError, match="judge"):
        training.validate_training(cfg)
    cfg.dapo.reward.answer = "recall"
    cfg.pretrained = str(workdir / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere': no model there"):
        training.validate_training(cfg)
