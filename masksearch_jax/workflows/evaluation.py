"""Score a policy on held-out RAMP tasks (by number of masks), on held-out questions and on benchmarks.

Writes W/evaluate/<policy>/rows.jsonl (every episode with its turns) and scores.json, and prints tables. The benchmarks
are those whose questions W/data holds (docs/guides/benchmarks.md), and the one that the setting `benchmarks.custom`
names. They search the whole index with nothing excluded. Greedy episodes may be followed by sampled ones
(`evaluate.samples`), whose rows go to sampled.jsonl. An evaluation that was killed resumes with the suite that it was
scoring. A named evaluation lies in W/evaluate/<name> and never replaces another one.
"""

import dataclasses
import functools
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from masksearch_jax.data.curriculum import QUESTIONS
from masksearch_jax.data.records import Task
from masksearch_jax.evals import report, runner
from masksearch_jax.evals.benchmarks import BENCHMARKS, CUSTOM
from masksearch_jax.evals.sampled import sampled_table, summarise_samples
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import progress, workdir_lock
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.types import JsonObject, Params
from masksearch_jax.workflows import command_summary, custom_benchmark, empty_tasks, few_shot, pretrained_model
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.evaluated_suites import EvaluatedSuites
from masksearch_jax.workflows.problems import Problems
from masksearch_jax.workflows.settings import validate_settings, validate_shapes

