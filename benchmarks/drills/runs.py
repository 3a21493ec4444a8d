"""Whole runs in processes of their own: started, disturbed, started again, compared with one that nobody disturbed.

Enters: a folder, which holds the undisturbed run and a copy of a part of it for each drill. Leaves: finished workdirs,
and how far one differs from the undisturbed run. The processes are the documented commands, with a hook that writes
down what they do, so that a drill can strike in a chosen phase. Logs and events lie beside the workdirs, because a
drill may fill the disk of a workdir.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.drills import page
from masksearch_jax.runtime import metrics
from masksearch_jax.workflows.context import RunContext

ROOT = Path(__file__).parent.parent.parent
PAGE = Path(__file__).parent / "page.py"
# The command itself, and a line in the file of events for all that it does.
_WORKER = """
import hashlib, sys
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import checkpoints, child_process, cli, distributed
from masksearch_jax.workflows import evaluation, synthesis_stage, training

events, command = open(sys.argv.pop(1), "a"), sys.argv.pop(1)

def noted(owner, name, kind):
    call = getattr(owner, name)
    def wrapped(*args, **more):
        print(kind(*args, **more) if callable(kind) else kind, file=events, flush=True)
        return call(*args, **more)
    setattr(owner, name, wrapped)

def phase(doing, *_, **__):
    return "rollout" if "engine step" in doing else "update" if "step" in doing or "update" in doing else "-"

def batch(self, params, requests, version, *_, **__):
    ids = repr([(one.task.id, one.group, one.sample, one.key) for one in requests])
    return f"batch:{version}:{hashlib.sha256(ids.encode()).hexdigest()[:16]}"

