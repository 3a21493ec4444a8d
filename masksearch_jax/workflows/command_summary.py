"""What a command says when it is done: what it made, where, the scores, and the next command.

Enters: what the command made. Leaves: a few lines on stderr; stdout is for results. A command that another command of
ours started says nothing, since what comes next is then known.
"""

import runpy
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.evals.benchmarks import BENCHMARKS
from masksearch_jax.evals.report import task_label
from masksearch_jax.runtime import child_process, progress, stage_view
from masksearch_jax.runtime.config_files import find_config
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.metrics import read_rows
from masksearch_jax.runtime.types import Json, JsonObject

_LABELS = ("made", "where", "scores", "next")


def show(command: str, made: str, where: Sequence[Path | str], scores: Sequence[str], then: Sequence[str]) -> None:
    """Print the summary of a command. where: files and folders. then: the commands that may come next."""
    if child_process.is_child():
        return
    lines = [f"{command}: done"]
    for label, values in zip(_LABELS, ([made], where, scores, then), strict=True):
        for number, value in enumerate(values):
            lines.append(f"  {label if not number else '':<7}{value}")
    print(progress.printable("\n".join(lines)), file=sys.stderr, flush=True)


# --- one for each command --------------------------------------------------------------------------------------------


def prepared(cfg: ConfigDict, workdir: Path) -> None:
    """cfg: the config of the command, which may be one that trains."""
    report = read_json_object(workdir / "data" / "report.json", "prepare the data again")
    tasks = {name: sum(counts) for name, counts in report.get("examples", {}).get("train", {}).items()}
    passages = sum(report.get("passages", {}).values())
    seconds = report.get("seconds", {}).get("all", 0)
    show(
        "prepare",
        f"{report.get('articles', 0):,} articles, {passages:,} passages, training tasks {_counts(tasks)} "
        f"in {progress.duration(seconds)}",
        [f"{workdir / 'data'} (more numbers: {workdir / 'data' / 'report.json'})"],
        [],
        [again("synthesize", "" if "stage" in cfg or "workflow" in cfg else "configs/synthesize.py", workdir)],
    )


def synthesized(cfg: ConfigDict, workdir: Path, manifest: Mapping[str, Json]) -> None:
    written = {name: one["written"] for name, one in manifest["tasks"].items() if one.get("written")}
    tried = [outcomes for one in manifest["tasks"].values() if (outcomes := one.get("outcomes"))]
    accepted, every = sum(one.get("accepted", 0) for one in tried), sum(sum(one.values()) for one in tried)
    scores = [f"{accepted / every:.0%} of {every:,} trajectories accepted"] if every else []
    for name, one in manifest["tasks"].items():
        if rates := one.get("top3_contains_answer"):
            told = ", ".join(f"{style} {found['rate']:.2f}" for style, found in rates.items())
            scores.append(f"{task_label(name)}: top three passages hold the answer, by query style: {told}")
    show(
        "synthesize",
        f"demonstrations {_counts(written)} in {progress.duration(manifest.get('seconds', 0))}",
        [f"{workdir / 'demonstrations'} (all counts: {workdir / 'demonstrations' / 'manifest.json'})"],
        scores,
        [again("train", "" if "stage" in cfg else "configs/sft.py", workdir)],
    )


