"""Several processes on loopback, with real collectives between them, against one process with as many devices.

Each runs the documented entry point on a tiny workdir. Slow: every process starts JAX and compiles.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from masksearch_jax.runtime import distributed, metrics
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.workflows import synthesis_stage
from masksearch_jax.workflows.context import RunContext

DEVICES = 4
ROOT = Path(__file__).parent.parent.parent
# Sums over devices may be taken in another order by the collectives between processes than by those within one.
# Measured: 1.2e-7 after six steps of Muon and four of AdamW.
PARAMS_ATOL = 1e-5
WORKER = """
import hashlib, json, sys
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from conftest import small_config
from masksearch_jax.workflows import training
from masksearch_jax.rollout.engine import RolloutEngine

settings = json.loads(sys.argv[1])
workdir = Path(settings.pop("workdir"))
tokens = open(settings.pop("tokens"), "a")
cfg = small_config()
cfg.update_from_flattened_dict(settings)
run = RolloutEngine.run

def noted(self, *args, **kwargs):
    found = run(self, *args, **kwargs)
    text = repr([(t.task_id, t.group, t.sample, t.ids.tolist(), t.turns, t.stop) for t in found])
    print(len(found), self.stats["searches"], hashlib.sha256(text.encode()).hexdigest(), file=tokens, flush=True)
    return found

RolloutEngine.run = noted
try:
    training.main(cfg, workdir)
except (ValueError, FileNotFoundError) as error:
    raise SystemExit(str(error))
