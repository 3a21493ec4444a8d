"""The quickstart: the whole workflow, from a dump to a table of policies before and after training.

It prepares, synthesizes, trains SFT and DAPO (and, as a control, SFT for as long as DAPO took), evaluates every policy
on the held-out test split and writes W/report.json. Stages that W already holds are reused.
"""

import time
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.data.records import masks_of
from masksearch_jax.evals import report, runner
from masksearch_jax.evals.benchmarks import BENCHMARKS, CUSTOM
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.workflows import evaluation, training
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.settings import OF_SFT
from masksearch_jax.workflows.stage_clock import Clock


def run(cfg: ConfigDict, workdir: Path) -> JsonObject:
    """Run what `cfg.policies` asks for, and return the content of W/report.json. Raises ValueError for bad settings."""
    started = time.perf_counter()
    training.validate_training(cfg, workdir)
    clock = Clock(workdir)
    with clock("prepare"):
        training.ensure_data(cfg, workdir)
    context = RunContext(cfg, workdir)
    sft, wanted = None, cfg.warm_start or not OF_SFT.isdisjoint(cfg.policies)
    if wanted or "few_shot" in cfg.policies:  # the examples of few_shot are demonstrations
        with clock("synthesize"):
            training.ensure_demonstrations(context)
    if wanted:
        with clock("sft"):
            sft = training.train_sft(context)
    if "dapo" in cfg.policies:
        with clock("dapo"):
            training.train_dapo(context, sft if cfg.warm_start else None)
    if "sft_more" in cfg.policies:
        with clock("sft_more"):
            training.train_sft(more_sft(context, clock.seconds), "sft_more", sft)
    del sft
    engine = evaluation.open_engine(context)
    by_policy = {}
    for policy in shown(cfg):
        with clock(f"evaluate/{policy}"):
            by_policy[policy] = evaluation.run(context, policy, engine, reuse=True) if policy in cfg.policies else None
    content = write_report(context, by_policy, clock.seconds, time.perf_counter() - started)
    print_tables(content)
    return content


def shown(cfg: ConfigDict) -> list[str]:
    """Return the policies of a report: all of `report.POLICIES`, and the optional ones that `cfg.policies` names."""
    return [*report.POLICIES, *(policy for policy in report.OPTIONAL_POLICIES if policy in cfg.policies)]


def more_sft(context: RunContext, seconds: dict[str, float]) -> RunContext:
    """Return the context with a stage `sft_more`: SFT on a fresh schedule for as many steps as fit DAPO's wall time."""
    cfg = context.cfg.copy_and_resolve_references()
    # A schedule needs more steps than its warmup, however short DAPO was.
    steps = max(cfg.sft.optimizer.warmup + 1, round(cfg.sft.steps * seconds["dapo"] / seconds["sft"]))
    with cfg.unlocked():
        cfg.sft_more = cfg.sft.copy_and_resolve_references()
    cfg.sft_more.steps = steps
    cfg.sft_more.seed_offset = cfg.sft.seed_offset + 1
    cfg.sft_more.optimizer.total_steps = steps
    # The first phases are done, so this continues in the last one.
    cfg.sft_more.curriculum = cfg.sft.curriculum[-1:]
    return RunContext(cfg, context.workdir)


def write_report(
    context: RunContext, by_policy: dict[str, JsonObject | None], seconds: dict[str, float], wall_seconds: float
) -> JsonObject:
    """Write W/report.json: one-mask scores of each policy at the top level, scores of each ramp_<k> in per_masks."""
    headline = {policy: scores and scores["ramp_1"] for policy, scores in by_policy.items()}
    suites = {suite for scores in by_policy.values() if scores for suite in scores}
    masked = sorted(filter(masks_of, suites))
    per_masks = {name: {p: s and s[name] for p, s in by_policy.items()} for name in masked}
    extra = {
        "qa": {p: s and s.get("qa") for p, s in by_policy.items()},
        "benchmarks": {
            name: {p: s and s[name] for p, s in by_policy.items()} for name in (*BENCHMARKS, CUSTOM) if name in suites
        },
        "gains": gains(context.workdir, [p for p, s in by_policy.items() if s]),
        "stage_seconds": seconds,
        "prepare": read_json_object(context.workdir / "data" / "report.json", "prepare the data again"),
        "demonstrations": _demonstrated(context.workdir),
    }
    return report.write_report(
        context.workdir / "report.json",
        headline,
        per_masks,
        context.cfg.seed,
        wall_seconds,
        context.cfg.to_dict(),
        extra,
    )


def _demonstrated(workdir: Path) -> JsonObject:
    """Return the counts of demonstrations by task; {} if there are none."""
    manifest = workdir / "demonstrations" / "manifest.json"
    if not manifest.exists():
        return {}
    return read_json_object(manifest, "remove its folder and start again", ("tasks",))["tasks"]


def gains(workdir: Path, policies: list[str]) -> JsonObject:
    """Return one-mask recall of DAPO minus that of each other policy, paired by task, with its standard error."""
    if "dapo" not in policies:
        return {}

    def one_mask(policy: str) -> list[runner.Row]:
        rows = runner.read_rows(workdir / "evaluate" / policy / "rows.jsonl")
        return [row for row in rows if row.masks == 1 and row.kind == "ramp"]

    rows = {policy: one_mask(policy) for policy in policies}
    return {p: runner.compare(rows[p], rows["dapo"]) for p in policies if p != "dapo"}


def print_tables(content: JsonObject) -> None:
    asked = content["config"]["policies"]

    def only(scores: JsonObject) -> JsonObject:
        return {policy: summary for policy, summary in scores.items() if policy in asked}

    policies = [policy for policy in (*report.POLICIES, *report.OPTIONAL_POLICIES) if policy in content]
    for name, scores in content["per_masks"].items():
        print(report.table(only(scores), f"\nheld-out RAMP, {report.task_label(name)}"))
    print(report.by_kind_table(only({p: content[p] for p in policies}), "\nrecall by kind of span, 1 mask"))
    if any(content["qa"].values()):
        print(report.table(only(content["qa"]), "\nquestions over two articles (never trained on)"))
    if content["benchmarks"]:
        by_policy = {
            policy: {report.task_label(name): scores[policy] for name, scores in content["benchmarks"].items()}
            for policy in policies
            if content[policy]
        }
        print(report.benchmark_table(by_policy, "\nbenchmarks, recall x 100"))
    for policy, gain in content["gains"].items():
        print(f"DAPO minus {policy}: recall {gain['difference']:+.3f} ±{gain['se'] or 0:.3f} (paired, one mask)")
    stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in content["stage_seconds"].items())
    print(f"wall time {content['wall_seconds']:.0f} s: {stages}")
