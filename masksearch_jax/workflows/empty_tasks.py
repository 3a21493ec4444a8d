"""Leave out of the settings the tasks that W/data holds nothing of (`empty_tasks=skip`).

A small corpus has few passages with three or four masks, or none, and a split of it may have fewer kinds still.
Enters: a config, and a workdir with data or demonstrations. Leaves: the same config without these tasks, and one
warning. It is the same again at every start with this workdir.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.data import pipeline, records
from masksearch_jax.runtime import distributed, json_files

# Task -> whether there is anything of it.
Held = Callable[[str], bool]


def leave_out(cfg: ConfigDict, workdir: Path) -> None:
    """Leave out the tasks that W/data does not hold. Raises ValueError that names the setting if nothing is left.

    Without W/data nothing changes: whatever opens it says that it is missing.
    """
    if cfg.empty_tasks != "skip" or not (workdir / "data" / "tasks").is_dir():
        return
    asked = any(cfg.evaluate.episodes.values())  # else benchmarks alone are scored, or nothing is
    found = {split: _held(workdir, split) for split in ("train", "validation", cfg.evaluate.split)}
    left_out: list[str] = []
    for section, split in ((cfg.synthesize.examples, "train"), (cfg.evaluate.episodes, cfg.evaluate.split)):
        empty = [name for name, count in section.items() if count and not found[split](name)]
        section.update(dict.fromkeys(empty, 0))
        left_out += [f"{name} of the split {split}" for name in empty]
    if asked and not any(cfg.evaluate.episodes.values()) and not cfg.benchmarks.custom:
        raise ValueError(f"evaluate.episodes: {workdir / 'data'} holds nothing of the split {cfg.evaluate.split!r}")
    kept = tuple(name for name in cfg.validation_tasks if found["validation"](name))
    left_out += [f"{name} of the split validation" for name in cfg.validation_tasks if name not in kept]
    cfg.validation_tasks = kept
    for stage in ("sft", "dapo"):
        if stage in cfg:
            left_out += [f"{name} of the split train" for name in _shorten(cfg[stage], stage, found["train"], workdir)]
    _warn(left_out, f"{workdir / 'data'} holds nothing of them")


def leave_out_untaught(cfg: ConfigDict, workdir: Path) -> None:
    """Leave the tasks that W/demonstrations does not show out of the curriculum of SFT; errors as `leave_out`."""
    if cfg.empty_tasks != "skip" or "sft" not in cfg:
        return
    folder = workdir / "demonstrations"
    shown = json_files.read_json_object(folder / "manifest.json", "remove its folder and start again", ("tasks",))
    written = {name for name, counts in shown["tasks"].items() if counts.get("written")}
    left_out = _shorten(cfg.sft, "sft", written.__contains__, workdir)
    _warn([f"{name} of sft.curriculum" for name in left_out], f"no demonstration of them is in {folder}")


def _held(workdir: Path, split: str) -> Held:
    def held(name: str) -> bool:
        try:
            files = pipeline.task_files(workdir / "data" / "tasks", split, name)
        except FileNotFoundError:
            return False
        return any(True for file in files for _ in records.read(file, records.Task))

    return held


def _shorten(section: ConfigDict, stage: str, held: Held, workdir: Path) -> list[str]:
    """Leave out of a stage's curriculum what is not held, and return its names; a phase of nothing else goes too."""
    before = section.curriculum
    empty = sorted({name for _, weights in before for name, _ in weights if not held(name)})
    kept = [(examples, tuple(one for one in weights if one[0] not in empty)) for examples, weights in before]
    section.curriculum = tuple(phase for phase in kept if phase[1])
    if not section.curriculum:
        raise ValueError(
            f"{stage}.curriculum={before}: {workdir} holds nothing of {', '.join(empty)}; prepare a larger corpus, or "
            "one that states its facts more than once (docs/guides/preparation.md, Small corpora)"
        )
    return empty


def _warn(left_out: list[str], why: str) -> None:
    if left_out and distributed.primary():
        print(f"left out: {', '.join(dict.fromkeys(left_out))}; {why}", file=sys.stderr, flush=True)
