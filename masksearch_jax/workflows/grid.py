"""A table of methods: chains of training stages x columns of held-out tasks x seeds (paper, Table 2 and section 4).

A method names a chain such as `base/ramp_sft/qa_rl`. Each stage of a chain starts from the parameters of the stage
before it. A cell is a prefix of a chain; it is trained once per seed and shared by all chains that begin with it. A
stage is one of `cfg.stages`: settings of SFT (`sft`) or DAPO (`dapo`) that replace those of the config.
`generations_of` gives a DAPO stage as many rollout batches as another chain generated. Every seed draws its own world,
data, weights and episodes.

Leaves: W/seed_<s>/ with data and demonstrations, W/seed_<s>/<chain with + for />/ with the stage and its evaluation,
and W/report.json. After a kill at any moment, the same command resumes with the first unfinished cell. A finished cell
is only read.

`cfg.grid.at_once` seeds run in parallel, each in its own process on one CPU device, since two devices do not make a
step of a tiny policy twice as fast. The process that works on a seed locks its folder.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.evals import intervals, report, runner
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import child_process, distributed, metrics, progress, stop_signals, workdir_lock
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import Json, JsonObject, Params
from masksearch_jax.workflows import evaluation, training
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.settings import validate_settings
from masksearch_jax.workflows.shared_workdirs import shared_workdir
from masksearch_jax.workflows.stage_clock import Clock

ONE_SEARCH = "one_search"
_WAIT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Method:
    """One method of the table.

    label: as shown. chain: stages joined by '/'. policy: '' for the chain's own policy, or 'one_search' (plain RAG).
    baseline: label of the method that this one is compared with, or ''.
    """

    label: str
    chain: str
    policy: str = ""
    baseline: str = ""

    @property
    def folder(self) -> str:
        return self.chain.replace("/", "+")


def run(cfg: ConfigDict, workdir: Path) -> JsonObject:
    """Train and evaluate what is missing, and return the content of W/report.json.

    Raises ValueError that names the method, stage or setting, before anything is made.
    """
    methods = validated_methods(cfg)
    if cfg.grid.at_once > 1:
        side_by_side(cfg, workdir)  # the rest then only reads
    scores: dict[str, JsonObject] = {method.label: {} for method in methods}
    seconds = {}
    for seed in cfg.grid.seeds:
        seed_run = SeedRun(cfg, workdir, seed)
        with seed_run.alone():
            seed_run.prepare()
            for method in methods:
                scores[method.label][str(seed)] = seed_run.scores(method)
        seconds[str(seed)] = seed_run.clock.seconds
        content = summary(cfg, workdir, methods, scores) | {"stage_seconds": seconds, "config": cfg.to_dict()}
        runner.write_json(workdir / "report.json", content)  # after each seed, so that there is a report to look at
    print(table(content))
    return content


def side_by_side(cfg: ConfigDict, workdir: Path) -> None:
    """Run the command line of this process once per seed, `cfg.grid.at_once` processes at a time.

    Raises ValueError that names the log of a failed seed, after the other seeds have ended.
    """

    def one(seed: int) -> None:
        log = workdir / f"seed_{seed}" / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        progress.print_message("experiment", f"seed {seed}: {log}")
        command = [
            sys.executable, "-m", "masksearch_jax.experiment", *sys.argv[1:], f"--workdir={workdir}",
            f"--config.grid.seeds=({seed},)", "--config.grid.at_once=1", "--config.cpu_devices=1",
        ]  # fmt: skip
        with log.open("a") as file:
            if status := child_process.run(command, stdout=file, stderr=file).returncode:
                if status == distributed.RETRY:
                    raise distributed.PreemptedError(f"seed {seed} was told to stop; start the same line again")
                if status == stop_signals.ALARMED:
                    raise stop_signals.AlarmError(f"seed {seed} was stopped by an alarm; {log} says which")
                raise ValueError(f"seed {seed} ended with exit status {status}; {log} says why")

    with concurrent.futures.ThreadPoolExecutor(cfg.grid.at_once) as pool:
        for done in [pool.submit(one, seed) for seed in cfg.grid.seeds]:
            done.result()


def validated_methods(cfg: ConfigDict) -> list[Method]:
    """Return the methods. Raises ValueError that names what cannot work."""
    validate_settings(cfg)
    methods = [Method(*fields) for fields in cfg.grid.methods]
    labels = [method.label for method in methods]
    for method in methods:
        named = f"grid.methods: {method.label!r}"
        for stage in method.chain.split("/"):
            if stage not in cfg.stages:
                raise ValueError(f"{named} names stage {stage!r}; known are {sorted(cfg.stages)}")
        if method.policy not in ("", ONE_SEARCH):
            raise ValueError(f"{named} has policy {method.policy!r}; it is '' or {ONE_SEARCH!r}")
        if method.baseline and method.baseline not in labels:
            raise ValueError(f"{named} is compared with {method.baseline!r}, which is no method")
    if len(set(labels)) < len(labels) or not methods or not cfg.grid.seeds:
        raise ValueError("grid: methods have to be named apart, and there has to be a method and a seed")
    for title, group in cfg.grid.groups:
        if unknown := [label for label in group if label not in labels]:
            raise ValueError(f"grid.groups: {title!r} names {unknown}, which are no methods")
    if cfg.grid.at_once < 1:
        raise ValueError(f"grid.at_once={cfg.grid.at_once}: at least one seed at a time is needed")
    for name in cfg.stages:
        training.validate_training(stage_config(cfg, name))
        if same := cfg.stages[name].get("generations_of", ""):
            for stage in (name, *same.split("/")[-1:]):
                if stage not in cfg.stages or cfg.stages[stage].kind != "dapo":
                    raise ValueError(f"stages.{name}.generations_of={same!r}: {stage!r} is no stage of DAPO")
            if stage_config(cfg, name).dapo.max_generations != 1:
                raise ValueError(f"stages.{name}.generations_of needs max_generations=1: one to an iteration")
    return methods


def stage_config(cfg: ConfigDict, name: str) -> ConfigDict:
    """Return the config of one stage of the experiment: `stage` is its kind, and its settings replace those of cfg."""
    out = cfg.copy_and_resolve_references()
    stage = out.stages[name]
    out.stage = stage.kind
    with out.unlocked():
        out[stage.kind].update(stage.settings)
    return out


class SeedRun:
    """One seed: its data and its cells."""

    def __init__(self, cfg: ConfigDict, workdir: Path, seed: int):
        self.cfg, self.workdir = cfg.copy_and_resolve_references(), workdir / f"seed_{seed}"
        self.cfg.seed = self.cfg.prepare.seed = seed
        self.clock = Clock(self.workdir)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process works on this seed, then hold its lock.

        A process that a killed run started may still be ending. Raises ValueError that names it if it does not end.
        """
        with workdir_lock.locked(self.workdir, _WAIT_SECONDS):
            yield

    def prepare(self) -> None:
        with self.clock("prepare"):
            training.ensure_data(self.cfg, self.workdir)
        with self.clock("synthesize"):
            training.ensure_demonstrations(RunContext(self.cfg, self.workdir))

    @functools.cached_property
    def _engine(self) -> RolloutEngine:
        """The engine that evaluates every cell of this seed."""
        return evaluation.open_engine(RunContext(self.cfg, self.workdir))

    def context(self, chain: str) -> RunContext:
        """Return the context of the last stage of a chain.

        A stage with `generations_of` gets as many iterations as that other chain generated rollout batches. The other
        chain is trained first if it is missing.
        """
        name = chain.rpartition("/")[2]
        folder = shared_workdir(self.workdir / chain.replace("/", "+"), self.workdir, "demonstrations")
        cfg = stage_config(self.cfg, name)
        if same := self.cfg.stages[name].get("generations_of", ""):
            self.train(same)
            rows = metrics.read_rows(self.context(same).workdir / "dapo" / "metrics.jsonl")
            cfg.dapo.iterations = round(sum(row.get("generations", 0) for row in rows))
        return RunContext(cfg, folder)

    def train(self, chain: str) -> Params:
        """Return the parameters at the end of a chain, after training the stages that are missing."""
        context = self.context(chain)
        stage = context.cfg.stage
        steps = context.cfg.sft.steps if stage == "sft" else context.cfg.dapo.iterations
        if training.finished(context, stage, steps):
            return context.parameters(stage)
        before = chain.rpartition("/")[0]
        params = self.train(before) if before else context.initial()
        with self.clock(chain):
            return (
                training.train_sft(context, params=params) if stage == "sft" else training.train_dapo(context, params)
            )

    def scores(self, method: Method) -> JsonObject:
        """Return the held-out scores of a method by column. They are read if they exist, else made."""
        context = self.context(method.chain)
        policy = method.policy or context.cfg.stage
        path = context.workdir / "evaluate" / policy / "scores.json"
        if not path.exists():
            params = self.train(method.chain)
            with self.clock(f"evaluate/{method.folder}"):
                evaluation.run(context, policy, self._engine, params)
        return read_json_object(path, "remove it and start again, which evaluates anew")


