"""A table of methods: chains of training stages x columns of held-out tasks x seeds (paper, Table 2 and section 4).

A row names a chain such as `base/ramp_sft/qa_rl`: each stage starts from the end of the one before, and chains share
their beginnings, so a cell is a prefix of a chain and is trained once a seed. A stage is one of `cfg.stages`: settings
of SFT (`sft`) or DAPO (`dapo`) that replace those of the page; `generations_of` gives a stage of DAPO as many rollout
batches as another chain generated. Every seed draws its own world, data, weights and episodes.

Leaves: W/seed_<s>/ with data and demonstrations, W/seed_<s>/<chain with + for />/ with the stage and its evaluation,
and W/report.json. Killed at any moment and started again with the same line, it goes on with the first cell that is not
finished; a finished cell is only read.

`cfg.grid.at_once` seeds run side by side, each in a process of its own on one CPU device: two devices do not make a
step of a tiny policy twice as fast. A seed's folder is locked by whoever works there.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from masksearch_jax import distributed, evaluate, metrics, train
from masksearch_jax import job as job_lib
from masksearch_jax.evals import intervals, report, runner
from masksearch_jax.experiments.clock import Clock
from masksearch_jax.experiments.workdirs import shared_workdir
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import child_process, workdir_lock
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.workflows.settings import validate_settings

ONE_SEARCH = "one_search"
_WAIT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Row:
    """label: as shown. chain: stages joined by '/'. policy: '' or 'one_search' (plain RAG). twin: label of the row that
    this one is compared with, ''."""

    label: str
    chain: str
    policy: str = ""
    twin: str = ""

    @property
    def folder(self) -> str:
        return self.chain.replace("/", "+")


def run(cfg: Any, workdir: Path) -> dict[str, Any]:
    """Trains and evaluates what is missing; returns the content of W/report.json. Raises ValueError that names the row,
    stage or setting, before anything is made."""
    rows = check(cfg)
    if cfg.grid.at_once > 1:
        side_by_side(cfg, workdir)  # what follows then only reads
    scores: dict[str, dict[str, Any]] = {row.label: {} for row in rows}
    seconds = {}
    for seed in cfg.grid.seeds:
        line = Line(cfg, workdir, seed)
        with line.alone():
            line.prepare()
            for row in rows:
                scores[row.label][str(seed)] = line.scores(row)
        seconds[str(seed)] = line.clock.seconds
        content = summary(cfg, workdir, rows, scores) | {"stage_seconds": seconds, "config": cfg.to_dict()}
        runner.write_json(workdir / "report.json", content)  # after each seed: something to look at
    print(table(content))
    return content


def side_by_side(cfg: Any, workdir: Path) -> None:
    """Runs the command line of this process once a seed, for that seed alone, `cfg.grid.at_once` at a time. Raises
    ValueError that names the log of a seed that failed, once the others have ended."""

    def one(seed: int) -> None:
        log = workdir / f"seed_{seed}" / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        train.say(f"seed {seed}: {log}")
        command = [
            sys.executable, "-m", "masksearch_jax.experiment", *sys.argv[1:], f"--workdir={workdir}",
            f"--config.grid.seeds=({seed},)", "--config.grid.at_once=1", "--config.cpu_devices=1",
        ]  # fmt: skip
        with log.open("a") as file:
            if status := child_process.run(command, stdout=file, stderr=file).returncode:
                if status == distributed.RETRY:
                    raise distributed.PreemptedError(f"seed {seed} was told to stop; start the same line again")
                raise ValueError(f"seed {seed} ended with exit status {status}; {log} says why")

    with concurrent.futures.ThreadPoolExecutor(cfg.grid.at_once) as pool:
        for done in [pool.submit(one, seed) for seed in cfg.grid.seeds]:
            done.result()


def check(cfg: Any) -> list[Row]:
    """Returns the rows; raises ValueError that names what cannot work."""
    validate_settings(cfg)
    rows = [Row(*row) for row in cfg.grid.rows]
    labels = [row.label for row in rows]
    for row in rows:
        for stage in row.chain.split("/"):
            if stage not in cfg.stages:
                raise ValueError(f"grid.rows: {row.label!r} names stage {stage!r}; known are {sorted(cfg.stages)}")
        if row.policy not in ("", ONE_SEARCH):
            raise ValueError(f"grid.rows: {row.label!r} has policy {row.policy!r}; it is '' or {ONE_SEARCH!r}")
        if row.twin and row.twin not in labels:
            raise ValueError(f"grid.rows: {row.label!r} is compared with {row.twin!r}, which is no row")
    if len(set(labels)) < len(labels) or not rows or not cfg.grid.seeds:
        raise ValueError("grid: rows have to be named apart, and there has to be a row and a seed")
    for title, group in cfg.grid.groups:
        if unknown := [label for label in group if label not in labels]:
            raise ValueError(f"grid.groups: {title!r} names {unknown}, which are no rows")
    if cfg.grid.at_once < 1:
        raise ValueError(f"grid.at_once={cfg.grid.at_once}: at least one seed at a time is needed")
    for name in cfg.stages:
        train.check(stage_config(cfg, name))
        if same := cfg.stages[name].get("generations_of", ""):
            for stage in (name, *same.split("/")[-1:]):
                if stage not in cfg.stages or cfg.stages[stage].job != "dapo":
                    raise ValueError(f"stages.{name}.generations_of={same!r}: {stage!r} is no stage of DAPO")
            if stage_config(cfg, name).dapo.max_generations != 1:
                raise ValueError(f"stages.{name}.generations_of needs max_generations=1: one to an iteration")
    return rows


def stage_config(cfg: Any, name: str) -> Any:
    """The page with `job` and that job's settings as the stage says."""
    out = cfg.copy_and_resolve_references()
    stage = out.stages[name]
    out.job = stage.job
    with out.unlocked():
        out[stage.job].update(stage.settings)
    return out


