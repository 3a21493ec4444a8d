"""Entry: scores a checkpoint on held-out RAMP, per number of masks, and on held-out questions.

    python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo

Writes W/evaluate/<policy>/rows.jsonl (every episode, with its turns) and scores.json, and prints a table.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from masksearch_jax import entry, metrics
from masksearch_jax import job as job_lib
from masksearch_jax.data.records import Task
from masksearch_jax.evals import report, runner
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.trainers import state as state_lib

# Which stage's weights a policy uses; the untrained model has none.
STAGES = {"untrained": None, "one_search": "sft", "sft": "sft", "sft_more": "sft_more", "dapo": "dapo"}


def run(job: job_lib.Job, policy: str, engine: RolloutEngine, params: Any = None) -> dict[str, dict[str, Any]]:
    """Evaluates one policy greedily; returns {'1': summary, .., 'qa': summary} and writes rows and scores.

    policy: a key of STAGES. params: its parameters; by default those of the stage's last checkpoint.
    Raises ValueError for an unknown policy, FileNotFoundError for a stage without a checkpoint.
    """
    if policy not in STAGES:
        raise ValueError(f"policy={policy!r} is none of {tuple(STAGES)}")
    if params is None:
        params = parameters(job, policy)
    params = state_lib.decode_copy(job.model_cfg, job.mesh)(params)
    forced: Callable[[Task], str] | None = runner.one_search_query if policy == "one_search" else None
    wanted = job.cfg.evaluate
    suites = {
        name: job.tasks(wanted.split, int(name), count)
        for name, count in wanted.episodes.items()
        if count and name != "qa"
    }
    if wanted.episodes.get("qa") and job.has_questions(wanted.split):
        suites["qa"] = job.tasks(wanted.split, 0, wanted.episodes.qa)
    rows, scores = [], {}
    with metrics.progress_bar(sum(map(len, suites.values())), f"evaluate {policy}") as bar, jax.set_mesh(job.mesh):
        done = 0
        for name, tasks in suites.items():
            found = runner.evaluate(engine, params, tasks, forced_search=forced, seed=job.cfg.seed)
            done += len(tasks)
            bar(done)
            rows += found
            scores[name] = runner.summarise(found)
    folder = job.workdir / "evaluate" / policy
    runner.write_rows(folder / "rows.jsonl", rows)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1))
    return scores


def parameters(job: job_lib.Job, policy: str) -> Any:
    """The weights of a policy: the last checkpoint of its stage, or what training starts from."""
    stage = STAGES[policy]
    return job.parameters(stage) if stage else job.initial()


def main(cfg: Any, workdir: Path) -> None:
    job = job_lib.Job(cfg, workdir)
    scores = run(job, cfg.policy, job.engine(cfg.evaluate.index))
    print(report.table(scores, f"{cfg.policy} by number of masks"))
    print(report.by_kind_table(scores, "recall by kind of span"))


if __name__ == "__main__":
    entry.start(main, "configs/evaluate.py")
