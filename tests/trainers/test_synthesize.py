"""What the rule-based teacher's searches may return, by task of the demonstrations."""

import pytest

from masksearch_jax.data import records
from masksearch_jax.workflows import evaluation, synthesis_stage
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.settings import validate_settings


class Recording:
    """A searcher that notes whose source its queries want left out."""

    def __init__(self, searcher):
        self.searcher, self.excluded, self.fingerprint = searcher, [], searcher.fingerprint

    def search(self, queries, k):
        self.excluded += [query.passage_id for query in queries]
        return self.searcher.search(queries, k)


def made(cfg, workdir, name):
    """(demonstrations of one task, the sources that the last searches excluded)."""
    cfg.synthesize.examples = {name: 8}
    cfg.synthesize.update({"retry": 0.0, "association_tasks": 0, "probe_tasks": 0})
    searcher = Recording(RunContext(cfg, workdir).searcher("train"))
    synthesis_stage.run(cfg, workdir, searcher)
    return list(
        records.read(workdir / "demonstrations" / f"{name}.array_record", records.Demonstration)
    ), searcher.excluded


def test_an_open_mask_may_find_its_source_and_no_other_may(cfg, workdir):
    closed, kept_out = made(cfg, workdir, "ramp_1")
    opened, allowed = made(cfg, workdir, "ramp_1_open")
    assert len(closed) == len(opened) == 8 and min(kept_out) >= 0 and set(allowed) == {-1}
    tasks = {task.id: task for task in synthesis_stage._tasks(workdir, "ramp_1")}
    text = RunContext(cfg, workdir).tokenizer.decode

    def shows_source(one):
        return tasks[one.task_id].paragraph in text(one.ids)

    assert any(map(shows_source, opened)) and not any(map(shows_source, closed))


def test_open_masks_are_a_suite_of_evaluation(cfg, workdir):
    cfg.evaluate.episodes = {"ramp_1": 3, "ramp_1_open": 3}
    suites = evaluation.suites_of(RunContext(cfg, workdir))
    assert [one.id for one in suites["ramp_1_open"]] == [one.id for one in suites["ramp_1"]]
    assert {one.passage_id for one in suites["ramp_1_open"]} == {-1}
    assert min(one.passage_id for one in suites["ramp_1"]) >= 0


def test_the_wording_of_thoughts_is_recorded_where_it_is_not_the_usual_one(cfg, workdir):
    usual = synthesis_stage.settings(cfg)["synthesize"]
    assert usual["wording"] == "words" and "speech" not in usual  # which these thoughts do not read
    cfg.synthesize.wording = "sentences"
    cfg.synthesize.speech.shared_words = 1
    cfg.episode.update({"turn_tokens": 400, "total_tokens": 2000})
    assert synthesis_stage.settings(cfg)["synthesize"] == usual | {
        "wording": "sentences", "speech": {"clue_words": 4, "quote_words": 20, "shared_words": 1}
    }  # fmt: skip
    found, _ = made(cfg, workdir, "ramp_2")
    tasks = {task.id: task for task in synthesis_stage._tasks(workdir, "ramp_2")}
    tokenizer = RunContext(cfg, workdir).tokenizer
    for one in found:
        turns = tokenizer.decode(one.ids[len(tasks[one.task_id].prompt) :])
        assert "There are two gaps." in turns and "first gap" in turns and turns.count('"') >= 4
    cfg.synthesize.evidence = 2
    with pytest.raises(ValueError, match=r"synthesize\.wording='sentences' .* synthesize\.evidence=2"):
        validate_settings(cfg)


def test_turns_that_cannot_fit_are_counted_by_name(cfg, workdir):
    cfg.synthesize.wording = "sentences"
    cfg.synthesize.speech.shared_words = 1
    cfg.episode.turn_tokens = 12
    with pytest.raises(ValueError, match=r"ramp_1 .*long_turn.* raise episode\.turn_tokens \(now 12\)"):
        made(cfg, workdir, "ramp_1")
