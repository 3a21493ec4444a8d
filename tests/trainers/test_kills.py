"""Forty kills of one run, -9 and SIGTERM alike, in every phase: the same parameters bit for bit, and the same rows.

    KILLS=40 python -m pytest -m slow tests/trainers/test_kills.py -s

A chain is one run from an empty workdir to its end, killed once in each phase on the way: at its start, while data are
prepared or demonstrations made, while a checkpoint is written, in a rollout, in an update. The run is the documented
entry, with a hook that writes down what it does; the test kills it by that, after a random moment of a seeded stream.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import small_config

from masksearch_jax.runtime import distributed, metrics
from masksearch_jax.workflows.context import RunContext

ROOT = Path(__file__).parent.parent.parent
SEED = int(os.environ.get("KILLS_SEED", "0"))
# The page of the tests on a toy of 240 articles.
PAGE = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from conftest import small_config

def get_config():
    config = small_config()
    config.cpu_devices = 1
    config.prepare.update({{"entities": 240, "toy_benchmarks": 0}})
    config.prepare.tasks.epochs = 1
    config.prepare.retrieval.update({{"index": "exact", "dims": 256}})
    config.sft.update({{"steps": 12, "checkpoint_every": 4, "log_every": 3, "eval_every": 5}})
    config.dapo.update({{"iterations": 6, "eval_every": 3, "dynamic_sampling": False, "carry_over": True}})
    config.validation_tasks = ("ramp_1",)
    return config
"""
# The entry itself, and a line in the file of events for all that it does.
WORKER = """
import runpy, sys
from pathlib import Path
from masksearch_jax.runtime import checkpoints, child_process, cli, distributed
from masksearch_jax.workflows import synthesis_stage, training

events = open(sys.argv.pop(1), "a")

def noted(owner, name, kind):
    call = getattr(owner, name)
    def wrapped(*args, **more):
        print(kind(args) if callable(kind) else kind, file=events, flush=True)
        return call(*args, **more)
    setattr(owner, name, wrapped)

noted(checkpoints.Checkpointer, "save", "save")
noted(child_process, "run", "data")
noted(synthesis_stage, "run", "data")
def phase(args):
    return "rollout" if "engine step" in args[0] else "update" if "step" in args[0] or "update" in args[0] else "-"
noted(distributed, "alive", phase)
cli.start(training.main, None)
"""
PHASES = ("start", "data", "save", "rollout", "update")
# Of a run's numbers those that are not its results: times, and what its process counts since its start.
NOT_RESULTS = ("time", "seconds/", "search/", "rollout/compiles", "rollout/seconds", "tokens_per_s", "flops_per_s",
               "step/flops", "compile/", "memory/")  # fmt: skip


class Runs:
    def __init__(self, folder: Path):
        self.page, self.cache = folder / "page.py", folder / "compiled"
        self.page.write_text(PAGE.format(root=str(ROOT), here=str(Path(__file__).parent)))

    def start(self, workdir: Path) -> subprocess.Popen:
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
            "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip
        workdir.mkdir(exist_ok=True)
        command = [
            sys.executable, "-c", WORKER, str(workdir / "events"), f"--config={self.page}", f"--workdir={workdir}"
        ]  # fmt: skip
        with (workdir / "log.txt").open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def to_its_end(self, workdir: Path) -> None:
        process = self.start(workdir)
        assert process.wait(600) == 0, tail(workdir)


def tail(workdir: Path) -> str:
    return (workdir / "log.txt").read_text()[-3000:]


def events_of(workdir: Path) -> list[str]:
    path = workdir / "events"
    return path.read_text().split() if path.exists() else []


def kill_in(runs: Runs, workdir: Path, phase: str, number: int, rng: random.Random) -> bool:
    """Starts the run, and kills it in a phase; False if the phase did not come before its end."""
    before = len(events_of(workdir))
    process = runs.start(workdir)
    if phase == "start":
        time.sleep(rng.uniform(0, 5))
    else:
        wanted = rng.randrange(1, {"data": 2, "save": 3, "rollout": 30, "update": 8}[phase])
        while events_of(workdir)[before:].count(phase) < wanted and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 3.0 if phase == "data" else 0.15))
    if process.poll() is not None:
        assert process.returncode == 0, tail(workdir)
        return False
    began = time.monotonic()
    process.send_signal(number)
    status = process.wait(120)
    # The imports of a start come before anything listens; launchers start it again after either.
    told = {distributed.RETRY, 0} | ({-signal.SIGTERM} if phase == "start" else set())
    assert status in ({-signal.SIGKILL} if number == signal.SIGKILL else told), (status, tail(workdir))
    took = time.monotonic() - began
    name = signal.Signals(number).name
    print(f"{workdir.name}: {name} in {phase}, ended with {status} after {took:.1f} s", flush=True)
    return True


def results(workdir: Path, stage: str) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not (name.startswith(NOT_RESULTS) or name.endswith("_s"))}
        for row in metrics.read_rows(workdir / stage / "metrics.jsonl")
    ]


def parameters(workdir: Path, stage: str):
    cfg = small_config()
    return jax.device_get(RunContext(cfg, workdir).parameters(stage))


def assert_equal_runs(whole: Path, other: Path) -> None:
    for stage in ("sft", "dapo"):
        jax.tree.map(np.testing.assert_array_equal, parameters(whole, stage), parameters(other, stage))
        assert results(whole, stage) == results(other, stage), (other, stage)
    for path in ("data/tasks/train/ramp_1/epoch_0.array_record", "demonstrations/ramp_1.array_record"):
        assert (whole / path).read_bytes() == (other / path).read_bytes(), path
    assert not (other / "lock.json").exists()


@pytest.mark.slow
def test_every_kill_ends_bit_identical(tmp_path):
    wanted, rng = int(os.environ.get("KILLS", "40")), random.Random(SEED)
    runs = Runs(tmp_path)
    whole = tmp_path / "whole"
    runs.to_its_end(whole)
    steps = [row["step"] for row in results(whole, "dapo")]
    assert steps == [1, 2, 3, 3, 4, 5, 6]  # six iterations, and an evaluation
    signals = [signal.SIGKILL, signal.SIGTERM] * ((wanted + 1) // 2)
    rng.shuffle(signals)
    kills, chain = 0, 0
    while kills < wanted:
        workdir = tmp_path / f"chain_{chain}"
        chain += 1
        for phase in PHASES:
            if kills < wanted and kill_in(runs, workdir, phase, signals[kills], rng):
                kills += 1
        runs.to_its_end(workdir)
        assert_equal_runs(whole, workdir)
        print(f"{workdir.name}: identical; {kills} kills so far", flush=True)
    starts = [json.loads(line) for line in (workdir / "dapo" / "history.jsonl").read_text().splitlines()]
    assert all(not start["differences"] for start in starts)
