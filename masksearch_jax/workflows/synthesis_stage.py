"""Write demonstrations (accepted trajectories) for SFT (masksearch_jax.synthesize).

Enters: W/data (tasks, and the index for training).
Leaves: W/demonstrations/ramp_<k>.array_record (and qa.array_record if questions are asked for) and, written last,
manifest.json. It holds the counts of accepted and rejected trajectories and, for the rule-based teacher, how often its
top passages hold the answer.
The teacher is one of three: rules that know the answers; agents over a language model; or a file of official
trajectories. The agents keep a journal of every task in W/demonstrations/agents, from which a killed run resumes, and
also write their accepted trajectories as official chatml records.
"""

import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from ml_collections import ConfigDict

from masksearch_jax.agents import masksearch_format, official_import, solver, synthesis, transcript
from masksearch_jax.agents.journal import Journal
from masksearch_jax.data import records
from masksearch_jax.data.curriculum import QUESTIONS, TOOL_WARMUP, task_folder
from masksearch_jax.llm.client import Client
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.runtime import json_files, progress, settings_history, workdir_lock
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.teachers import mask_teacher, query_writers, question_teacher, tool_warmup_teacher
from masksearch_jax.text import chat_template, instructions
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.text.tool_names import tool_names
from masksearch_jax.workflows import command_summary, empty_tasks, llm_connection, pretrained_model
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.problems import Problems
from masksearch_jax.workflows.settings import validate_settings

Item = TypeVar("Item")

# Tasks that are searched together: enough for batched search, few enough to show progress.
_CHUNK = 512
# Teacher -> the settings of `synthesize` that it alone reads.
TEACHERS = {
    "rules": (
        "styles", "retry", "attempts", "evidence", "evidence_match", "association_tasks", "probe_tasks", "wording",
        "speech",
    ),
    "agents": ("agents",),
    "official": ("official",),
}  # fmt: skip


# The settings of `search` that decide what a search finds and shows. The server and its time limits do not.
SEARCH = ("hits", "exclusion")


def deciding(recorded: JsonObject) -> JsonObject:
    """Return the settings of a manifest that decide the demonstrations, as JSON data. Reuse compares these."""
    found = json.loads(json.dumps(recorded))
    found["search"] = {name: value for name, value in found.get("search", {}).items() if name in SEARCH}
    found.get("episode", {}).pop("deadline_steps", None)  # counts the steps of a rollout
    found.get("synthesize", {}).pop("probe_tasks", None)  # measures the index
    return found


def settings(cfg: ConfigDict) -> JsonObject:
    """Return all settings that shape the demonstrations, as JSON data for the manifest.

    Reuse compares only the part that `deciding` returns.
    """
    wanted, model = cfg.synthesize.to_dict(), {}
    del wanted["agents"]["workers"]
    if wanted["teacher"] == "agents":
        model = {"llm": llm_connection.deciding(cfg.llm)}
    read = TEACHERS[wanted["teacher"]]
    for name in {name for names in TEACHERS.values() for name in names if name not in read}:
        del wanted[name]
    if wanted.get("wording") == "words":  # which reads no setting of speech
        del wanted["speech"]
    return {
        "seed": cfg.seed,
        "synthesize": wanted,
        "search": cfg.search.to_dict(),
        "episode": cfg.episode.to_dict(),
        **({"tools": cfg.tools.to_dict()} if any(cfg.tools.values()) else {}),
        **model,
    }


def check_made(cfg: ConfigDict, workdir: Path) -> None:
    """Raise ValueError that names what differs if the demonstrations of `workdir` were made with other settings."""
    target = workdir / "demonstrations" / "manifest.json"
    again = f"remove {target.parent}, and the same line makes it again"
    made = deciding(read_json_object(target, again, required=("settings",))["settings"])
    wanted = deciding(settings(cfg))
    if made == wanted:
        return
    there, here = (dict(settings_history.leaves(value)) for value in (made, wanted))
    different = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    raise ValueError(
        f"{target.parent} was made with other settings: "
        + "; ".join(f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in different)
        + "; give the settings that it has, take another --workdir, or remove the folder: "
        "`python -m masksearch_jax.synthesize` with this --config and its overrides makes it again"
    )


def validate_synthesis(cfg: ConfigDict) -> None:
    """Raise ValueError or FileNotFoundError for settings that cannot work, before anything is opened."""
    wanted = cfg.synthesize
    if wanted.teacher not in TEACHERS:
        raise ValueError(f"synthesize.teacher={wanted.teacher!r} is none of {tuple(TEACHERS)}")
    if wanted.teacher == "agents":
        if wanted.agents.workers < 1:
            raise ValueError(f"synthesize.agents.workers={wanted.agents.workers} has to be >= 1")
        llm_connection.validate_llm(cfg.llm, "synthesize.teacher='agents'")
    if wanted.teacher == "official" and not Path(wanted.official.file).is_file():
        raise FileNotFoundError(
            f"synthesize.official.file={wanted.official.file!r}: no such file; name one with a chatml record a line"
        )


