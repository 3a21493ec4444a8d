"""Damaged files: a run refuses them by name or repairs them from intact ones. It never ends differently in silence."""

import random
import shutil
from pathlib import Path

from benchmarks.drills import runs
from benchmarks.drills.outcomes import Outcome

# What is damaged: (name, patterns below a workdir, the part of the run that is made again from the damaged files).
_TARGETS = (
    ("checkpoints of DAPO", ("dapo/checkpoints/6/**/*", "dapo/checkpoints/6/*"), "evaluate"),
    ("records", ("data/**/*.array_record", "data/*.model"), "sft"),
    ("checkpoints of SFT", ("sft/checkpoints/12/**/*",), "dapo"),
    ("index", ("data/index/**/*",), "dapo"),
    ("metrics", ("dapo/metrics.jsonl", "dapo/history.jsonl", "dapo/config.json"), "evaluate"),
    ("demonstrations", ("demonstrations/*",), "sft"),
)


def drill(number: int, seed: int, folder: Path) -> Outcome:
    """Damage one file of a run, go on, and judge what came of it."""
    rng = random.Random(f"damage {seed} {number}")
    name, patterns, before = _TARGETS[number % len(_TARGETS)]
    made = runs.Runs(folder)
    workdir = made.copy(f"damage_{number}", before)
    files = sorted({
        path for pattern in patterns for path in workdir.glob(pattern) if path.is_file() and path.stat().st_size
    })
    target = rng.choice(files)
    how = _damage(target, rng)
    what = f"{name}: {target.relative_to(workdir)} {how}"
    try:
        made.to_its_end(workdir)
    except runs.LostError as error:
        lost = _refusal(made.said(workdir), workdir, target, str(error))
        result = "refused by name"
    else:
        different = runs.differences(made.whole, workdir)
        # A flipped digit in a log is still a log: nothing is computed from its rows.
        if name == "metrics" and "flipped" in how:
            different = [one for one in different if "metrics.jsonl" not in one]
        lost = [f"silently other: {one}" for one in different]
        result = "made good"
    if not lost:
        made.forget(workdir)
    return Outcome(1, tuple(f"{workdir}: {what}: {one}" for one in lost), f"{what}: {result}")


def _damage(target: Path, rng: random.Random) -> str:
    """Damage the file; return how."""
    data = bytearray(target.read_bytes())
    kind = rng.choice(("flipped", "flipped", "cut", "deleted", "zeros"))
    place = rng.randrange(len(data))
    if kind == "deleted":
        target.unlink()
        return "deleted"
    if kind == "flipped":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[place:]
    else:
        data[place : place + 64] = bytes(min(64, len(data) - place))
    # A new file: the copy may share its blocks or its name with nothing else.
    target.with_name(target.name + ".damaged").write_bytes(data)
    shutil.move(target.with_name(target.name + ".damaged"), target)
    return f"{kind} at byte {place} of {target.stat().st_size}"


def _refusal(said: str, workdir: Path, target: Path, error: str) -> list[str]:
    """Return what is wrong with the way in which a run ended: it has to say in a sentence which file it is about."""
    if "Traceback" in said:
        return [f"a traceback: {error[-600:]}"]
    last = said.strip().splitlines()[-3:]
    # The file, or the folder that it makes up: an index, a step of a checkpoint, a stage.
    named = [target, *(parent for parent in target.parents if workdir in parent.parents)]
    if not any(str(path) in line or path.name in line for path in named for line in last):
        return [f"it does not name the file: {' '.join(last)}"]
    return []
