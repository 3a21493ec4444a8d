"""Self-evolving distillation in rounds (paper, section 2.2): a teacher demonstrates more and harder tasks to the next.

Round 0 trains the first teacher on the demonstrations of the page's teacher (`cfg.synthesize`). In round n the policy
of round n - 1 tries the tasks that `cfg.evolve.rounds` names, what agents/distill.py accepts joins the set, and SFT on
the whole set goes on from that policy. Every round is scored on held-out tasks. With `cfg.evolve.control` the
policy of round n - 1 is also trained as long on the set as it was: the difference is what new demonstrations add.

Leaves: W/demonstrations, W/sft (round 0), W/round_<n>/ with demonstrations/, sft/, evaluate/ and report.json,
W/round_<n>_control/ with sft/ and evaluate/, and W/report.json.
Killed at any moment and started again with the same line, it goes on with the first thing not finished.
"""

import collections
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from masksearch_jax import evaluate, language_model, metrics, train
from masksearch_jax import job as job_lib
from masksearch_jax.agents import distill
from masksearch_jax.data import records
from masksearch_jax.data.curriculum import level_name
from masksearch_jax.data.pipeline import task_files
from masksearch_jax.evals import report, runner
from masksearch_jax.experiments.clock import Clock
from masksearch_jax.experiments.workdirs import shared_workdir
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.trainers import state as state_lib

JUDGES = ("rules", "llm")
_AGAIN = "remove its folder and start again, which makes it anew"
_CHUNK = 256  # tasks that are sampled together, and shown as one step of progress


def run(cfg: Any, workdir: Path) -> dict[str, Any]:
    """Runs every round of `cfg.evolve.rounds`; returns the content of W/report.json. Raises ValueError for settings
    that cannot work, before anything is made."""
    check(cfg)
    clock = Clock(workdir)
    with clock("prepare"):
        train.ensure_data(cfg, workdir)
    job = job_lib.Job(cfg, workdir)
    with clock("synthesize"):
        train.ensure_demonstrations(job)
    with clock("sft"):
        params = train.train_sft(job)
    judging, teaching = job.engine(cfg.evaluate.index), job.engine("train", cfg.evolve.temperature)
    with clock("evaluate"):
        rounds = [_first(job, scored(job, params, judging))]
    set_so_far, before = _demonstrations(workdir), job
    for number in range(1, len(cfg.evolve.rounds) + 1):
        control = {}
        if cfg.evolve.control:
            with clock(f"round_{number}/control"):
                folder = shared_workdir(workdir / f"round_{number}_control", before.workdir, "demonstrations")
                control = {"control": _longer(job_lib.Job(_settings(cfg, number), folder), before, set_so_far, judging)}
        later = job_lib.Job(_settings(cfg, number), shared_workdir(workdir / f"round_{number}", workdir))
        with clock(f"round_{number}/demonstrate"):
            made = demonstrate(later, number, teaching, params, set_so_far)
        set_so_far = _demonstrations(later.workdir)
        with clock(f"round_{number}/sft"):
            _mix(later.cfg, set_so_far)
            params = train.train_sft(later, params=params)
        with clock(f"round_{number}/evaluate"):
            rounds.append(made | control | {"held_out": scored(later, params, judging)})
        before = later
        runner.write_json(later.workdir / "report.json", rounds[-1])
    content = {"rounds": rounds, "seed": cfg.seed, "stage_seconds": clock.seconds, "config": cfg.to_dict()}
    runner.write_json(workdir / "report.json", content)
    print(table(rounds))
    return content


def _longer(
    job: job_lib.Job,
    before: job_lib.Job,
    set_so_far: dict[int, list[records.Demonstration]],
    judging: RolloutEngine,
) -> dict[str, Any]:
    """Held-out scores of the policy of the round `before` after a round of SFT on the set that it was trained on."""
    _mix(job.cfg, set_so_far)
    return scored(job, train.train_sft(job, params=before.parameters("sft")), judging)


