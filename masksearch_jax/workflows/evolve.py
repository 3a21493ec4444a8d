"""Self-evolving distillation (paper, section 2.2): in each round a policy demonstrates more and harder tasks to the
next one.

Round 0 trains the first policy on demonstrations of the teacher in `cfg.synthesize`. In round n the policy of round
n - 1 tries the tasks that `cfg.evolve.rounds` names. The trajectories that agents/distillation.py accepts join the set
of demonstrations, and SFT on the whole set continues from that policy. Every round is scored on held-out tasks. With
`cfg.evolve.control` the policy of round n - 1 is also trained for as many steps on the set without the new
demonstrations. The difference in scores is what the new demonstrations add.

Leaves: W/demonstrations, W/sft (round 0), W/round_<n>/ with demonstrations/, sft/, evaluate/ and report.json,
W/round_<n>_control/ with sft/ and evaluate/, and W/report.json.
After a kill at any moment, the same command resumes with the first part that is not finished.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from masksearch_jax.agents import distillation
from masksearch_jax.data import records
from masksearch_jax.data.curriculum import stream_id
from masksearch_jax.data.pipeline import task_files
from masksearch_jax.evals import report, runner
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import progress
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject, Params
from masksearch_jax.workflows import evaluation, llm_connection, training
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.setting_ranges import ROUND_TASKS
from masksearch_jax.workflows.shared_workdirs import shared_workdir
from masksearch_jax.workflows.stage_clock import Clock

JUDGES = ("rules", "llm")
_AGAIN = "remove its folder and start again, which makes it anew"
_CHUNK = 256  # tasks that are sampled together; progress is shown after each chunk


def run(cfg: ConfigDict, workdir: Path) -> JsonObject:
    """Run every round of `cfg.evolve.rounds` and return the content of W/report.json.

    Raises ValueError for settings that cannot work, before anything is made.
    """
    validate_rounds(cfg)
    clock = Clock(workdir)
    with clock("prepare"):
        training.ensure_data(cfg, workdir)
    context = RunContext(cfg, workdir)
    with clock("synthesize"):
        training.ensure_demonstrations(context)
    with clock("sft"):
        params = training.train_sft(context)
    judging, teaching = evaluation.open_engine(context), context.engine("train", cfg.evolve.temperature)
    with clock("evaluate"):
        rounds = [_first(context, scored(context, params, judging))]
    set_so_far, before = _demonstrations(workdir), context
    for number in range(1, len(cfg.evolve.rounds) + 1):
        control = {}
        if cfg.evolve.control:
            with clock(f"round_{number}/control"):
                folder = shared_workdir(workdir / f"round_{number}_control", before.workdir, "demonstrations")
                control = {"control": _longer(RunContext(_settings(cfg, number), folder), before, set_so_far, judging)}
        later = RunContext(_settings(cfg, number), shared_workdir(workdir / f"round_{number}", workdir))
        with clock(f"round_{number}/demonstrate"):
            made = demonstrate(later, number, teaching, params, set_so_far)
        set_so_far = _demonstrations(later.workdir)
        with clock(f"round_{number}/sft"):
            _mix(later.cfg, set_so_far)
            params = training.train_sft(later, params=params)
        with clock(f"round_{number}/evaluate"):
            rounds.append(made | control | {"held_out": scored(later, params, judging)})
        before = later
        runner.write_json(later.workdir / "report.json", rounds[-1])
    content = {"rounds": rounds, "seed": cfg.seed, "stage_seconds": clock.seconds, "config": cfg.to_dict()}
    runner.write_json(workdir / "report.json", content)
    print(table(rounds))
    return content


def _longer(
    context: RunContext,
    before: RunContext,
    set_so_far: dict[str, list[records.Demonstration]],
    judging: RolloutEngine,
) -> JsonObject:
    """Train the policy of the round `before` again on the set that it was trained on; return its held-out scores."""
    _mix(context.cfg, set_so_far)
    return scored(context, training.train_sft(context, params=before.parameters("sft")), judging)


def validate_rounds(cfg: ConfigDict) -> None:
    """Raise ValueError that names the first setting that cannot work."""
    training.validate_training(cfg)
    _teacher(cfg, 1)
    if cfg.stage != "sft":
        raise ValueError(f"stage={cfg.stage!r}: the rounds of self-evolving distillation are SFT")
    if cfg.evolve.judge not in JUDGES:
        raise ValueError(f"evolve.judge={cfg.evolve.judge!r} is none of {JUDGES}")
    if cfg.evolve.judge == "llm":
        llm_connection.validate_llm(cfg.llm, "evolve.judge='llm'")
    for number, wanted in enumerate(cfg.evolve.rounds, start=1):
        if not wanted or any(name not in ROUND_TASKS or count < 1 for name, count in wanted):
            raise ValueError(
                f"evolve.rounds: round {number} is {wanted}; it has to be ((task, how many), ..), "
                f"with tasks of {ROUND_TASKS}"
            )


def _teacher(cfg: ConfigDict, number: int) -> distillation.DistillConfig:
    own = cfg.evolve
    return distillation.DistillConfig(
        samples=own.samples, keep=own.keep, recall=own.recall, round=number, seed=cfg.seed
    )


def _settings(cfg: ConfigDict, number: int) -> ConfigDict:
    """Return the config of one round: SFT for `cfg.evolve.steps` steps on a schedule of its own."""
    cfg = cfg.copy_and_resolve_references()
    cfg.sft.steps = cfg.sft.optimizer.total_steps = cfg.evolve.steps
    cfg.sft.optimizer.learning_rate *= cfg.evolve.learning_rate_scale
    cfg.sft.optimizer.adam_learning_rate *= cfg.evolve.learning_rate_scale
    cfg.sft.seed_offset += number
    return cfg


def _mix(cfg: ConfigDict, demonstrations: dict[str, list[records.Demonstration]]) -> None:
    """Set a curriculum that draws each task in proportion to its share of the set."""
    weights = tuple((name, float(len(demonstrations[name]))) for name in _ordered(demonstrations))
    cfg.sft.curriculum = ((None, weights),)


def _ordered(found: Iterable[str]) -> list[str]:
    return sorted(found, key=stream_id)


def demonstrate(
    context: RunContext,
    number: int,
    engine: RolloutEngine,
    params: Params,
    set_so_far: dict[str, list[records.Demonstration]],
) -> JsonObject:
    """Write W/round_<n>/demonstrations: the set so far, and the new demonstrations of the teacher.

    Returns the numbers of the round, which manifest.json in that folder holds. A finished folder is left as it is.
    """
    folder = context.workdir / "demonstrations"
    if (folder / "manifest.json").exists():
        return read_json_object(folder / "manifest.json", _AGAIN)
    cfg = _teacher(context.cfg, number)
    judge = training.answer_judge(context, context.cfg.evolve.judging) if context.cfg.evolve.judge == "llm" else None
    wanted = dict(context.cfg.evolve.rounds[number - 1])
    seen = {tuple(one.ids) for found in set_so_far.values() for one in found}
    made: JsonObject = {"round": number, "tasks": {}}
    grown = {name: list(found) for name, found in set_so_far.items()}
    decode_params = context.policy.decode_copy()(params)
    with progress.progress_bar(sum(wanted.values()), f"round {number}: demonstrate") as bar, jax.set_mesh(context.mesh):
        done = 0
        for name, count in wanted.items():
            outcomes: collections.Counter[str] = collections.Counter()
            queries: collections.Counter[str] = collections.Counter()
            new: list[records.Demonstration] = []
            solved = 0
            left_out = 0  # tasks whose prompts leave no room for an episode
            source = _tasks(context, name, number)
            while count and (chunk := list(itertools.islice(source, min(_CHUNK, count)))):
                fit, long = context.fitting(chunk)
                found = distillation.harvest(engine, decode_params, fit, cfg, wanted[name] - count, judge)
                left_out += long
                new += distillation.distinct(seen, found.demonstrations)
                outcomes, queries, solved = outcomes + found.outcomes, queries + found.queries, solved + found.solved
                count, done = count - len(chunk), done + len(chunk)
                bar(done)
            made["tasks"][name] = _numbers(wanted[name] - count, outcomes, queries, new, solved)
            if left_out:
                made["tasks"][name]["left_out"] = left_out
            if new:
                grown[name] = grown.get(name, []) + new
    for name, demonstrations in grown.items():
        records.write(folder / f"{name}.array_record", demonstrations)
    made["set"] = {name: len(grown[name]) for name in _ordered(grown)}
    runner.write_json(folder / "manifest.json", made)  # written last: a folder with a manifest is finished
    return made


def _numbers(tasks, outcomes, queries, new, solved) -> JsonObject:
    """Return the numbers of one task in a round.

    acceptance: accepted trajectories / sampled trajectories. solved: share of tasks with an accepted trajectory.
    diversity: distinct queries / all queries. searches: mean per new demonstration.
    """
    return {
        "tasks": tasks,
        "outcomes": dict(outcomes),
        "acceptance": outcomes["accepted"] / max(1, outcomes.total()),
        "solved": solved / max(1, tasks),
        "diversity": len(queries) / max(1, queries.total()),
        "searches": sum(one.searches for one in new) / max(1, len(new)),
        "new": len(new),
    }


def _tasks(context: RunContext, name: str, number: int) -> Iterator[records.Task]:
    """Yield the records of a training task, again and again, from the place where the earlier rounds stopped."""
    made = _made(context.workdir.parent)
    used = sum(made.get(name, {}).get("outcomes", {}).values())
    used += sum(dict(earlier).get(name, 0) for earlier in context.cfg.evolve.rounds[: number - 1])
    files = task_files(context.workdir / "data" / "tasks", "train", name)
    every = itertools.chain.from_iterable(records.read(path, records.Task) for path in itertools.cycle(files))
    return itertools.islice(every, used, None)


def _made(workdir: Path) -> JsonObject:
    """Return {task: numbers} from the manifest of W/demonstrations."""
    return read_json_object(workdir / "demonstrations" / "manifest.json", _AGAIN, ("tasks",))["tasks"]


def _demonstrations(workdir: Path) -> dict[str, list[records.Demonstration]]:
    """Return {task: demonstrations} of a workdir, for the tasks of `ROUND_TASKS`."""
    found = {}
    for name in ROUND_TASKS:
        path = workdir / "demonstrations" / f"{name}.array_record"
        if path.exists():
            found[name] = list(records.read(path, records.Demonstration))
    return found


def scored(context: RunContext, params: Params, engine: RolloutEngine) -> JsonObject:
    """Return the held-out scores of a round's policy by suite, from its scores.json if that exists."""
    path = context.workdir / "evaluate" / "sft" / "scores.json"
    if path.exists():
        return read_json_object(path, _AGAIN)
    return evaluation.run(context, "sft", engine, params)