def run(cfg: ConfigDict, workdir: Path, searcher: interface.Searcher, client: Client | None = None) -> JsonObject:
    """Write up to `cfg.synthesize.examples[name]` demonstrations of each task ('ramp_<k>', 'qa', ..).

    Returns the manifest. client: the client of the agents; by default the one of `cfg.llm`, with its cache in
    W/llm.sqlite. Raises ValueError if no trajectory is accepted for a task that was asked for, for an unknown teacher,
    and if the budget is spent; ConnectionError if the model or the search tool does not answer. Started again, the
    agents resume where they stopped.
    """
    if cfg.synthesize.teacher == "rules":
        return _run_rules(cfg, workdir, searcher)
    if cfg.synthesize.teacher == "official":
        return _run_official(cfg, workdir)
    if client is None:
        validate_synthesis(cfg)
    asked = client or llm_connection.connect(cfg.llm, workdir / "llm.sqlite")
    try:
        return _run_agents(cfg, workdir, searcher, asked)
    finally:
        if asked is not client:
            asked.close()


def _run_agents(cfg: ConfigDict, workdir: Path, searcher: interface.Searcher, client: Client) -> JsonObject:
    wanted, target, started = cfg.synthesize, workdir / "demonstrations", time.perf_counter()
    chosen = wanted.agents
    teacher = synthesis.Teacher(
        client,
        searcher,
        tokenizer_lib.load(workdir / "data"),
        solver.AgentsConfig(
            rewrites=chosen.rewrites,
            passages=chosen.passages,
            query_words=chosen.query_words,
            thought_words=chosen.thought_words,
            attempts=chosen.reply_attempts,
            hits=cfg.search.hits,
            limits=EpisodeLimits(**cfg.episode.to_dict()),
            sampling=llm_connection.sampling(cfg.llm),
        ),
        chosen.judge,
        chosen.judge_recall,
    )
    manifest: JsonObject = {"settings": settings(cfg), "tasks": {}}
    asked = manifest["settings"]["synthesize"]["agents"]
    # All settings that a record of the journal depends on. More examples or tasks may be asked for later, and the
    # search server may move.
    fixed = {name: value for name, value in manifest["settings"].items() if name not in ("synthesize", "search")}
    fixed |= {
        "agents": {name: value for name, value in asked.items() if name != "tasks"},
        "hits": cfg.search.hits,
        "index": searcher.fingerprint,
        "tokenizer": teacher.tokenizer.fingerprint,
    }
    for name, count in wanted.examples.items():
        if not count:
            continue
        journal = Journal(target / "agents", name, fixed)
        try:
            with progress.progress_bar(count, f"synthesize {name}") as bar:
                tasks = itertools.islice(_tasks(workdir, name), chosen.tasks or None)
                accepted, rejected = synthesis.run(tasks, count, teacher, journal, chosen.workers, bar)
        finally:
            journal.close()
        if not accepted:
            raise ValueError(
                f"no trajectory of {name} was accepted, rejected: {dict(rejected)}; why stands in "
                f"{target / 'agents' / name}.rejected.jsonl; raise synthesize.agents.tasks (now {chosen.tasks}), "
                f"or set synthesize.examples.{name}=0 to do without"
            )
        made = [records.Demonstration(**record["demonstration"]) for record in accepted]
        records.write(target / f"{name}.array_record", made)
        _write_official(target / f"{name}.chatml.jsonl", accepted)
        manifest["tasks"][name] = {
            "written": len(made),
            "outcomes": {"accepted": len(made), **rejected},
            "tokens": sum(len(one.ids) for one in made),
            "searches": sum(one.searches for one in made),
        }
    manifest["llm"] = client.stats
    return _finish(manifest, target, started)


def _write_official(path: Path, accepted: list[JsonObject]) -> None:
    """Write the accepted records of a journal as official trajectories."""
    with path.open("w", encoding="utf-8") as file:
        for record in accepted:
            done = transcript.from_json(record["transcript"])
            written = masksearch_format.write_trajectory(
                masksearch_format.Trajectory(record["text"], done, record["recall"])
            )
            file.write(json.dumps(written, ensure_ascii=False) + "\n")


