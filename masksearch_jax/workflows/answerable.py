"""Which training tasks a search can answer: the tasks that DAPO draws from with `dapo.answerable_only`.

Enters: the tasks of the training split, and the index for training. Leaves: for each task of the curriculum, the ids of
the records for which a search for the title, or for the words around a mask, finds the answer of at least one mask
(teachers/copy_rule.py). In a group of episodes on another record hardly one is right; all rewards are then equal, and
dynamic sampling drops the group after it was paid for. The paper draws from all tasks. Held-out tasks are never chosen
this way.

The ids are chosen once and stored in W/dapo/answerable.json. So a resumed run and every process draw from the same,
whatever a search finds later.
"""

import itertools
from collections.abc import Iterator, Sequence

from masksearch_jax.data import pipeline, records
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.retrieval import interface
from masksearch_jax.runtime import distributed, json_files, progress
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.teachers import copy_rule
from masksearch_jax.workflows.context import RunContext

FILE = "answerable.json"
_CHUNK = 512  # records that are searched together


def task_ids(context: RunContext) -> dict[str, frozenset[str]]:
    """Return {task of `dapo.curriculum`: ids of its answerable records}, from W/dapo/answerable.json once it exists.

    Records that are not RAMP (questions, tool warm-up) are all answerable. Raises ValueError that names a task of the
    curriculum of which no record is answerable, and if the file was made with other settings.
    """
    cfg = context.cfg
    file = context.workdir / "dapo" / FILE
    curriculum = Curriculum([(prompts, dict(weights)) for prompts, weights in cfg.dapo.curriculum])
    made_with: JsonObject = {
        "index": context.searcher("train").fingerprint, "hits": cfg.search.hits, "tasks": list(curriculum.tasks),
    }  # fmt: skip
    if not distributed.decide(file.exists()):
        chosen = {name: _choose(context, name) for name in curriculum.tasks}  # every process, so that none is idle
        if distributed.primary():
            file.parent.mkdir(parents=True, exist_ok=True)
            json_files.write_json(file, {"made_with": made_with, "ids": chosen})
        distributed.every(True)  # all wait until the file is there
    again = f"remove {file} and start a new dapo folder"
    found = json_files.read_json_object(file, again, required=("made_with", "ids"))
    if found["made_with"] != made_with:
        raise ValueError(
            f"{file} was made with {found['made_with']}, and dapo.answerable_only=True needs {made_with}; give the "
            "same settings and index, or take another --workdir"
        )
    return {name: frozenset(ids) for name, ids in found["ids"].items()}


def _choose(context: RunContext, name: str) -> list[str]:
    searcher, hits = context.searcher("train"), context.cfg.search.hits
    total, found = 0, []
    with progress.progress_bar(None, f"answerable tasks of {name}", distributed.primary()) as bar:
        source = _records(context, name)
        while chunk := list(itertools.islice(source, _CHUNK)):
            distributed.alive(f"choosing answerable tasks of {name}")
            total += len(chunk)
            found += _answerable(chunk, searcher, hits)
            bar(total)
    if not found:
        raise ValueError(
            f"dapo.answerable_only=True: a search for its title or a clue answers none of the {total} training tasks "
            f"of {name}; set it to False, raise search.hits (now {hits}), or take {name} out of dapo.curriculum"
        )
    progress.print_message(
        "dapo", f"draws from {len(found)} answerable of {total} tasks of {name}", distributed.primary()
    )
    return found


def _records(context: RunContext, name: str) -> Iterator[records.Task]:
    for file in pipeline.task_files(context.workdir / "data" / "tasks", "train", name):
        for task in records.read(file, records.Task):
            yield task.as_task(name)


def _answerable(tasks: list[records.Task], searcher: interface.Searcher, hits: int) -> list[str]:
    masked = [task for task in tasks if task.kind.startswith("ramp")]
    left_out = {
        task.id
        for task, found in zip(masked, copy_rule.answerable(masked, searcher, hits, _shown), strict=True)
        if not found
    }
    return [task.id for task in tasks if task.id not in left_out]


def _shown(hits: Sequence[interface.Hit]) -> str:
    return " ".join(f"{hit.title}: {hit.text}" for hit in hits)