class Line:
    """One seed: its data, and the cells that stand on them."""

    def __init__(self, cfg: Any, workdir: Path, seed: int):
        self.cfg, self.workdir = cfg.copy_and_resolve_references(), workdir / f"seed_{seed}"
        self.cfg.seed = self.cfg.prepare.seed = seed
        self.clock = Clock(self.workdir)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no other process works on this seed: one may be ending that a killed run started. Raises
        ValueError that names it if it does not end."""
        with workdir_lock.locked(self.workdir, _WAIT_SECONDS):
            yield

    def prepare(self) -> None:
        with self.clock("prepare"):
            train.ensure_data(self.cfg, self.workdir)
        with self.clock("synthesize"):
            train.ensure_demonstrations(job_lib.Job(self.cfg, self.workdir))

    @functools.cached_property
    def _engine(self) -> RolloutEngine:
        """Judges every cell of this seed."""
        return job_lib.Job(self.cfg, self.workdir).engine(self.cfg.evaluate.index)

    def job(self, chain: str) -> job_lib.Job:
        """Of the last stage. One with `generations_of` gets as many iterations as that chain generated batches, and
        trains it first where it is missing."""
        name = chain.rpartition("/")[2]
        folder = shared_workdir(self.workdir / chain.replace("/", "+"), self.workdir, "demonstrations")
        cfg = stage_config(self.cfg, name)
        if same := self.cfg.stages[name].get("generations_of", ""):
            self.train(same)
            rows = metrics.read_rows(self.job(same).workdir / "dapo" / "metrics.jsonl")
            cfg.dapo.iterations = round(sum(row.get("generations", 0) for row in rows))
        return job_lib.Job(cfg, folder)

    def train(self, chain: str) -> Any:
        """The parameters at the end of a chain, trained where they are missing."""
        job = self.job(chain)
        stage = job.cfg.job
        steps = job.cfg.sft.steps if stage == "sft" else job.cfg.dapo.iterations
        if train.finished(job, stage, steps):
            return job.parameters(stage)
        before = chain.rpartition("/")[0]
        params = self.train(before) if before else job.initial()
        with self.clock(chain):
            return train.train_sft(job, params=params) if stage == "sft" else train.train_dapo(job, params)

    def scores(self, row: Row) -> dict[str, Any]:
        """Held-out scores of a row by column, read where they were made."""
        job = self.job(row.chain)
        policy = row.policy or job.cfg.job
        path = job.workdir / "evaluate" / policy / "scores.json"
        if not path.exists():
            params = self.train(row.chain)
            with self.clock(f"evaluate/{row.folder}"):
                evaluate.run(job, policy, self._engine, params)
        return read_json_object(path, "remove it and start again, which evaluates anew")


def summary(
    cfg: Any, workdir: Path, rows: Sequence[Row], scores: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Means and 95 % intervals over the seeds that there are, of each row and of each row minus its twin (paired by
    task); and the tokens that each row's stages took."""
    columns = [*cfg.grid.columns, "average"]
    seeds = list(next(iter(scores.values())))

    def value(label: str, seed: str, column: str) -> float:
        found = scores[label][seed]
        if column != "average":
            return found[column]["recall"]
        return sum(found[name]["recall"] for name in cfg.grid.columns) / len(cfg.grid.columns)

    measured = {
        row.label: {c: intervals.mean([value(row.label, s, c) for s in seeds]) for c in columns} for row in rows
    }
    gains = {
        row.label: {
            c: intervals.mean([value(row.label, s, c) - value(row.twin, s, c) for s in seeds]) for c in columns
        }
        for row in rows
        if row.twin
    }
    return {
        "line": cfg.line,
        "rows": [dataclasses.asdict(row) for row in rows],
        "groups": [[title, list(labels)] for title, labels in cfg.grid.groups],  # that the curves of a chart show
        "columns": columns,
        "seeds": seeds,
        "measured": measured,
        "gains": gains,
        "tokens": {row.label: [tokens(cfg, workdir / f"seed_{seed}", row.chain) for seed in seeds] for row in rows},
        "scores": scores,
    }


def tokens(cfg: Any, seed_dir: Path, chain: str) -> dict[str, int]:
    """Tokens that a chain's stages trained on by SFT, and that their policies generated for RL."""
    found = {"sft": 0, "generated": 0}
    stages = chain.split("/")
    for number, stage in enumerate(stages, start=1):
        folder = seed_dir / "+".join(stages[:number]) / cfg.stages[stage].job
        for row in metrics.read_rows(folder / "metrics.jsonl"):
            found["sft"] += int(row.get("tokens", 0))
            found["generated"] += int(row.get("rollout/tokens", 0))
    return found


def table(content: Mapping[str, Any]) -> str:
    """Returns plain text: recall x 100 of each row and column, mean and half-width of its interval over seeds."""
    lines = [["method", *content["columns"]]]
    for row in content["rows"]:
        lines.append([row["label"], *_cells(content["measured"][row["label"]], content["columns"])])
    text = report.aligned(lines, f"\ntoken recall x 100, {len(content['seeds'])} seeds, 95 % intervals")
    if content["gains"]:
        lines = [["method minus its twin", *content["columns"]]]
        for row in content["rows"]:
            if row["twin"]:
                name = f"{row['label']} - {row['twin']}"
                lines.append([name, *_cells(content["gains"][row["label"]], content["columns"])])
        text += "\n" + report.aligned(lines, "\ndifferences")
    return text


def _cells(found: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        half = found[column]["half_width"]
        yield f"{100 * found[column]['mean']:.1f}" + (f" ±{100 * half:.1f}" if half is not None else "")
