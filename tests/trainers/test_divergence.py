"""Training that changes nothing stops and says why; the last good checkpoint stays; damage never counts as finished."""

import types

import jax
import numpy as np
import pytest

from masksearch_jax.model import transformer
from masksearch_jax.runtime.checkpoints import Checkpointer, DamagedError
from masksearch_jax.trainers import dapo
from masksearch_jax.trainers.divergence import DivergedError, UpdateWatch, check_finite, check_logprobs
from masksearch_jax.workflows import synthesis_stage, training
from masksearch_jax.workflows.context import RunContext


@pytest.fixture
def ready(cfg, workdir):
    """The workdir with demonstrations."""
    synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))
    return workdir


def run_sft(cfg, workdir):
    return training.train_sft(RunContext(cfg, workdir))


def steps_of(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


@pytest.mark.slow
def test_a_diverged_stage_stops_and_goes_on_from_the_good_checkpoint(cfg, ready):
    cfg.sft.update({"steps": 4, "checkpoint_every": 1, "log_every": 1, "max_without_update": 3})
    run_sft(cfg, ready)
    good = steps_of(ready / "sft")[-2]
    cfg.sft.steps = 12
    cfg.sft.optimizer.update({"learning_rate": 1e30, "adam_learning_rate": 1e30})
    with pytest.raises(DivergedError) as raised:
        run_sft(cfg, ready)
    said = str(raised.value)
    parts = ("3 had gradients that were not finite", "1e+30", "lower sft.optimizer.learning_rate", "the last update")
    assert all(part in said for part in parts)
    known = Checkpointer(ready / "sft" / "checkpoints", read_only=True).known_good
    assert known is not None and known >= good
    assert f"checkpoint {known} is the last one known to be good" in said
    assert steps_of(ready / "sft")[-1] == known and list((ready / "sft" / "checkpoints").glob("diverged-*"))
    # Again with the same settings it stops again; with a sane learning rate it goes on to its end.
    with pytest.raises(DivergedError):
        run_sft(cfg, ready)
    cfg.sft.optimizer.update({"learning_rate": 1e-3, "adam_learning_rate": 1e-3})
    params = run_sft(cfg, ready)
    assert steps_of(ready / "sft")[-1] == 12
    check_finite(params, "sft")


@pytest.mark.slow
def test_a_short_stage_that_ends_diverged_is_not_finished(cfg, ready):
    cfg.sft.update({"steps": 12, "checkpoint_every": 4, "log_every": 4, "max_without_update": 20})
    cfg.sft.optimizer.update({"learning_rate": 1e30, "adam_learning_rate": 1e30, "warmup": 0, "schedule": "constant"})
    with pytest.raises(DivergedError, match="sft stopped: steps .* to 12 changed nothing"):
        run_sft(cfg, ready)
    assert not training.finished(RunContext(cfg, ready), "sft", 12)


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (np.nan, "are not all finite"),
        pytest.param(1e30, "dapo stopped: iterations 1 to 4 changed nothing", marks=pytest.mark.slow),
    ],
)
def test_dapo_does_not_finish_on_ruined_weights(factor, says, cfg, workdir):
    context = RunContext(cfg, workdir)
    ruined = jax.tree.map(lambda x: x * factor, transformer.init_params(context.policy.config, 0, context.mesh))
    engine = context.engine("train", cfg.dapo.temperature)
    with jax.set_mesh(context.mesh), pytest.raises(DivergedError, match=says):
        dapo.run(cfg, workdir, context.policy, engine, params=ruined)
    assert not training.finished(context, "dapo", cfg.dapo.iterations)


def test_log_probs_that_are_no_numbers_are_refused():
    good = types.SimpleNamespace(logprobs=np.zeros(3, np.float32))
    bad = types.SimpleNamespace(logprobs=np.array([0.0, -np.inf], np.float32))
    check_logprobs([good, good], 7)
    with pytest.raises(DivergedError, match="policy 7: 1 of 2 episodes have log-probs that are not finite"):
        check_logprobs([good, bad], 7)


@pytest.mark.parametrize(
    "damage", ["empty", *(pytest.param(name, marks=pytest.mark.slow) for name in ("meta/metadata", "state/_METADATA"))]
)
def test_a_damaged_finished_stage_is_trained_to_its_end_again(damage, cfg, ready, caplog):
    whole = run_sft(cfg, ready)
    last = ready / "sft" / "checkpoints" / str(cfg.sft.steps)
    if damage == "empty":
        for path in sorted(last.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    else:
        data = bytearray((last / damage).read_bytes())
        data[len(data) // 2] ^= 1
        (last / damage).write_bytes(data)
    context = RunContext(cfg, ready)
    assert not training.finished(context, "sft", cfg.sft.steps)
    with pytest.raises(DamagedError, match=f"{last} is damaged"):  # evaluation never takes older weights
        context.parameters("sft")
    same(run_sft(cfg, ready), whole)  # bit for bit: from step 3, the same steps again
    assert training.finished(context, "sft", cfg.sft.steps)
    assert (last.parent / f"damaged-{cfg.sft.steps}").is_dir()


def pairs(taken, norm=1.0):
    return {"skipped": (0.0 if taken else 1.0, 1.0), "loss": (2.0, 1.0), "grad_norm": (norm, 1.0)}


class Saved:
    """Stands in for the checkpoints of a stage."""

    def __init__(self):
        self.known_good = None

    def confirm(self, step):
        self.known_good = step

    def wait(self):
        pass

    def set_aside_doubtful(self):
        return self.known_good


def test_only_steps_in_a_row_count_and_a_step_is_good_once_another_was_taken():
    watch, saved = UpdateWatch("sft", "steps", 3, 1e-3, 0), Saved()
    for step in range(1, 13):
        watch.add(step, pairs(step % 3 == 0))
    watch.settle(saved)  # two of three are skipped, never three in a row
    watch.saved(12)
    watch.add(13, pairs(False))
    watch.settle(saved)
    assert saved.known_good is None
    watch.add(14, pairs(True))
    watch.settle(saved)
    assert saved.known_good == 12
    for step in (15, 16, 17):
        watch.add(step, pairs(False))
    with pytest.raises(DivergedError, match=r"steps 15 to 17 .*last update was at 14.*checkpoint 12 is the last one"):
        watch.settle(saved)


def test_iterations_with_nothing_to_train_on_are_told_apart_and_do_not_spoil_an_end():
    watch, saved = UpdateWatch("dapo", "iterations", 5, 1e-3, 0), Saved()
    watch.add(0, pairs(True))
    for step in range(1, 5):
        watch.add(step, {"reward": (0.0, 1.0)})
    watch.settle(saved, last=True)
    watch.add(5, {"reward": (0.0, 1.0)})
    with pytest.raises(DivergedError, match="5 had nothing to train on.*rewards in metrics.jsonl"):
        watch.settle(saved)
    off = UpdateWatch("dapo", "iterations", 0, 1e-3, 0)
    for step in range(100):
        off.add(step, {})
    off.settle(saved, last=True)