# Policy -> the stage whose weights it uses; None for the untrained model.
STAGES = {
    "untrained": None,
    "few_shot": None,
    "rag": None,
    "one_search": "sft",
    "sft": "sft",
    "sft_more": "sft_more",
    "dapo": "dapo",
}
# A rule writes the one search of these policies, and they only answer: retrieval-augmented generation without agency.
FORCED = ("rag", "one_search")
# FreshQA asks about the present, so it searches the newer articles if W/data has some.
INDEX_OF = {"freshqa": "fresh"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


def open_engine(context: RunContext) -> RolloutEngine:
    """Return the engine of an evaluation: its index, and the temperature of its sampled episodes."""
    return context.engine(context.cfg.evaluate.index, context.cfg.evaluate.temperature)


def run(
    context: RunContext,
    policy: str,
    engine: RolloutEngine,
    params: Params | None = None,
    reuse: bool = False,
    name: str = "",
) -> dict[str, JsonObject]:
    """Evaluate one policy, write rows and scores, and return {suite: summary}.

    Episodes are greedy; with `cfg.evaluate.samples` each suite is also sampled.

    The suites are 'ramp_1', .. (by number of masks), 'qa', 'hotpotqa' and so on. policy: a key of STAGES. params: its
    parameters; by default those of the stage's last checkpoint. engine: that of `open_engine`; it searches the index of
    all suites except those of INDEX_OF. 'few_shot' has longer prompts and makes an engine of its own. reuse: return the
    scores of a finished evaluation of the same weights, tasks and settings, if there is one. A killed evaluation is
    resumed in any case, unless params is given. name: folder in W/evaluate, '' for the policy's own; a finished
    evaluation of that name with the same identity is read, and any other one is refused.
    Raises ValueError for an unknown policy or if there is nothing to evaluate, for a name that is taken, or for sampled
    episodes by an engine of another temperature than `cfg.evaluate.temperature`; FileNotFoundError for a stage without
    a checkpoint.
    """
    if policy not in STAGES:
        raise ValueError(f"policy={policy!r} is none of {tuple(STAGES)}")
    check_name(name)
    _check_temperature(context.cfg, engine)
    suites = suites_of(context)
    if policy == "few_shot":
        context, suites = few_shot.extend(context, suites)
    suites, left_out = _fitting(context, suites)
    folder = context.workdir / "evaluate" / (name or policy)
    rows: list[runner.Row] = []
    sampled: list[runner.Row] = []
    scores: dict[str, JsonObject] = {}
    identity = _identity(context, policy, suites) if params is None else None
    if name and identity is not None:
        identity |= {"policy": policy}  # the folder does not say it
    if (reuse or name) and (already := EvaluatedSuites(folder, identity, keep=bool(name)).finished()):
        print(f"evaluate: {folder} has the scores of {policy} already", file=sys.stderr, flush=True)
        return already
    if policy == "few_shot":
        engine = open_engine(context)
    if params is None:
        params = parameters(context, policy)
    params = context.policy.decode_copy()(params)
    forced: Callable[[Task], str] | None = runner.one_search_query if policy in FORCED else None
    with (
        workdir_lock.locked(folder),
        progress.progress_bar(sum(map(len, suites.values())), f"evaluate {name or policy}") as bar,
        jax.set_mesh(context.mesh),
    ):
        done, kept = 0, EvaluatedSuites(folder, identity, keep=bool(name))
        for suite, tasks in suites.items():
            play = functools.partial(_play, context, engine, params, kept, suite, tasks, forced)
            found = play(0)
            scores[suite] = runner.summarise(found) | {"left_out": left_out[suite]}
            rows += found
            if samples := context.cfg.evaluate.samples:
                found = play(samples)
                scores[suite]["sampled"] = summarise_samples(found, samples, context.cfg.evaluate.temperature)
                sampled += found
            done += len(tasks)
            bar(done)
        kept.finish(rows, scores, sampled)
    return scores


def _check_temperature(cfg: ConfigDict, engine: RolloutEngine) -> None:
    """Raise ValueError unless the engine samples at the temperature that identity and scores name."""
    if not cfg.evaluate.samples:
        return
    own = engine.cfg.sampling.temperature
    if own != cfg.evaluate.temperature:
        raise ValueError(
            f"the engine samples at a temperature of {own:g} and not at evaluate.temperature="
            f"{cfg.evaluate.temperature:g}; take the one of evaluation.open_engine"
        )


def _play(
    context: RunContext,
    engine: RolloutEngine,
    params: Params,
    kept: EvaluatedSuites,
    suite: str,
    tasks: list[Task],
    forced: Callable[[Task], str] | None,
    samples: int,
) -> list[runner.Row]:
    """Return the rows of a suite: greedy ones for 0 samples, else sampled ones. They are read if they were kept."""
    part = f"{suite}.sampled" if samples else suite
    if (found := kept.rows(part)) is not None:
        return found
    own, usual = INDEX_OF.get(suite), engine.searcher
    try:
        engine.searcher = context.searcher(own) if own and context.has_index(own) else usual
        found = runner.evaluate(
            engine,
            params,
            tasks,
            forced_search=forced,
            seed=context.cfg.seed,
            samples=samples,
            metric=custom_benchmark.metric_of(context, suite),
        )
    finally:
        engine.searcher = usual
    kept.add(part, found)
    return found


def _identity(context: RunContext, policy: str, suites: dict[str, list[Task]]) -> JsonObject:
    """Return what decides the rows of a policy.

    These are its weights, the tasks with their prompts and answers, what is searched, and the settings of an episode.
    """
    cfg, manifest = context.cfg, context.workdir / "data" / "manifest.json"
    optional: JsonObject = {}
    if cfg.evaluate.samples:
        optional["samples"] = {"samples": cfg.evaluate.samples, "temperature": cfg.evaluate.temperature}
    if CUSTOM in suites:
        optional["metric"] = {"metric": cfg.benchmarks.metric, "rules": cfg.benchmarks.rules}
    digest = hashlib.sha256()
    for task in (task for name in suites for task in suites[name]):
        digest.update(f"{task.id} {list(task.prompt)} {task.answers} {task.reference}\n".encode())
    return {
        "weights": _weights(context, STAGES[policy]),
        "suites": {name: len(tasks) for name, tasks in suites.items()},
        "tasks": digest.hexdigest(),
        # The manifest lists the checksums of the passages and indices. Data that was written by hand has no manifest.
        "data": hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else "",
        "index": cfg.evaluate.index,
        "model": dataclasses.asdict(context.policy.config),
        "episode": cfg.episode.to_dict(),
        "search": {name: cfg.search[name] for name in ("hits", "exclusion", "url")},
        "sampling": {name: cfg.rollout[name] for name in ("steps", "search_steps", "top_p", "top_k")},
        "seed": cfg.seed,
        **optional,
        **_tools(context),
    }


def _tools(context: RunContext) -> JsonObject:
    """Return the tools of an episode and what identifies their code; {} for the search alone."""
    cfg = context.cfg
    if not any(cfg.tools.values()):
        return {}
    return {"tools": cfg.tools.to_dict(), "code": context.searcher(cfg.evaluate.index).fingerprint}


def _weights(context: RunContext, stage: str | None) -> JsonObject:
    """Return what identifies the weights of a policy: the checksums of a checkpoint, or the published files."""
    folder = context.workdir / stage if stage else Path(context.cfg.start) if context.cfg.start else None
    # An untrained policy may have adapters from a PEFT folder.
    adapters = _published_files(context.cfg.adapters) if stage is None else {}
    if folder is None:
        return {"pretrained": _published_files(context.cfg.pretrained), "adapters": adapters}
    checkpoints = Checkpointer(folder / "checkpoints", read_only=True)
    step = checkpoints.latest()
    found = {"stage": str(folder), "step": step, "sha256": checkpoints.fingerprint(step) if step is not None else ""}
    checkpoints.close()
    return found | {"adapters": adapters}


def _published_files(folder: str) -> dict[str, list[int]]:
    """Return {file: [size, modification time]} of the weight files in a published folder; {} for ''."""
    files = sorted(Path(folder).glob("*.safetensors")) if folder else []
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _fitting(context: RunContext, suites: dict[str, list[Task]]) -> tuple[dict[str, list[Task]], dict[str, int]]:
    """Return the suites without the tasks whose prompts leave no room for an episode, and their number in each suite.

    Raises ValueError if there is no suite, or if no task of a suite is left.
    """
    if not suites:
        raise ValueError(
            f"nothing to evaluate: evaluate.episodes and evaluate.benchmarks ask for nothing of the split "
            f"{context.cfg.evaluate.split!r} that {context.workdir / 'data'} holds"
        )
    kept, left_out = {}, {}
    for name, tasks in suites.items():
        kept[name], left_out[name] = context.fitting(tasks)
        if not kept[name]:
            raise ValueError(
                f"none of the {len(tasks)} tasks of {name} has a prompt below episode.total_tokens="
                f"{context.cfg.episode.total_tokens}; raise it, or ask for no episodes of {name}"
            )
        if left_out[name]:
            print(
                f"evaluate: {left_out[name]} of {len(tasks)} tasks of {name} are left out: their prompts leave an "
                f"episode of episode.total_tokens={context.cfg.episode.total_tokens} no room",
                file=sys.stderr,
            )
    return kept, left_out


def suites_of(context: RunContext) -> dict[str, list[Task]]:
    """Return the tasks of each suite that is asked for and in W/data.

    Benchmarks come last, in the paper's order, and after them the one of `cfg.benchmarks.custom`.
    """
    wanted = context.cfg.evaluate
    suites = {
        name: context.tasks(wanted.split, name, count)
        for name, count in wanted.episodes.items()
        if count and name != QUESTIONS
    }
    if wanted.episodes.get(QUESTIONS) and context.has_questions(wanted.split):
        suites[QUESTIONS] = context.tasks(wanted.split, QUESTIONS, wanted.episodes[QUESTIONS])
    held = context.benchmarks(wanted.split)
    for name in BENCHMARKS:
        if wanted.benchmarks[name] and name in held:
            suites[name] = context.tasks(wanted.split, f"qa_{name}", wanted.benchmarks[name])
    if own := custom_benchmark.tasks(context):
        suites[CUSTOM] = own
    return suites


def parameters(context: RunContext, policy: str) -> Params:
    """Return the weights of a policy: the last checkpoint of its stage, or the parameters that training starts from."""
    stage = STAGES[policy]
    return context.parameters(stage) if stage else context.initial()


def check_name(name: str) -> None:
    """Raise ValueError for a name that is no plain folder's or that of a policy; '' is none."""
    if name and (name in STAGES or not _NAME.fullmatch(name)):
        raise ValueError(
            f"--name={name!r}: it has to be a folder's name of letters, digits, '.', '_' and '-', and not that of a "
            f"policy ({', '.join(STAGES)})"
        )


def main(cfg: ConfigDict, workdir: Path, name: str = "") -> None:
    problems = Problems()
    problems.check(validate_settings, cfg)
    problems.check(pretrained_model.settle, cfg, workdir)
    problems.check(check_name, name)
    problems.check(custom_benchmark.check_file, cfg)
    problems.raise_found()
    empty_tasks.leave_out(cfg, workdir)
    context = RunContext(cfg, workdir)
    validate_shapes(cfg, context.mesh)
    scores = run(context, cfg.policy, open_engine(context), name=name)
    asked = {report.task_label(suite): score for suite, score in scores.items() if suite in (*BENCHMARKS, CUSTOM)}
    own = {suite: score for suite, score in scores.items() if suite not in (*BENCHMARKS, CUSTOM)}
    if own:
        print(report.table(own, f"{cfg.policy} by task"))
        print(report.by_kind_table(own, "recall by kind of span"))
    if asked:
        print(report.table(asked, f"{cfg.policy} on benchmarks"))
    if (chosen := scores.get(CUSTOM)) and "score" in chosen:
        print(f"{cfg.benchmarks.custom}: {cfg.benchmarks.metric} {chosen['score']:.3f}")
    if cfg.evaluate.samples:
        print(sampled_table(scores))
    command_summary.evaluated(cfg.policy, workdir, name or cfg.policy, scores)