"""
SETTINGS = {
    "mesh.data": 2,
    "mesh.fsdp": 2,
    "dapo.iterations": 2,
    "dapo.eval_every": 1,
    "dapo.dynamic_sampling": False,  # so that every iteration has something to learn from
}


class Processes:
    """A run of `count` processes over DEVICES devices in all, and what each wrote. tokens: a line per rollout."""

    def __init__(self, workdir: Path, count: int, **settings):
        here = Path(__file__).parent
        code = WORKER.format(root=str(ROOT), here=str(here))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.logs, self.tokens, self.running = [], [], []
        for number in range(count):
            mine = {"distributed.coordinator": f"127.0.0.1:{port}", "distributed.processes": count}
            self.logs.append(workdir / f"{count}-{number}.log")
            self.tokens.append(workdir / f"{count}-{number}.tokens")
            self.tokens[-1].unlink(missing_ok=True)
            mine |= {"distributed.process_id": number, "workdir": str(workdir), "tokens": str(self.tokens[-1])}
            flags = f"--xla_force_host_platform_device_count={DEVICES // count}"
            with self.logs[-1].open("w") as log:
                self.running.append(subprocess.Popen(
                    [sys.executable, "-c", code, json.dumps(SETTINGS | mine | settings)],
                    cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, stdout=log, stderr=log,
                ))  # fmt: skip

    def wait(self, seconds: float) -> list[int]:
        """Exit statuses, by process; those that still run after `seconds` are killed and fail the test."""
        ends = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, ends - time.monotonic())) for process in self.running]
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s\n{self.tails()}")
        finally:
            for process in self.running:
                process.kill()

    def tails(self) -> str:
        return "\n".join(f"---- {log.name}\n{log.read_text()[-3000:]}" for log in self.logs)

    def until_rows(self, path: Path, count: int) -> None:
        """Waits until a metrics.jsonl has so many rows."""
        while not path.exists() or len(path.read_bytes().splitlines()) < count:
            assert all(process.poll() is None for process in self.running), self.tails()
            time.sleep(0.1)


@pytest.fixture
def made(cfg, workdir, tmp_path):
    """number -> a workdir with demonstrations, the same each time it is asked for."""
    synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))

    def copy(name):
        target = tmp_path / name
        subprocess.run(["cp", "-r", str(workdir), str(target)], check=True)
        return target

    return copy


def trained(made, cfg, name, count, **settings):
    """Runs to the end on `count` processes; returns the workdir."""
    workdir = made(name)
    run = Processes(workdir, count, **settings)
    assert run.wait(900) == [0] * count, run.tails()
    return workdir


def parameters(cfg, workdir, stage):
    return jax.device_get(RunContext(cfg, workdir).parameters(stage))


def assert_equal_parameters(cfg, one, other, stage):
    left, right = (parameters(cfg, workdir, stage) for workdir in (one, other))
    largest = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), left, right)))
    print(f"{other.name}, {stage}: parameters differ by at most {largest:.2e}")
    assert largest < PARAMS_ATOL, stage


def assert_equal_rows(one, other, stage, exact):
    """exact: what both logs hold alike in every row that has it; losses may differ by the order of a sum."""
    rows = [metrics.read_rows(workdir / stage / "metrics.jsonl") for workdir in (one, other)]
    assert len(rows[0]) == len(rows[1])
    assert set(exact) <= set().union(*rows[0])
    trained = [pair for pair in zip(*rows, strict=True) if "grad_norm" in pair[0]]
    assert trained and all("loss" in left for left, _ in trained)
    for left, right in zip(*rows, strict=True):
        assert {name: left.get(name) for name in exact} == {name: right.get(name) for name in exact}, stage
    for left, right in trained:
        print(f"{other.name}, {stage} step {left['step']}: loss {right['loss']!r}, by one process {left['loss']!r}")
        assert np.isclose(left["loss"], right["loss"], rtol=1e-5, atol=1e-6), stage
        assert np.isclose(left["grad_norm"], right["grad_norm"], rtol=1e-4), stage


def assert_equal_runs(cfg, one, other, count):
    assert len({path.read_text() for path in other.glob(f"{count}-*.tokens")}) == 1
    assert (other / f"{count}-0.tokens").read_text() == (one / "1-0.tokens").read_text()
    assert_equal_rows(one, other, "sft", ("step", "examples"))
    assert_equal_rows(one, other, "dapo", ("step", "reward", "generated_tokens", "searches", "eval/ramp_1/recall"))
    for stage in ("sft", "dapo"):
        assert_equal_parameters(cfg, one, other, stage)


@pytest.mark.slow
def test_two_and_four_processes_train_as_one_does(made, cfg):
    one = trained(made, cfg, "one", 1)
    assert (one / "1-0.tokens").read_text().count("\n") == 4  # two rollouts, and an evaluation of two tasks
    for count in (2, 4):
        assert_equal_runs(cfg, one, trained(made, cfg, f"p{count}", count), count)


def latest(workdir, stage):
    checkpoints = Checkpointer(workdir / stage / "checkpoints", read_only=True)
    try:
        return checkpoints.latest()
    finally:
        checkpoints.close()


@pytest.mark.slow
def test_one_killed_stops_all_and_another_number_goes_on(made, cfg):
    """kill -9 of a worker of two, then of the coordinator of four: the others end by themselves, each time another
    number of processes goes on from the last checkpoint, and at last one process ends as if it had been alone."""
    workdir, log, kept = made("killed"), "dapo/metrics.jsonl", []
    for count, victim, rows in ((2, 1, 2), (4, 0, 3)):
        run = Processes(workdir, count, **{"dapo.iterations": 1000, "dapo.checkpoint_every": 1, "dapo.eval_every": 0})
        run.until_rows(workdir / log, len(kept) + rows)
        run.running[victim].kill()
        began = time.monotonic()
        statuses = run.wait(60)
        print(f"{count} processes, {victim} killed: all ended after {time.monotonic() - began:.1f} s, {statuses}")
        assert statuses.pop(victim) == -signal.SIGKILL
        assert set(statuses) <= {distributed.RETRY, -signal.SIGABRT}, run.tails()
        for number, text in enumerate(path.read_text() for path in run.logs):
            # Ours where a collective failed, JAX's where its service was first.
            assert number == victim or "a peer or the network failed" in text or "another task died" in text, text
        # It went on: the rows hold the seconds that each step took, and those before the checkpoint are still the same.
        found = [json.loads(line) for line in (workdir / log).read_text().split("\n")[:-1]]  # the last may be cut
        assert found[: len(kept)] == kept
        kept = found[: latest(workdir, "dapo")]
    steps = len(kept) + 1
    settings = {"dapo.iterations": steps, "dapo.checkpoint_every": 1, "dapo.eval_every": 0}
    run = Processes(workdir, 1, **settings)
    assert run.wait(600) == [0], run.tails()
    assert metrics.read_rows(workdir / log)[:-1] == kept
    one = trained(made, cfg, "whole", 1, **settings)
    assert [row["step"] for row in metrics.read_rows(workdir / log)] == list(range(1, steps + 1))
    assert_equal_rows(one, workdir, "dapo", ("step", "reward", "generated_tokens", "searches", "prompts"))
    assert_equal_parameters(cfg, one, workdir, "dapo")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_one_that_hangs_stops_the_other(made, victim):
    """Its connections stay open, as those of a host that lost its network do: only its heartbeat is missed."""
    workdir = made("hung")
    run = Processes(workdir, 2, **{"sft.steps": 5000, "sft.log_every": 1})
    run.until_rows(workdir / "sft" / "metrics.jsonl", 3)
    run.running[victim].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    alive, run.running = run.running, [run.running[1 - victim]]
    try:
        (status,) = run.wait(60)
    finally:
        alive[victim].kill()
    print(f"{victim} of 2 stopped: the other ended after {time.monotonic() - began:.1f} s, {status}")
    assert status in (distributed.RETRY, -signal.SIGABRT), run.tails()
    text = run.logs[1 - victim].read_text()
    assert "another task died" in text or "a peer or the network failed" in text, text


@pytest.mark.slow
def test_a_preempted_process_makes_all_save_one_step_and_ask_for_a_retry(made):
    workdir = made("preempted")
    run = Processes(workdir, 2, **{"sft.steps": 5000, "sft.checkpoint_every": 5000, "sft.log_every": 1})
    run.until_rows(workdir / "sft" / "metrics.jsonl", 3)
    run.running[1].terminate()
    assert run.wait(60) == [distributed.RETRY] * 2, run.tails()
    step = latest(workdir, "sft")
    assert 3 <= step < 5000
    for log in run.logs:
        assert f"saved step {step}" in log.read_text()