def check(cfg: Any) -> None:
    """Raises ValueError that names the setting."""
    train.check(cfg)
    _teacher(cfg, 1)
    if cfg.job != "sft":
        raise ValueError(f"job={cfg.job!r}: the rounds of self-evolving distillation are SFT")
    if cfg.evolve.judge not in JUDGES:
        raise ValueError(f"evolve.judge={cfg.evolve.judge!r} is none of {JUDGES}")
    if cfg.evolve.judge == "llm":
        language_model.check(cfg.llm, "evolve.judge='llm'")
    for number, wanted in enumerate(cfg.evolve.rounds, start=1):
        if not wanted or any(level < 0 or tasks < 1 for level, tasks in wanted):
            raise ValueError(f"evolve.rounds: round {number} is {wanted}; it has to be ((level, tasks), ..)")


def _teacher(cfg: Any, number: int) -> distill.DistillConfig:
    own = cfg.evolve
    return distill.DistillConfig(samples=own.samples, keep=own.keep, recall=own.recall, round=number, seed=cfg.seed)


def _settings(cfg: Any, number: int) -> Any:
    """The page of one round: its SFT is as long as `cfg.evolve.steps` says, on a schedule of its own."""
    cfg = cfg.copy_and_resolve_references()
    cfg.sft.steps = cfg.sft.optimizer.total_steps = cfg.evolve.steps
    cfg.sft.optimizer.learning_rate *= cfg.evolve.learning_rate_scale
    cfg.sft.optimizer.adam_learning_rate *= cfg.evolve.learning_rate_scale
    cfg.sft.seed_offset += number
    return cfg


def _mix(cfg: Any, demonstrations: dict[int, list[records.Demonstration]]) -> None:
    """Draws each level in proportion to its share of the set."""
    cfg.sft.curriculum = ((None, tuple((level, float(len(found))) for level, found in sorted(demonstrations.items()))),)


def demonstrate(
    job: job_lib.Job,
    number: int,
    engine: RolloutEngine,
    params: Any,
    set_so_far: dict[int, list[records.Demonstration]],
) -> dict[str, Any]:
    """Writes W/round_<n>/demonstrations, the set so far and what the teacher adds to it; returns the round's numbers,
    which its manifest.json holds. A finished folder is left as it is."""
    folder = job.workdir / "demonstrations"
    if (folder / "manifest.json").exists():
        return read_json_object(folder / "manifest.json", _AGAIN)
    cfg = _teacher(job.cfg, number)
    judge = train.answer_judge(job, job.cfg.evolve.judging) if job.cfg.evolve.judge == "llm" else None
    wanted = dict(job.cfg.evolve.rounds[number - 1])
    seen = {tuple(one.ids) for found in set_so_far.values() for one in found}
    made: dict[str, Any] = {"round": number, "levels": {}}
    grown = {level: list(found) for level, found in set_so_far.items()}
    decode_params = state_lib.decode_copy(job.model_cfg, job.mesh)(params)
    with metrics.progress_bar(sum(wanted.values()), f"round {number}: demonstrate") as bar, jax.set_mesh(job.mesh):
        done = 0
        for level, count in wanted.items():
            outcomes, queries, new, solved = collections.Counter(), collections.Counter(), [], 0
            left_out = 0  # tasks whose prompts leave an episode no room
            source = _tasks(job, level, number)
            while count and (chunk := list(itertools.islice(source, min(_CHUNK, count)))):
                fit, long = job.fitting(chunk)
                found = distill.harvest(engine, decode_params, fit, cfg, wanted[level] - count, judge)
                left_out += long
                new += distill.distinct(seen, found.demonstrations)
                outcomes, queries, solved = outcomes + found.outcomes, queries + found.queries, solved + found.solved
                count, done = count - len(chunk), done + len(chunk)
                bar(done)
            made["levels"][level_name(level)] = _numbers(wanted[level] - count, outcomes, queries, new, solved)
            if left_out:
                made["levels"][level_name(level)]["left_out"] = left_out
            if new:
                grown[level] = grown.get(level, []) + new
    for level, found in grown.items():
        records.write(folder / f"{level_name(level)}.array_record", found)
    made["set"] = {level_name(level): len(found) for level, found in sorted(grown.items())}
    runner.write_json(folder / "manifest.json", made)  # last: where it exists the folder is finished
    return made