def summary(
    cfg: ConfigDict, workdir: Path, methods: Sequence[Method], scores: Mapping[str, Mapping[str, Json]]
) -> JsonObject:
    """Return means and 95 % intervals over the finished seeds: of each method, and of each method minus its baseline.

    The differences are paired by seed. Also holds the tokens that the stages of each method trained on.
    """
    columns = [*cfg.grid.columns, "average"]
    seeds = list(next(iter(scores.values())))

    def value(label: str, seed: str, column: str) -> float:
        found = scores[label][seed]
        if column != "average":
            return found[column]["recall"]
        return sum(found[name]["recall"] for name in cfg.grid.columns) / len(cfg.grid.columns)

    measured = {
        one.label: {c: intervals.mean([value(one.label, s, c) for s in seeds]) for c in columns} for one in methods
    }
    gains = {
        one.label: {
            c: intervals.mean([value(one.label, s, c) - value(one.baseline, s, c) for s in seeds]) for c in columns
        }
        for one in methods
        if one.baseline
    }
    return {
        "workflow": cfg.workflow,
        "methods": [dataclasses.asdict(method) for method in methods],
        "groups": [[title, list(labels)] for title, labels in cfg.grid.groups],  # methods whose curves share a chart
        "columns": columns,
        "seeds": seeds,
        "measured": measured,
        "gains": gains,
        "tokens": {one.label: [tokens(cfg, workdir / f"seed_{seed}", one.chain) for seed in seeds] for one in methods},
        "scores": scores,
    }