def _run_official(cfg: ConfigDict, workdir: Path) -> JsonObject:
    """Write the demonstrations of `synthesize.official.file`, for each task at most as many as are asked for."""
    chosen, target, started = cfg.synthesize.official, workdir / "demonstrations", time.perf_counter()
    tokenizer = tokenizer_lib.load(workdir / "data")
    made = read_json_object(workdir / "data" / "manifest.json", "prepare the data again")
    prepared = made.get("settings", {}).get("tasks", {})
    variables = chat_template.read_variables(prepared.get("chat_variables", ()))
    template = chat_template.open_chat_template(
        tokenizer, prepared.get("chat", ""), instructions.text_of("system", prepared.get("system", "")), variables
    )
    limits = EpisodeLimits(**cfg.episode.to_dict())
    accepted: dict[str, list[records.Demonstration]] = {name: [] for name in cfg.synthesize.examples}
    outcomes = Counter[str]()
    for one, reason in official_import.demonstrations(chosen.file, tokenizer, template, limits, chosen.accuracy):
        if one is not None:
            name = records.task_name("ramp" if one.masks else "qa", one.masks)
            room = cfg.synthesize.examples.get(name, 0) - len(accepted.get(name, ()))
            if room > 0:
                accepted[name].append(one)
            else:
                reason = "surplus"
        outcomes[reason or "accepted"] += 1
    if not outcomes["accepted"]:
        raise ValueError(f"synthesize.official.file={chosen.file}: no record was accepted ({dict(outcomes)})")
    manifest: JsonObject = {"settings": settings(cfg), "tasks": {}, "outcomes": dict(outcomes)}
    for name, kept in accepted.items():
        if kept:
            records.write(target / f"{name}.array_record", kept)
            manifest["tasks"][name] = {
                "written": len(kept),
                "tokens": sum(len(one.ids) for one in kept),
                "searches": sum(one.searches for one in kept),
            }
    return _finish(manifest, target, started)


def _run_rules(cfg: ConfigDict, workdir: Path, searcher: interface.Searcher) -> JsonObject:
    wanted, target = cfg.synthesize, workdir / "demonstrations"
    started = time.perf_counter()
    tokenizer = tokenizer_lib.load(workdir / "data")
    teacher = mask_teacher.TeacherConfig(
        styles=dict(wanted.styles),
        retry=wanted.retry,
        attempts=wanted.attempts,
        evidence=wanted.evidence,
        evidence_match=wanted.evidence_match,
        hits=cfg.search.hits,
        observation_tokens=cfg.episode.observation_tokens,
        total_tokens=cfg.episode.total_tokens,
        seed=cfg.seed,
        tools=tool_names(cfg.tools),
        **_wording(cfg),
    )
    associations = query_writers.fit_associations(_first(_tasks(workdir, "ramp_1"), wanted.association_tasks), searcher)
    manifest: JsonObject = {"settings": settings(cfg), "tasks": {}}
    for name, count in wanted.examples.items():
        made: JsonObject = {}
        if count:
            skip = cfg.empty_tasks == "skip"
            made = _write_task(workdir, name, count, searcher, tokenizer, associations, teacher, skip)
        # Measure how often search can find the answer at all, also for tasks that get no demonstrations.
        if records.masks_of(name) and (probe := _first(_tasks(workdir, name), wanted.probe_tasks)):
            rate = functools.partial(query_writers.hit_rate, k=3, wording=wanted.wording)
            found = {s: rate(probe, searcher, associations, s) for s in mask_teacher.STYLES}
            made["top3_contains_answer"] = {
                style: {"found": hits, "masks": masks, "rate": hits / masks} for style, (hits, masks) in found.items()
            }
        manifest["tasks"][name] = made
    if any(wanted.examples.values()) and not any(one.get("written") for one in manifest["tasks"].values()):
        outcomes = {name: one["outcomes"] for name, one in manifest["tasks"].items() if "outcomes" in one}
        raise ValueError(
            f"no trajectory of any task was accepted ({outcomes}): the search does not find what the tasks ask for; "
            f"raise search.hits (now {teacher.hits}) or episode.turn_tokens, or prepare a larger corpus"
        )
    return _finish(manifest, target, started)


def _wording(cfg: ConfigDict) -> JsonObject:
    """Return the settings of a wording in sentences. The wording 'words' has none, and no limit of a turn."""
    wanted = cfg.synthesize
    if wanted.wording == "words":
        return {}
    return {"wording": wanted.wording, "turn_tokens": cfg.episode.turn_tokens, **wanted.speech.to_dict()}


def _finish(manifest: JsonObject, target: Path, started: float) -> JsonObject:
    """Write the manifest, which marks the demonstrations as finished, and return it."""
    manifest["seconds"] = round(time.perf_counter() - started, 2)
    made = [name for name, one in manifest["tasks"].items() if one.get("written")]
    for name in made:
        if not (target / f"{name}.array_record").exists():
            raise FileNotFoundError(
                f"{target} was removed or replaced while demonstrations were written to it; run the same line again"
            )
    json_files.write_json(target / "manifest.json", manifest)
    return manifest