def _numbers(tasks, outcomes, queries, new, solved) -> dict[str, Any]:
    """acceptance: accepted trajectories of all sampled. solved: tasks with one. diversity: distinct of all queries."""
    return {
        "tasks": tasks,
        "outcomes": dict(outcomes),
        "acceptance": outcomes["accepted"] / max(1, outcomes.total()),
        "solved": solved / max(1, tasks),
        "diversity": len(queries) / max(1, queries.total()),
        "searches": sum(one.searches for one in new) / max(1, len(new)),
        "new": len(new),
    }


def _tasks(job: job_lib.Job, level: int, number: int) -> Iterator[records.Task]:
    """Training tasks of a level without end, from where the rounds before left off."""
    made = _levels(job.workdir.parent)
    used = sum(made.get(level_name(level), {}).get("outcomes", {}).values())
    used += sum(dict(earlier).get(level, 0) for earlier in job.cfg.evolve.rounds[: number - 1])
    files = task_files(job.workdir / "data" / "tasks", "train", level)
    every = itertools.chain.from_iterable(records.read(path, records.Task) for path in itertools.cycle(files))
    return itertools.islice(every, used, None)


def _levels(workdir: Path) -> dict[str, Any]:
    """What the manifest of W/demonstrations says of each level."""
    return read_json_object(workdir / "demonstrations" / "manifest.json", _AGAIN, ("levels",))["levels"]


def _demonstrations(workdir: Path) -> dict[int, list[records.Demonstration]]:
    """Every demonstration in a folder, by level."""
    found = {}
    for level in range(5):
        path = workdir / "demonstrations" / f"{level_name(level)}.array_record"
        if path.exists():
            found[level] = list(records.read(path, records.Demonstration))
    return found


def scored(job: job_lib.Job, params: Any, engine: RolloutEngine) -> dict[str, Any]:
    """Held-out scores of a round's policy by level, from its scores.json where that is there."""
    path = job.workdir / "evaluate" / "sft" / "scores.json"
    if path.exists():
        return read_json_object(path, _AGAIN)
    return evaluate.run(job, "sft", engine, params)


def _first(job: job_lib.Job, scores: dict[str, Any]) -> dict[str, Any]:
    """Round 0: the numbers of the page's teacher."""
    made = _levels(job.workdir)
    written = {name: one["written"] for name, one in made.items() if "written" in one}
    return {"round": 0, "levels": {}, "set": written, "held_out": scores}


def table(rounds: list[dict[str, Any]]) -> str:
    """Returns plain text: a line for each round, with the set's size, acceptance by level and held-out recall."""
    asked = sorted({level for one in rounds for level in one["levels"]})
    scored_levels = sorted(rounds[0]["held_out"])
    head = ["round", "set", *(f"accepted {level}" for level in asked), *(f"recall {name}" for name in scored_levels)]
    lines, size = [head], ""
    for one in rounds:
        accepted = [one["levels"].get(level, {}).get("acceptance") for level in asked]
        recalls = [one["held_out"][name]["recall"] for name in scored_levels]
        cells = ["-" if value is None else f"{value:.3f}" for value in (*accepted, *recalls)]
        if "control" in one:
            recalls = [f"{one['control'][name]['recall']:.3f}" for name in scored_levels]
            lines.append([f"{one['round']}, none new", size, *("-" for _ in asked), *recalls])
        size = str(sum(one["set"].values()))
        lines.append([str(one["round"]), size, *cells])
    return report.aligned(lines, "\nself-evolving distillation")
