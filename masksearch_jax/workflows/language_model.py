"""A published language model learns to search: the stages of the quickstart, with more comparisons in the report.

Besides the table of policies, W/report.json has the scores of two rules without understanding on the same tasks
(teachers/copy_rule.py), and the difference of each pair of policies, paired by task, on RAMP and on each benchmark.
Stages that W already holds are reused, so a killed run can resume. Runs with several seeds go to W/seed_<s>, one
workdir each; masksearch_jax.report merges them.
"""

import itertools
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.data.records import masks_of
from masksearch_jax.evals import report, runner
from masksearch_jax.runtime.json_files import write_json
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.teachers import copy_rule
from masksearch_jax.text import prompt
from masksearch_jax.workflows import evaluation, quickstart
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.stage_clock import Clock

# Scores whose differences are reported.
_COMPARED = ("recall", "em", "f1")


def run(cfg: ConfigDict, workdir: Path) -> JsonObject:
    """Run what `cfg.policies` asks for, and return the content of W/report.json.

    Raises FileNotFoundError if the published model is missing, ValueError for bad settings.
    """
    content = quickstart.run(cfg, workdir)
    context, clock = RunContext(cfg, workdir), Clock(workdir)
    with clock("rules"):
        content["rules"] = rules(context)
    content["differences"] = differences(workdir / "evaluate", list(cfg.policies))
    content["stage_seconds"] = clock.seconds
    write_json(workdir / "report.json", content)
    print_tables(content)
    return content


def rules(context: RunContext) -> dict[str, dict[str, float | int]]:
    """Return the scores of the rules of teachers/copy_rule.py on the RAMP suites that the policies are scored on.

    Each suite has found, recall, their standard errors, and the number of tasks. The rules search the same index as the
    policies, and see as many hits, cut to the same length.
    """
    cfg, found = context.cfg, {}

    def show(hits: Json) -> str:
        return context.tokenizer.decode(prompt.observation(hits, context.tokenizer, cfg.episode.observation_tokens))

    for name, tasks in evaluation.suites_of(context).items():
        if not masks_of(name):
            continue
        tasks, _ = context.fitting(tasks)
        read = copy_rule.measure(tasks, context.searcher(cfg.evaluate.index), cfg.search.hits, show)
        scores = {score: [getattr(one, score) for one in read] for score in ("found", "recall")}
        found[name] = {
            **{score: sum(values) / len(values) for score, values in scores.items()},
            **{f"{score}_se": runner.standard_error(values) for score, values in scores.items()},
            "tasks": len(read),
        }
    return found


def differences(folder: Path, policies: list[str]) -> dict[str, JsonObject]:
    """Return {suite: {'<later> - <earlier>': {score: {difference, se, episodes}}}} of each pair with the same tasks.

    folder: W/evaluate. The pairs are of `policies`, in their order.
    """
    rows = {policy: runner.read_rows(folder / policy / "rows.jsonl") for policy in policies}
    suites: dict[str, dict[str, list[runner.Row]]] = {}
    for policy, own in rows.items():
        for row in own:
            suites.setdefault(row.suite, {}).setdefault(policy, []).append(row)
    found: dict[str, JsonObject] = {}
    for suite, by_policy in suites.items():
        found[suite] = {
            f"{later} - {earlier}": {
                score: runner.compare(by_policy[earlier], by_policy[later], score) for score in _COMPARED
            }
            for earlier, later in itertools.combinations(by_policy, 2)
            if {row.task_id for row in by_policy[earlier]} == {row.task_id for row in by_policy[later]}
        }
    return found


def print_tables(content: JsonObject) -> None:
    """Print the scores of the rules, and the differences in recall."""
    for suite, rule in content["rules"].items():
        print(
            f"\n{report.task_label(suite)}, {rule['tasks']} tasks: a title query finds the answer of "
            f"{rule['found']:.3f} ±{rule['found_se'] or 0:.3f}; the name after the longest match has recall "
            f"{rule['recall']:.3f} ±{rule['recall_se'] or 0:.3f}"
        )
    for suite, pairs in content["differences"].items():
        lines = [["recall, paired by task", "difference", "±", "tasks"]]
        for pair, scores in pairs.items():
            one = scores["recall"]
            lines.append([pair, f"{one['difference']:+.3f}", f"{one['se'] or 0:.3f}", str(one["episodes"])])
        if len(lines) > 1:
            print(report.aligned(lines, f"\ndifferences on {report.task_label(suite)}"))