noted(checkpoints.Checkpointer, "save", "save")
noted(child_process, "run", "prepare")
noted(synthesis_stage, "run", "synthesize")
noted(distributed, "alive", phase)
noted(RolloutEngine, "run", batch)
cli.run_config({"train": training.main, "evaluate": evaluation.main}[command], None)
"""
# What each part of a run needs: a drill in a phase starts from a copy of the parts before it.
PARTS = ("data", "demonstrations", "sft", "dapo", "evaluate")
# Of a run's numbers those that are not its results: times, and what its process counts since its start.
_NOT_RESULTS = (
    "time", "seconds/", "search/", "rollout/compiles", "rollout/seconds", "tokens_per_s", "flops_per_s", "step/flops",
    "compile/", "memory/", "mfu",
)  # fmt: skip
_NOT_RESULTS += ("compile", "memory/", "flops", "mfu", "profile/", "throughput")
_NOT_RESULTS += ("alarm/disk", "alarm/throughput")  # facts about the machine
_LONGEST = 900.0  # seconds of one process


class LostError(Exception):
    """A disturbed run did not do what it has to; the message says what it did instead."""


class Runs:
    """The undisturbed run in `folder`/whole, made at first use, and what disturbed runs start from."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.whole = folder / "whole"
        folder.mkdir(parents=True, exist_ok=True)

    def make_whole(self) -> None:
        """Make the undisturbed run, unless it is there."""
        finished = self.folder / "whole.finished"
        if not finished.exists():
            self.whole.mkdir(exist_ok=True)
            self.to_its_end(self.whole)
            finished.write_text("")

    def copy(self, name: str, before: str, target: Path | None = None) -> Path:
        """Return a workdir with the parts of the undisturbed run that come before the part `before`; '' copies all.

        target: an empty folder to take instead of a new one.
        """
        self.make_whole()
        workdir = target or self.folder / name
        if target is None:
            self.forget(workdir)  # what an earlier drill left there
            workdir.mkdir()
        for part in PARTS[: PARTS.index(before)] if before else PARTS:
            shutil.copytree(self.whole / part, workdir / part, symlinks=True)
        return workdir

    def start(
        self, workdir: Path, command: str = "train", before_start: Callable[[], None] | None = None, **settings: object
    ) -> subprocess.Popen:
        """Start `train` or `evaluate`. before_start: called in the new process. settings: overrides of the page."""
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in settings.items()]
        line = [sys.executable, "-c", _WORKER, str(self.events_file(workdir)), command, f"--config={PAGE}"]
        with self.log_file(workdir).open("a") as log:
            return subprocess.Popen(
                [*line, f"--workdir={workdir}", *overrides],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=before_start,
            )

    def ended(self, process: subprocess.Popen) -> int:
        """Return the exit status; end the process and raise LostError if it does not come."""
        try:
            return process.wait(_LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LostError(f"it was still running after {_LONGEST:.0f} s") from None

    def to_its_end(self, workdir: Path, commands: tuple[str, ...] = ("train", "evaluate"), **settings: object) -> None:
        """Run the commands one after the other; raise LostError if one fails."""
        for command in commands:
            status = self.ended(self.start(workdir, command, **settings))
            if status:
                raise LostError(f"{command} ended with {status}: {self.said(workdir)[-600:].strip()}")

    def log_file(self, workdir: Path) -> Path:
        return self.folder / f"{workdir.name}.log"

    def events_file(self, workdir: Path) -> Path:
        return self.folder / f"{workdir.name}.events"

    def said(self, workdir: Path) -> str:
        """Return all that the processes of a workdir printed."""
        path = self.log_file(workdir)
        return path.read_text(errors="replace") if path.exists() else ""

    def events(self, workdir: Path) -> list[str]:
        path = self.events_file(workdir)
        return path.read_text().split() if path.exists() else []

    def wait_for(self, workdir: Path, process: subprocess.Popen, kind: str, count: int, since: int) -> bool:
        """Wait until `count` events of a kind came after the first `since` events; False if the process ended."""
        ends = time.monotonic() + _LONGEST
        while self.events(workdir)[since:].count(kind) < count:
            if process.poll() is not None or time.monotonic() > ends:
                return False
            time.sleep(0.005)
        return True

    def forget(self, workdir: Path) -> None:
        """Remove a workdir with its log and its events."""
        shutil.rmtree(workdir, ignore_errors=True)
        for path in (self.log_file(workdir), self.events_file(workdir)):
            path.unlink(missing_ok=True)

    def check_equal(self, workdir: Path) -> None:
        """Raise LostError that says what differs between a finished run and the undisturbed one."""
        different = differences(self.whole, workdir)
        if different:
            raise LostError("it ended with other results: " + "; ".join(different))


def differences(whole: Path, other: Path) -> list[str]:
    """Return in words what differs: parameters bit for bit, rows of metrics, tasks, demonstrations, evaluated rows."""
    found = []
    for stage in ("sft", "dapo"):
        left, right = _parameters(whole, stage), _parameters(other, stage)
        same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), left, right)
        if not jax.tree.all(same):
            found.append(f"parameters of {stage}")
        if results(whole, stage) != results(other, stage):
            found.append(f"rows of {stage}/metrics.jsonl")
    for path in ("data/tasks/train/ramp_1/epoch_0.array_record", "demonstrations/ramp_1.array_record"):
        if (whole / path).read_bytes() != (other / path).read_bytes():
            found.append(path)
    if evaluated(whole) != evaluated(other):
        found.append("rows of the evaluation")
    if (other / "lock.json").exists():
        found.append("a lock was left")
    return found


def results(workdir: Path, stage: str) -> list[dict]:
    """Return the rows of a stage's log without times, and without what a process counts since its start."""
    return [
        {name: value for name, value in row.items() if not (name.startswith(_NOT_RESULTS) or name.endswith("_s"))}
        for row in metrics.read_rows(workdir / stage / "metrics.jsonl")
    ]


def evaluated(workdir: Path) -> list[dict]:
    """Return the rows of the evaluation of DAPO's policy."""
    path = workdir / "evaluate" / "dapo" / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def _parameters(workdir: Path, stage: str) -> object:
    return jax.device_get(RunContext(page.get_config(), workdir).parameters(stage))
