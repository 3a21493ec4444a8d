"""DAPO may draw only tasks that a search for the title or a clue answers: which, against searches for each by hand."""

import dataclasses

import pytest

from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import copy_rule
from masksearch_jax.text import clues
from masksearch_jax.trainers import dapo
from masksearch_jax.workflows import answerable, training
from masksearch_jax.workflows.context import RunContext


def by_hand(context, name):
    found, searcher = set(), context.searcher("train")
    files = sorted((context.workdir / "data/tasks/train" / name).glob("epoch_*"))
    tasks = [task for file in files for task in records.read(file, records.Task)]
    for task in tasks:
        for number, golds in enumerate(task.answers):
            said = [task.title, clues.query(task.text, number)]
            queries = [interface.Query(query, task.passage_id, task.article_id) for query in said]
            hits = [hit for found_by in searcher.search(queries, context.cfg.search.hits) for hit in found_by]
            if any(answer_metrics.contains(hit.text, golds) for hit in hits):
                found.add(task.id)
    return found, {task.id for task in tasks}


def test_the_ids_are_those_that_a_search_by_hand_finds(cfg, workdir, monkeypatch):
    cfg.search.hits = 1
    cfg.dapo.curriculum = ((None, (("ramp_1", 0.5), ("ramp_2", 0.5))),)
    context = RunContext(cfg, workdir)
    file = workdir / "data/tasks/train/ramp_1/epoch_0.array_record"
    tasks = list(records.read(file, records.Task))  # no passage states the answers of the first ten
    records.write(file, [dataclasses.replace(t, answers=[["Nowhere"]]) if i < 10 else t for i, t in enumerate(tasks)])
    one, two = (by_hand(context, name) for name in ("ramp_1", "ramp_2"))
    found = answerable.task_ids(context)
    assert found == {"ramp_1": one[0], "ramp_2": two[0]}
    assert len(one[0]) == len(one[1]) - 10

    # They are chosen once: a resumed run draws from the same, whatever a search finds then.
    monkeypatch.setattr(copy_rule, "answerable", lambda tasks, *_: [False for _ in tasks])
    assert answerable.task_ids(RunContext(cfg, workdir)) == found
    cfg.search.hits = 2
    with pytest.raises(ValueError, match=r"answerable.json was made with .*'hits': 1.* needs .*'hits': 2"):
        answerable.task_ids(RunContext(cfg, workdir))


def test_a_task_with_its_source_allowed_has_ids_of_its_own(cfg, workdir):
    cfg.search.hits = 1
    cfg.dapo.curriculum = ((None, (("ramp_1", 0.5), ("ramp_1_open", 0.5))),)
    file = workdir / "data/tasks/train/ramp_1/epoch_0.array_record"
    tasks = list(records.read(file, records.Task))  # what is asked here stands in the source, not in its counterpart
    alone = [dataclasses.replace(t, answers=[["was born in"]]) if "was born in" in t.text else t for t in tasks]
    records.write(file, alone)
    found = answerable.task_ids(RunContext(cfg, workdir))
    assert found["ramp_1"] < found["ramp_1_open"]


def test_dapo_gets_them_where_it_is_asked_for(cfg, workdir, monkeypatch):
    given = []
    monkeypatch.setattr(dapo, "run", lambda *args, **named: given.append(named["task_ids"]))
    monkeypatch.setattr(answerable, "task_ids", lambda context: {"ramp_1": frozenset({"x"})})
    for wanted in (False, True):
        cfg.dapo.answerable_only = wanted
        training.train_dapo(RunContext(cfg, workdir), {})
    assert given == [None, {"ramp_1": frozenset({"x"})}]


def test_a_task_without_an_answerable_record_is_named(cfg, workdir, monkeypatch):
    monkeypatch.setattr(answerable, "_answerable", lambda tasks, searcher, hits: [])
    with pytest.raises(ValueError, match=r"answers none of the \d+ training tasks of ramp_1; set it to False"):
        answerable.task_ids(RunContext(cfg, workdir))
