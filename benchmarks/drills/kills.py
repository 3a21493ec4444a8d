"""A run that is killed at a random moment, or told to stop, ends as an undisturbed run does, bit for bit."""

import random
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.drills import runs
from benchmarks.drills.outcomes import Outcome
from masksearch_jax.runtime import distributed

# Phase -> (the part of the run whose making is disturbed, the command, {event: at most how many of them are awaited},
# the most seconds that pass after the last of them).
PHASES = {
    "start": ("sft", "train", {}, 6.0),
    "prepare": ("data", "train", {"prepare": 1}, 12.0),
    "synthesize": ("demonstrations", "train", {"synthesize": 1}, 1.5),
    "sft": ("sft", "train", {"update": 11, "save": 3}, 0.2),
    "rollout": ("dapo", "train", {"rollout": 60}, 0.1),
    "update": ("dapo", "train", {"update": 8}, 0.2),
    "save": ("dapo", "train", {"save": 3}, 0.2),
    "evaluate": ("evaluate", "evaluate", {"rollout": 10}, 0.1),
}
_AGAIN, _ANY_MOMENT = 0.3, 15.0  # share of the runs that are struck twice; seconds after the start, at most
_PATIENCE = 120.0  # seconds that a process may take to save and end after SIGTERM


def kill(number: int, seed: int, folder: Path) -> Outcome:
    """SIGKILL in one of the phases, in turn."""
    return _strike(number, seed, folder, signal.SIGKILL)


def preempt(number: int, seed: int, folder: Path) -> Outcome:
    """SIGTERM in one of the phases, in turn: the process saves, and says by its exit status that it can go on."""
    return _strike(number, seed, folder, signal.SIGTERM)


def _strike(number: int, seed: int, folder: Path, what: signal.Signals) -> Outcome:
    rng = random.Random(f"{what.name} {seed} {number}")
    phase = list(PHASES)[number % len(PHASES)]
    part, command, events, most = PHASES[phase]
    made = runs.Runs(folder)
    workdir = made.copy(f"{what.name}_{number}", part)
    kind = rng.choice(sorted(events)) if events else ""
    awaited = rng.randint(1, events[kind]) if events else 0
    strikes = [(kind, awaited, rng.uniform(0, most))]
    if rng.random() < _AGAIN:  # and once more while it goes on, at any moment
        strikes.append(("", 0, rng.uniform(0, _ANY_MOMENT)))
    struck, told, lost = 0, [], []
    for kind, awaited, after in strikes:
        hit, said, wrong = _one_strike(made, workdir, command, what, kind, awaited, after)
        struck += hit
        told.append(f"{phase}, {said}")
        lost += [f"{workdir}: {phase}, {said}: {one}" for one in wrong]
    try:
        made.to_its_end(workdir)
        made.check_equal(workdir)
    except runs.LostError as error:
        lost.append(f"{workdir}: {'; '.join(told)}: {error}")
    if not lost:
        made.forget(workdir)
    return Outcome(struck, tuple(lost), "; ".join(told))


def _one_strike(
    made: runs.Runs, workdir: Path, command: str, what: signal.Signals, kind: str, awaited: int, after: float
) -> tuple[bool, str, list[str]]:
    """Start a run and signal it some seconds after the awaited event, or after its start.

    Returns (whether it still ran, what was done in words, what was wrong).
    """
    before = len(made.events(workdir))
    process = made.start(workdir, command)
    if kind:
        made.wait_for(workdir, process, kind, awaited, before)
    time.sleep(after)
    struck = process.poll() is None
    process.send_signal(what)
    began = time.monotonic()
    where = f"{after:.2f} s after " + (f"{kind} {awaited}" if kind else "it began")
    try:
        status = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return struck, where, [f"still running {_PATIENCE:.0f} s after {what.name}"]
    said = f"{where}, ended with {status} after {time.monotonic() - began:.1f} s"
    allowed = _statuses(what, not kind) if struck else {0}
    return struck, said, [] if status in allowed else [f"{sorted(allowed)} are right"]