def trained(cfg: ConfigDict, workdir: Path, seconds: float) -> None:
    """seconds: wall time of the command."""
    stage, folder = cfg.stage, workdir / cfg.stage
    rows = read_rows(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    steps, validations = list[JsonObject](), list[JsonObject]()
    for row in rows:
        (validations if any(name.startswith("eval/") for name in row) else steps).append(row)
    scores, at = [], "at step" if stage == "sft" else "at iteration"
    if steps:
        told = ", ".join(f"{label} {value}".strip() for label, value in stage_view.numbers(steps[-1]))
        scores.append(f"{at} {steps[-1]['step']}: {told}")
    if validations:
        scores.append(f"validation {at} {validations[-1]['step']}: {stage_view.validation_text(validations[-1])}")
    then = [again("evaluate", "configs/evaluate.py", workdir, f"--config.policy={stage}")]
    if stage == "sft":
        then.append(again("train", "configs/dapo.py", workdir))
    count = cfg[stage].steps if stage == "sft" else cfg[stage].iterations
    unit = "steps of SFT" if stage == "sft" else "iterations of DAPO"
    show(
        "train",
        f"{count:,} {unit}; this start took {progress.duration(seconds)}",
        [f"{folder / 'checkpoints'}", f"{folder / 'metrics.jsonl'}"],
        scores,
        then,
    )


def evaluated(policy: str, workdir: Path, name: str, scores: Mapping[str, JsonObject]) -> None:
    """name: of the folder in W/evaluate. scores: of each suite; 'score' is that of the metric that the user chose."""
    told = []
    for suite, one in scores.items():
        error = f" ±{one['recall_se']:.3f}" if one.get("recall_se") else ""
        title = BENCHMARKS[suite].title if suite in BENCHMARKS else task_label(suite)
        chosen = f"score {one['score']:.3f}, " if "score" in one else ""
        told.append(f"{title}: {chosen}recall {one['recall']:.3f}{error} over {one['episodes']} episodes")
    folder = workdir / "evaluate" / name
    show(
        "evaluate",
        f"{sum(one['episodes'] for one in scores.values()):,} episodes of {policy}",
        [f"{folder / 'rows.jsonl'} (every episode)", f"{folder / 'scores.json'}"],
        told,
        [f"python -m masksearch_jax.report --workdir={shlex.quote(str(workdir))}"],
    )


def ran(workflow: str, workdir: Path, content: Mapping[str, Json]) -> None:
    """content: of W/report.json. Its tables are printed by the workflow itself."""
    seconds = content.get("stage_seconds", {})
    whole = sum(value for value in seconds.values() if isinstance(value, int | float))
    page = workdir / "report.html"
    show(
        "experiment",
        f"the workflow {workflow}" + (f"; its stages took {progress.duration(whole)}" if whole else ""),
        [workdir / "report.json", *([page] if page.exists() else [])],
        [],
        [f"open {page}"] if page.exists() else [f"python -m masksearch_jax.report --workdir={workdir}"],
    )


def converted(source: Path, target: Path) -> None:
    train, quoted = "python -m masksearch_jax.train --config=configs/sft.py", shlex.quote(str(target))
    stage = (target / "checkpoints").is_dir()
    started = f"--config.pretrained={shlex.quote(str(source))} --config.start={quoted}"
    show(
        "convert",
        f"{source} as {'a stage folder' if stage else 'a published folder'}",
        [target],
        [],
        [f"{train} {started if stage else f'--config.pretrained={quoted}'} --workdir=W"],
    )


def reported(path: Path, made: str) -> None:
    show("report", made, [path], [], [f"open {path}"])


# --- the next command ------------------------------------------------------------------------------------------------


def again(command: str, page: str, workdir: Path, *extra: str) -> str:
    """Return a command that goes on with what this one did.

    page: its config; '' takes the config of this command. The argument of this command's config and its overrides are
    repeated as far as that config has them.
    """
    given, overrides = _given(sys.argv[1:])
    name = page or given
    if page:
        get_config, argument = runpy.run_path(find_config(page))["get_config"], given.partition(":")[2]
        try:
            known = get_config(argument)
        except ValueError:  # it has no such variant
            known, argument = get_config(), ""
        name += f":{argument}" if argument else ""
        overrides = [one for one in overrides if _has(known, one.partition("=")[0].removeprefix("--config."))]
    words = ["python", "-m", f"masksearch_jax.{command}", f"--config={name}", *overrides, *extra]
    return " ".join([*map(shlex.quote, words), f"--workdir={shlex.quote(str(workdir))}"])


def _given(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the config and the overrides of a command line."""
    config, overrides, rest = "", [], list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("-"):
            continue
        name = f"--{name.lstrip('-')}"
        if name == "--config" or name.startswith("--config."):
            value = value if equals else rest.pop(0) if rest else ""
            if name == "--config":
                config = value
            else:
                overrides.append(f"{name}={value}")
    return config, overrides


def _has(config: ConfigDict, name: str) -> bool:
    found: Json = config
    for part in name.split("."):
        if not isinstance(found, ConfigDict) or part not in found:
            return False
        found = found[part]
    return True


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
