"""Score a policy on held-out RAMP tasks (by number of masks), on held-out questions and on benchmarks.

Writes W/evaluate/<policy>/rows.jsonl (every episode with its turns) and scores.json, and prints tables. The benchmarks
are those whose questions W/data holds (docs/guides/benchmarks.md). They search the whole index with nothing excluded.
An evaluation that was killed resumes with the suite that it was scoring.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from masksearch_jax.data.curriculum import QUESTIONS
from masksearch_jax.data.records import Task
from masksearch_jax.evals import report, runner
from masksearch_jax.evals.benchmarks import BENCHMARKS
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import metrics, workdir_lock
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.types import JsonObject, Params
from masksearch_jax.workflows import few_shot
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.evaluated_suites import EvaluatedSuites
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


def run(
    context: RunContext, policy: str, engine: RolloutEngine, params: Params | None = None, reuse: bool = False
) -> dict[str, JsonObject]:
    """Evaluate one policy greedily, write rows and scores, and return {suite: summary}.

    The suites are 'ramp_1', .. (by number of masks), 'qa', 'hotpotqa' and so on. policy: a key of STAGES. params: its
    parameters; by default those of the stage's last checkpoint. engine: searches the index of all suites except those
    of INDEX_OF. 'few_shot' has longer prompts and makes an engine of its own. reuse: return the scores of a finished
    evaluation of the same weights, tasks and settings, if there is one. A killed evaluation is resumed in any case,
    unless params is given.
    Raises ValueError for an unknown policy or if there is nothing to evaluate, FileNotFoundError for a stage without a
    checkpoint.
    """
    if policy not in STAGES:
        raise ValueError(f"policy={policy!r} is none of {tuple(STAGES)}")
    suites = suites_of(context)
    if policy == "few_shot":
        context, suites = few_shot.extend(context, suites)
    suites, left_out = _fitting(context, suites)
    folder = context.workdir / "evaluate" / policy
    rows: list[runner.Row] = []
    scores: dict[str, JsonObject] = {}
    identity = _identity(context, policy, suites) if params is None else None
    if reuse and (already := EvaluatedSuites(folder, identity).finished()):
        print(f"evaluate: {folder} has the scores of {policy} already", file=sys.stderr, flush=True)
        return already
    if policy == "few_shot":
        engine = context.engine(context.cfg.evaluate.index)
    if params is None:
        params = parameters(context, policy)
    params = context.policy.decode_copy()(params)
    forced: Callable[[Task], str] | None = runner.one_search_query if policy in FORCED else None
    usual = engine.searcher
    with (
        workdir_lock.locked(folder),
        metrics.progress_bar(sum(map(len, suites.values())), f"evaluate {policy}") as bar,
        jax.set_mesh(context.mesh),
    ):
        done, kept = 0, EvaluatedSuites(folder, identity)
        for name, tasks in suites.items():
            found = kept.rows(name)
            if found is None:
                own = INDEX_OF.get(name)
                try:
                    engine.searcher = context.searcher(own) if own and context.has_index(own) else usual
                    found = runner.evaluate(engine, params, tasks, forced_search=forced, seed=context.cfg.seed)
                finally:
                    engine.searcher = usual
                kept.add(name, found)
            done += len(tasks)
            bar(done)
            rows += found
            scores[name] = runner.summarise(found) | {"left_out": left_out[name]}
        kept.finish(rows, scores)
    return scores


def _identity(context: RunContext, policy: str, suites: dict[str, list[Task]]) -> JsonObject:
    """Return what decides the rows of a policy.

    These are its weights, the tasks with their prompts and answers, what is searched, and the settings of an episode.
    """
    cfg, manifest = context.cfg, context.workdir / "data" / "manifest.json"
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
    """Return the tasks of each suite that is asked for and in W/data; benchmarks come last, in the paper's order."""
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
    return suites


def parameters(context: RunContext, policy: str) -> Params:
    """Return the weights of a policy: the last checkpoint of its stage, or the parameters that training starts from."""
    stage = STAGES[policy]
    return context.parameters(stage) if stage else context.initial()


def main(cfg: ConfigDict, workdir: Path) -> None:
    validate_settings(cfg)
    context = RunContext(cfg, workdir)
    validate_shapes(cfg, context.mesh)
    scores = run(context, cfg.policy, context.engine(cfg.evaluate.index))
    asked = {BENCHMARKS[name].title: score for name, score in scores.items() if name in BENCHMARKS}
    own = {name: score for name, score in scores.items() if name not in BENCHMARKS}
    if own:
        print(report.table(own, f"{cfg.policy} by task"))
        print(report.by_kind_table(own, "recall by kind of span"))
    if asked:
        print(report.table(asked, f"{cfg.policy} on benchmarks"))