def _statuses(what: signal.Signals, early: bool) -> set[int]:
    """Return the exit statuses that are right. early: whether the process may still be importing."""
    if what is signal.SIGKILL:
        return {-signal.SIGKILL}
    # The imports of a start come before anything listens. A launcher starts the run again after either.
    return {distributed.RETRY, 0} | ({-signal.SIGTERM} if early else set())


def elastic(number: int, seed: int, folder: Path) -> Outcome:
    """DAPO on two devices, then on one, then on two again, stopped at random: the same tasks in the same order."""
    rng = random.Random(f"elastic {seed} {number}")
    made = runs.Runs(folder)
    straight = folder / "two_devices"
    if not (folder / "two_devices.finished").exists():
        made.copy(straight.name, "dapo")
        made.to_its_end(straight, ("train",), cpu_devices=2, mesh__data=2)
        (folder / "two_devices.finished").write_text("")
    workdir = made.copy(f"elastic_{number}", "dapo")
    lost, changes = [], 0
    for devices in (2, 1):
        before = len(made.events(workdir))
        process = made.start(workdir, cpu_devices=devices, mesh__data=devices)
        # The second stop comes after fewer iterations, so that some are left for the last part.
        reached = made.wait_for(
            workdir, process, "update", rng.randint(2, 5) if devices == 2 else rng.randint(1, 3), before
        )
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(rng.choice((signal.SIGTERM, signal.SIGKILL)))
        status = made.ended(process)
        changes += int(reached)
        if status not in (distributed.RETRY, -signal.SIGKILL, 0):
            lost.append(f"{workdir}: on {devices} devices it ended with {status}: {made.said(workdir)[-400:]}")
    try:
        made.to_its_end(workdir, ("train",), cpu_devices=2, mesh__data=2)
    except runs.LostError as error:
        lost.append(f"{workdir}: {error}")
    else:
        lost += [f"{workdir}: {one}" for one in _other_data(made, straight, workdir)]
    if not lost:
        made.forget(workdir)
    return Outcome(changes, tuple(lost), "2, 1, 2 devices")


def _other_data(made: runs.Runs, straight: Path, workdir: Path) -> list[str]:
    """Return in words where the data of a run that changed its devices differ from those of one that did not."""
    found = []
    wanted, drawn = _batches(made, straight), _batches(made, workdir)
    for version, batches in drawn.items():
        if not batches <= wanted.get(version, set()):
            found.append(f"the batch of policy {version} has other tasks")
    if drawn.keys() != wanted.keys():
        found.append(f"batches of policies {sorted(drawn)}, {sorted(wanted)} without a change")
    left, right = (
        sorted((one / "dapo" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
        for one in (straight, workdir)
    )
    last = left[-1].name
    if last != right[-1].name:
        return [*found, f"it ended at {right[-1].name}, not at {last}"]
    cursors = [(one / "dapo" / "checkpoints" / last / "data" / "metadata").read_bytes() for one in (straight, workdir)]
    if cursors[0] != cursors[1]:
        found.append("the last checkpoint stands at another place in the data")
    rows = [[row for row in runs.results(one, "dapo") if "prompts" in row] for one in (straight, workdir)]
    if [(row["step"], row["prompts"], row["phase"]) for row in rows[0]] != [
        (row["step"], row["prompts"], row["phase"]) for row in rows[1]
    ]:
        found.append("rows of metrics.jsonl have other positions in the data")
    return found


def _batches(made: runs.Runs, workdir: Path) -> dict[str, set[str]]:
    """Return {policy version: hashes of the tasks of its rollouts}, from the events of a run."""
    found: dict[str, set[str]] = {}
    for event in made.events(workdir):
        if event.startswith("batch:"):
            _, version, digest = event.split(":")
            found.setdefault(version, set()).add(digest)
    return found