def _write_task(
    workdir: Path,
    name: str,
    count: int,
    searcher: interface.Searcher,
    tokenizer: Tokenizer,
    associations: query_writers.Associations,
    teacher: mask_teacher.TeacherConfig,
    skip: bool = False,
) -> JsonObject:
    """Write the first `count` accepted trajectories of one task, and return their counts for the manifest.

    skip: go on without a task of which no trajectory is accepted. Otherwise that raises ValueError.
    """
    outcomes = Counter[str]()
    taught: dict[str, Counter[str]] = {}  # of questions: how the teacher looks for the answer -> outcomes
    others = {QUESTIONS: question_teacher.synthesize, TOOL_WARMUP: tool_warmup_teacher.synthesize}
    teach = others.get(name, mask_teacher.synthesize)
    accepted: list[records.Demonstration] = []
    source = _tasks(workdir, name)
    with progress.progress_bar(count, f"synthesize {name}") as bar:
        while len(accepted) < count and (chunk := _first(source, _CHUNK)):
            for task, outcome in zip(chunk, teach(chunk, searcher, tokenizer, associations, teacher), strict=True):
                outcomes[outcome.rejected or "accepted"] += 1
                if name == QUESTIONS:
                    way = taught.setdefault("by_articles" if task.supporting else "by_answer", Counter())
                    way["left_to_rl" if outcome.rejected else "accepted"] += 1
                if outcome.demonstration:
                    accepted.append(outcome.demonstration)
            bar(min(len(accepted), count))
    accepted = accepted[:count]
    if skip and not accepted:
        return {"written": 0, "outcomes": dict(outcomes)}
    if not outcomes:
        raise ValueError(
            f"{workdir / 'data'} holds no training task of {name}, of which synthesize.examples asks for {count}; "
            "questions come from prepare's --config.questions=FILE, and those about held-out articles are held out"
        )
    if not accepted:
        why = f"the search does not find what the tasks ask for; raise search.hits (now {teacher.hits})"
        if max(outcomes, key=outcomes.__getitem__) == "long_turn":
            why = f"its turns do not fit; raise episode.turn_tokens (now {teacher.turn_tokens})"
        raise ValueError(
            f"no trajectory of {name} was accepted ({dict(outcomes)}): {why}, or set synthesize.examples.{name}=0; "
            "DAPO from a trained policy needs no demonstrations (--config.start=W/sft)"
        )
    records.write(workdir / "demonstrations" / f"{name}.array_record", accepted)
    return {
        "written": len(accepted),
        "outcomes": dict(outcomes),
        "tokens": sum(len(d.ids) for d in accepted),
        "searches": sum(d.searches for d in accepted),
        **({"questions": {way: dict(counts) for way, counts in taught.items()}} if taught else {}),
    }


def _tasks(workdir: Path, name: str) -> Iterator[records.Task]:
    """Yield the records of a training task as it uses them (`Task.as_task`), epoch after epoch."""
    folder = workdir / "data" / "tasks" / "train" / task_folder(name)
    for path in sorted(folder.glob("epoch_*.array_record")):
        for task in records.read(path, records.Task):
            yield task.as_task(name)


def _first(source: Iterator[Item], count: int) -> list[Item]:
    return [item for _, item in zip(range(count), source, strict=False)]


def _check_teacher(cfg: ConfigDict, manifest: Path) -> None:
    """Raise ValueError if the demonstrations that are there are another teacher's: they would be overwritten."""
    if not manifest.exists():
        return
    made = read_json_object(manifest, "remove its folder and start again").get("settings", {})
    there = made.get("synthesize", {}).get("teacher", cfg.synthesize.teacher)
    if there != cfg.synthesize.teacher:
        raise ValueError(
            f"{manifest.parent} holds demonstrations of synthesize.teacher={there!r}, and this run asks for "
            f"{cfg.synthesize.teacher!r}: remove the folder, or take another --workdir"
        )


def main(cfg: ConfigDict, workdir: Path) -> None:
    problems = Problems()
    problems.check(validate_settings, cfg)
    problems.check(pretrained_model.settle, cfg, workdir)
    problems.check(validate_synthesis, cfg)
    problems.raise_found()
    with workdir_lock.locked(workdir):
        empty_tasks.leave_out(cfg, workdir)
        _check_teacher(cfg, workdir / "demonstrations" / "manifest.json")
        searcher = RunContext(cfg, workdir).searcher("train")
        command_summary.synthesized(cfg, workdir, run(cfg, workdir, searcher))
