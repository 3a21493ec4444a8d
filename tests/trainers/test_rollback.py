"""A stage that goes wrong returns to its last good checkpoint, skips the bad data, and recovers; killed at any moment
of that, it ends with the same bits."""

import contextlib
import json
import sqlite3

import jax
import numpy as np
import pytest

from masksearch_jax.runtime import metrics
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.trainers import dapo, rollout_batch, sft
from masksearch_jax.trainers.divergence import DivergedError, UpdateWatch
from masksearch_jax.workflows import synthesis_stage, training
from masksearch_jax.workflows.context import RunContext


class KilledError(BaseException):
    """Stands in for SIGKILL."""


@pytest.fixture
def ready(cfg, workdir):
    """The workdir with demonstrations."""
    synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))
    cfg.sft.update({"steps": 14, "log_every": 1, "checkpoint_every": 2, "max_without_update": 10})
    cfg.sft.optimizer.update({"warmup": 1, "schedule": "constant", "learning_rate": 0.01})
    cfg.sft.rollback.after = 2
    return workdir


def run_sft(cfg, workdir):
    context = RunContext(cfg, workdir)
    with jax.set_mesh(context.mesh):
        return sft.run(cfg, workdir, context.policy)


def poison(monkeypatch, number, factor):
    """Multiply the weights after the batch that is drawn as number `number`, whenever it comes, as a spike would."""
    make_step, seen = sft.make_step, []

    def made(*args):
        step = make_step(*args)

        def poisoned(state, batch, base):
            ids = np.asarray(batch["ids"]).tobytes()
            if ids not in seen:
                seen.append(ids)
            bad = seen.index(ids) + 1 == number
            state, sums = step(state, batch, base)
            return (jax.tree.map(lambda x: x * factor if x.ndim else x, state) if bad else state), sums

        return poisoned

    monkeypatch.setattr(sft, "make_step", made)


def rows_of(workdir, name="sft"):
    return metrics.read_rows(workdir / name / "metrics.jsonl")


def rollbacks_of(workdir, name="sft"):
    lines = (workdir / name / "history.jsonl").read_text().splitlines()
    return [row["rollback"] for row in map(json.loads, lines) if "rollback" in row]


def same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def test_a_run_that_diverged_recovers(cfg, ready, monkeypatch, capsys):
    """Weights overflow after the seventh batch; the gradients of steps 8 and 9 are not finite."""
    whole = run_sft(cfg, ready)
    undisturbed = [row["loss"] for row in rows_of(ready)]
    assert rollbacks_of(ready) == [] and "rolled back" not in capsys.readouterr().err
    (ready / "sft").rename(ready / "undisturbed")

    poison(monkeypatch, 7, 1e30)
    recovered = run_sft(cfg, ready)
    said = capsys.readouterr().err
    assert "rolled back from step 9 to 6 (rollback 1): 2 steps in a row had no finite" in said
    (record,) = rollbacks_of(ready)
    assert (record["number"], record["at"], record["to"]) == (1, 9, 6)
    rows = rows_of(ready)
    assert [row["step"] for row in rows] == list(range(1, 15))
    assert [row["rollbacks"] for row in rows] == [0] * 6 + [1] * 8
    void = [json.loads(line) for line in (ready / "sft" / "rollback-1.jsonl").read_text().splitlines()]
    assert [row["step"] for row in void] == [7, 8, 9] and void[-1]["skipped"] == 1
    assert rows[5]["examples"] < void[-1]["examples"] == record["cursor"]["index"] < rows[6]["examples"]
    # It learned as much as the run without the poison, on other examples.
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert np.mean([row["loss"] for row in rows[-3:]]) < 1.1 * np.mean(undisturbed[-3:])
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (whole, recovered)), strict=True))


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_returns_ends_the_same(cfg, ready, monkeypatch):
    poison(monkeypatch, 7, 1e30)
    recovered = run_sft(cfg, ready)
    expected = [{k: v for k, v in row.items() if k not in ("time", "tokens_per_s")} for row in rows_of(ready)]
    (ready / "sft").rename(ready / "recovered")
    for moment in ("record", "set aside", "restored", "saved"):
        with monkeypatch.context() as patch:
            kill_at(moment, patch)
            with pytest.raises(KilledError):
                run_sft(cfg, ready)
        same(recovered, run_sft(cfg, ready))
        rows = [{k: v for k, v in row.items() if k not in ("time", "tokens_per_s")} for row in rows_of(ready)]
        assert rows == expected, moment
        assert len(rollbacks_of(ready)) == 1
        (ready / "sft").rename(ready / moment)


def kill_at(moment, patch):
    """Kill the run at a moment of its first rollback, or in the first save after it."""
    returned = []
    set_aside, restore, save = Checkpointer.set_aside_after, Checkpointer.restore, Checkpointer.save

    def setting_aside(self, step):
        if moment == "record":
            raise KilledError
        set_aside(self, step)
        returned.append(step)
        if moment == "set aside":
            raise KilledError

    def restoring(self, *args, **more):
        found = restore(self, *args, **more)
        if moment == "restored" and returned:
            raise KilledError
        return found

    def saving(self, step, *args):
        if moment == "saved" and returned:
            raise KilledError
        save(self, step, *args)

    patch.setattr(Checkpointer, "set_aside_after", setting_aside)
    patch.setattr(Checkpointer, "restore", restoring)
    patch.setattr(Checkpointer, "save", saving)