def tokens(cfg: ConfigDict, seed_dir: Path, chain: str) -> dict[str, int]:
    """Return {'sft': tokens trained on by SFT, 'generated': tokens generated for RL}, summed over a chain's stages."""
    found = {"sft": 0, "generated": 0}
    stages = chain.split("/")
    for number, stage in enumerate(stages, start=1):
        folder = seed_dir / "+".join(stages[:number]) / cfg.stages[stage].kind
        for row in metrics.read_rows(folder / "metrics.jsonl"):
            found["sft"] += int(row.get("tokens", 0))
            found["generated"] += int(row.get("rollout/tokens", 0))
    return found


def table(content: Mapping[str, Json]) -> str:
    """Return a plain-text table: recall x 100 of each method and column, as mean and half-width of its interval."""
    lines = [["method", *content["columns"]]]
    for method in content["methods"]:
        label = method["label"]
        lines.append([label, *_cells(content["measured"][label], content["columns"])])
    text = report.aligned(lines, f"\ntoken recall x 100, {len(content['seeds'])} seeds, 95 % intervals")
    if content["gains"]:
        lines = [["method minus its baseline", *content["columns"]]]
        for method in content["methods"]:
            if method["baseline"]:
                name = f"{method['label']} - {method['baseline']}"
                lines.append([name, *_cells(content["gains"][method["label"]], content["columns"])])
        text += "\n" + report.aligned(lines, "\ndifferences")
    return text


def _cells(found: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        half = found[column]["half_width"]
        yield f"{100 * found[column]['mean']:.1f}" + (f" ±{100 * half:.1f}" if half is not None else "")
