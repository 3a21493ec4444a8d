"""Entry: scores a checkpoint on held-out RAMP, per number of masks, on held-out questions, and on benchmarks.

    python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo

Writes W/evaluate/<policy>/rows.jsonl (every episode, with its turns) and scores.json, and prints tables. Benchmarks are
those whose questions W/data holds (docs/benchmarks.md); they search the whole index, nothing excluded. An evaluation
that was killed and is started again goes on with the suite that it was at.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from masksearch_jax import entry, metrics
from masksearch_jax import job as job_lib
from masksearch_jax.checkpoints import Checkpointer
from masksearch_jax.data.curriculum import level_of
from masksearch_jax.data.records import Task
from masksearch_jax.evals import report, runner
from masksearch_jax.evals.benchmarks import BENCHMARKS
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import workdir_lock
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.workflows import few_shot
from masksearch_jax.workflows.evaluated_suites import EvaluatedSuites
from masksearch_jax.workflows.settings import validate_settings, validate_shapes

# Which stage's weights a policy uses; the untrained model has none.
STAGES = {
    "untrained": None,
    "few_shot": None,
    "rag": None,
    "one_search": "sft",
    "sft": "sft",
    "sft_more": "sft_more",
    "dapo": "dapo",
}
# One search is written for these, and they answer: retrieval-augmented generation without agency.
FORCED = ("rag", "one_search")
# FreshQA asks about now: it searches the newer articles where prepare was given some.
INDEX_OF = {"freshqa": "fresh"}


def run(
    job: job_lib.Job, policy: str, engine: RolloutEngine, params: Any = None, reuse: bool = False
) -> dict[str, dict[str, Any]]:
    """Evaluates one policy greedily; returns {'1': summary, .., 'qa': summary, 'hotpotqa': summary, ..} and writes
    rows and scores.

    policy: a key of STAGES. params: its parameters; by default those of the stage's last checkpoint. engine: over the
    index that all suites search but those of INDEX_OF; 'few_shot', whose prompts are longer, takes one of its own.
    reuse: read the scores of an evaluation of the same weights, tasks and settings that came to its end. One that was
    killed goes on in any case, where params is not given.
    Raises ValueError for an unknown policy or nothing to evaluate, FileNotFoundError for a stage without a checkpoint.
    """
    if policy not in STAGES:
        raise ValueError(f"policy={policy!r} is none of {tuple(STAGES)}")
    suites = suites_of(job)
    if policy == "few_shot":
        job, suites = few_shot.extend(job, suites)
    suites, left_out = _fitting(job, suites)
    folder, rows, scores = job.workdir / "evaluate" / policy, [], {}
    identity = _identity(job, policy, suites) if params is None else None
    if reuse and (found := EvaluatedSuites(folder, identity).finished()):
        print(f"evaluate: {folder} has the scores of {policy} already", file=sys.stderr, flush=True)
        return found
    if policy == "few_shot":
        engine = job.engine(job.cfg.evaluate.index)
    if params is None:
        params = parameters(job, policy)
    params = state_lib.decode_copy(job.model_cfg, job.mesh)(params)
    forced: Callable[[Task], str] | None = runner.one_search_query if policy in FORCED else None
    usual = engine.searcher
    with (
        workdir_lock.locked(folder),
        metrics.progress_bar(sum(map(len, suites.values())), f"evaluate {policy}") as bar,
        jax.set_mesh(job.mesh),
    ):
        done, kept = 0, EvaluatedSuites(folder, identity)
        for name, tasks in suites.items():
            found = kept.rows(name)
            if found is None:
                own = INDEX_OF.get(name)
                try:
                    engine.searcher = job.searcher(own) if own and job.has_index(own) else usual
                    found = runner.evaluate(engine, params, tasks, forced_search=forced, seed=job.cfg.seed)
                finally:
                    engine.searcher = usual
                kept.add(name, found)
            done += len(tasks)
            bar(done)
            rows += found
            scores[name] = runner.summarise(found) | {"left_out": left_out[name]}
        kept.finish(rows, scores)
    return scores


def _identity(job: job_lib.Job, policy: str, suites: dict[str, list[Task]]) -> dict[str, Any]:
    """What decides the rows of a policy: its weights, the tasks with their prompts and answers, what is searched, and
    the settings of an episode."""
    cfg, manifest = job.cfg, job.workdir / "data" / "manifest.json"
    digest = hashlib.sha256()
    for task in (task for name in suites for task in suites[name]):
        digest.update(f"{task.id} {list(task.prompt)} {task.answers} {task.reference}\n".encode())
    return {
        "weights": _weights(job, STAGES[policy]),
        "suites": {name: len(tasks) for name, tasks in suites.items()},
        "tasks": digest.hexdigest(),
        # Lists the checksums of the passages and indices. Data that was written by hand has none.
        "data": hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else "",
        "index": cfg.evaluate.index,
        "model": dataclasses.asdict(job.model_cfg),
        "episode": cfg.episode.to_dict(),
        "search": {name: cfg.search[name] for name in ("hits", "exclusion", "url")},
        "sampling": {name: cfg.rollout[name] for name in ("steps", "search_ticks", "top_p", "top_k")},
        "seed": cfg.seed,
    }


def _weights(job: job_lib.Job, stage: str | None) -> dict[str, Any]:
    """Names the weights of a policy: by the checksums of a checkpoint, or by the published files."""
    folder = job.workdir / stage if stage else Path(job.cfg.start) if job.cfg.start else None
    # A policy that nothing has trained may have adapters of a PEFT folder over its base.
    adapters = _published_files(job.cfg.adapters) if stage is None else {}
    if folder is None:
        return {"pretrained": _published_files(job.cfg.pretrained), "adapters": adapters}
    checkpoints = Checkpointer(folder / "checkpoints", read_only=True)
    step = checkpoints.latest()
    found = {"stage": str(folder), "step": step, "sha256": checkpoints.fingerprint(step) if step is not None else ""}
    checkpoints.close()
    return found | {"adapters": adapters}


def _published_files(folder: str) -> dict[str, list[int]]:
    """Size and time of each file of weights in a published folder; {} for ''."""
    files = sorted(Path(folder).glob("*.safetensors")) if folder else []
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _fitting(job: job_lib.Job, suites: dict[str, list[Task]]) -> tuple[dict[str, list[Task]], dict[str, int]]:
    """The suites without tasks whose prompts leave an episode no room, and how many of each that are.

    Raises ValueError where nothing, or nothing of a suite, is left."""
    if not suites:
        raise ValueError(
            f"nothing to evaluate: evaluate.episodes and evaluate.benchmarks ask for nothing of the split "
            f"{job.cfg.evaluate.split!r} that {job.workdir / 'data'} holds"
        )
    kept, left_out = {}, {}
    for name, tasks in suites.items():
        kept[name], left_out[name] = job.fitting(tasks)
        if not kept[name]:
            raise ValueError(
                f"none of the {len(tasks)} tasks of {name} has a prompt below episode.total_tokens="
                f"{job.cfg.episode.total_tokens}; raise it, or ask for no episodes of {name}"
            )
        if left_out[name]:
            print(
                f"evaluate: {left_out[name]} of {len(tasks)} tasks of {name} are left out: their prompts leave an "
                f"episode of episode.total_tokens={job.cfg.episode.total_tokens} no room",
                file=sys.stderr,
            )
    return kept, left_out


def suites_of(job: job_lib.Job) -> dict[str, list[Task]]:
    """The tasks of each suite that the settings ask for and W/data holds, benchmarks last, in the paper's order."""
    wanted = job.cfg.evaluate
    suites = {
        name: job.tasks(wanted.split, int(name) if name.isdigit() else level_of(name), count)
        for name, count in wanted.episodes.items()
        if count and name != "qa"
    }
    if wanted.episodes.get("qa") and job.has_questions(wanted.split):
        suites["qa"] = job.tasks(wanted.split, 0, wanted.episodes.qa)
    held = job.benchmarks(wanted.split)
    for name in BENCHMARKS:
        if wanted.benchmarks[name] and name in held:
            suites[name] = job.tasks(wanted.split, f"qa_{name}", wanted.benchmarks[name])
    return suites


def parameters(job: job_lib.Job, policy: str) -> Any:
    """The weights of a policy: the last checkpoint of its stage, or what training starts from."""
    stage = STAGES[policy]
    return job.parameters(stage) if stage else job.initial()


def main(cfg: Any, workdir: Path) -> None:
    validate_settings(cfg)
    job = job_lib.Job(cfg, workdir)
    validate_shapes(cfg, job.mesh)
    scores = run(job, cfg.policy, job.engine(cfg.evaluate.index))
    asked = {BENCHMARKS[name].title: score for name, score in scores.items() if name in BENCHMARKS}
    own = {name: score for name, score in scores.items() if name not in BENCHMARKS}
    if own:
        print(report.table(own, f"{cfg.policy} by number of masks"))
        print(report.by_kind_table(own, "recall by kind of span"))
    if asked:
        print(report.table(asked, f"{cfg.policy} on benchmarks"))


if __name__ == "__main__":
    entry.start(main, "configs/evaluate.py")