@pytest.mark.slow
def test_an_alarm_rolls_back_to_before_its_window(cfg, ready, monkeypatch):
    """Weights that are ten times too large: every gradient is finite, and checkpoints of the bad steps are saved."""
    cfg.sft.steps = 30
    cfg.alarms.loss.update({"threshold": 1.5, "window": 2, "action": "rollback"})
    run_sft(cfg, ready)
    undisturbed = np.mean([row["loss"] for row in rows_of(ready)[-4:]])
    (ready / "sft").rename(ready / "undisturbed")
    poison(monkeypatch, 17, 10.0)
    run_sft(cfg, ready)
    (record,) = rollbacks_of(ready)
    assert record["to"] <= 16 < record["at"] <= 20 and record["why"].startswith("alarm loss starts at step")
    rows = rows_of(ready)
    assert np.mean([row["loss"] for row in rows[-4:]]) < 1.15 * undisturbed
    assert [row["step"] for row in rows] == list(range(1, 31)) and not any("alarm/loss" in row for row in rows)
    assert list((ready / "sft" / "checkpoints").glob("diverged-*"))


@pytest.mark.slow
def test_learning_rates_fall_at_each_return_and_returns_are_counted(cfg, ready):
    cfg.sft.optimizer.update({"learning_rate": 1e30, "adam_learning_rate": 1e30})
    cfg.sft.rollback.update({"most": 2, "learning_rate_scale": 1e-16})
    run_sft(cfg, ready)  # 1e30, 1e14, 1e-2
    assert [record["to"] for record in rollbacks_of(ready)] == [0, 0]
    rows = rows_of(ready)
    assert rows[-1]["rollbacks"] == 2 and np.isfinite(rows[-1]["loss"]) and rows[-1]["loss"] < rows[0]["loss"]
    (ready / "sft").rename(ready / "recovered")
    cfg.sft.rollback.most = 1
    with pytest.raises(DivergedError, match=r"2 steps in a row .*; it returned to a good checkpoint 1 times"):
        run_sft(cfg, ready)
    assert not training.finished(RunContext(cfg, ready), "sft", cfg.sft.steps)


@pytest.mark.slow
@pytest.mark.parametrize(("staleness", "prompts"), [(0, [4, 16, 20, 24]), (1, [8, 24, 28, 32])])
def test_dapo_returns_and_draws_other_tasks(cfg, workdir, monkeypatch, staleness, prompts):
    """Log-probs that are not finite, once: in the rollouts of the third iteration, with staleness while it trains."""
    context = RunContext(cfg, workdir)
    cfg.dapo.update({"dynamic_sampling": False, "checkpoint_every": 1, "iterations": 4, "staleness": staleness})
    cfg.trajectories.rate = 1.0
    cfg.dapo.rollback.after = 2
    check, failed = rollout_batch.check_logprobs, []

    def failing(trajectories, version):
        if version == 2 and not failed:
            failed.append(version)
            raise DivergedError("policy 2: 1 of 16 episodes have log-probs that are not finite")
        check(trajectories, version)

    monkeypatch.setattr(rollout_batch, "check_logprobs", failing)
    engine = context.engine("train", cfg.dapo.temperature)
    with jax.set_mesh(context.mesh):
        dapo.run(cfg, workdir, context.policy, engine, params=context.initial())
    (record,) = rollbacks_of(workdir, "dapo")
    assert record["at"] == 3 and record["to"] == 1 and failed == [2]
    rows = rows_of(workdir, "dapo")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["prompts"] for row in rows] == prompts  # those of the second and third iteration are passed
    with contextlib.closing(sqlite3.connect(workdir / "dapo" / "trajectories" / "episodes.sqlite")) as kept:
        trained = kept.execute('SELECT DISTINCT trained, "group" FROM episodes ORDER BY trained, "group"').fetchall()
    groups = [[group for step, group in trained if step == number] for number in range(1, 5)]
    assert [len(own) for own in groups] == [2] * 4 and max(groups[0]) < 4  # dapo.groups of 4 prompts
    passed = range(prompts[0], prompts[1] - (8 if staleness else 4))  # of bad iterations, sampled ahead included
    assert not any(group in passed for own in groups for group in own)
    void = workdir / "dapo" / "rollback-1" / "trajectories" / "episodes.sqlite"
    with contextlib.closing(sqlite3.connect(void)) as kept:
        bad = {step for (step,) in kept.execute("SELECT DISTINCT max(step, ifnull(trained, 0)) FROM episodes")}
    assert bad and min(bad) >= 2


def test_a_saved_step_is_good_only_after_its_proof():
    class Saved:
        known_good = None

        def confirm(self, step):
            self.known_good = step

    def taken(step):
        watch.add(step, {"skipped": (0.0, 1.0), "loss": (1.0, 1.0), "grad_norm": (1.0, 1.0)})

    saved, watch = Saved(), UpdateWatch("sft", "steps", 20, 1e-3, 0, early=3, proof=5)
    for step in (2, 4, 6):
        watch.saved(step)
    for step in range(1, 8):
        taken(step)
    watch.review(saved)
    assert saved.known_good is None and watch.doubtful == [2, 4, 6]
    taken(8)
    watch.review(saved)
    assert saved.known_good == 2 and watch.doubtful == [4, 6]
    for step in (9, 10):
        watch.add(step, {"skipped": (1.0, 1.0)})
        assert not watch.due
    watch.add(11, {"skipped": (1.0, 1.0)})
    assert watch.due
    watch.review(saved)
    assert watch.not_finite == 3
    # A resumed run knows of the row of bad steps before it.
    resumed = UpdateWatch("sft", "steps", 20, 1e-3, 10, early=3, not_finite=2)
    resumed.add(11, {"skipped": (1.0, 1.0)})
    assert resumed.due