def _first(context: RunContext, scores: JsonObject) -> JsonObject:
    """Return the entry of round 0 in the report: the counts of the first teacher's demonstrations, and the scores."""
    made = _made(context.workdir)
    written = {name: one["written"] for name, one in made.items() if "written" in one}
    return {"round": 0, "tasks": {}, "set": written, "held_out": scores}


def table(rounds: list[JsonObject]) -> str:
    """Return a plain-text table with the size of the set, acceptance by task and held-out recall of each round."""
    asked = sorted({name for one in rounds for name in one["tasks"]})
    suites = sorted(rounds[0]["held_out"])
    head = ["round", "set", *(f"accepted {name}" for name in asked), *(f"recall {name}" for name in suites)]
    lines, size = [head], ""
    for one in rounds:
        accepted = [one["tasks"].get(name, {}).get("acceptance") for name in asked]
        recalls = [one["held_out"][name]["recall"] for name in suites]
        cells = ["-" if value is None else f"{value:.3f}" for value in (*accepted, *recalls)]
        if "control" in one:
            recalls = [f"{one['control'][name]['recall']:.3f}" for name in suites]
            lines.append([f"{one['round']}, none new", size, *("-" for _ in asked), *recalls])
        size = str(sum(one["set"].values()))
        lines.append([str(one["round"]), size, *cells])
    return report.aligned(lines, "\nself-evolving distillation")
