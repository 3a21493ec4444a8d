import json

import documented_metrics
import pytest

from masksearch_jax.evals import report
from masksearch_jax.evals.runner import read_rows
from masksearch_jax.workflows import evaluation, quickstart
from masksearch_jax.workflows.context import RunContext


@pytest.fixture
def short(cfg):
    cfg.policies = (*report.POLICIES, *report.OPTIONAL_POLICIES)
    cfg.sft.steps = cfg.sft.checkpoint_every = cfg.sft.optimizer.total_steps = 2
    cfg.dapo.update({"iterations": 1, "dynamic_sampling": False})
    cfg.evaluate.episodes.update({"ramp_1": 8, "ramp_2": 4, "ramp_3": 0, "ramp_4": 0, "qa": 4})
    return cfg


def test_the_line_ends_in_a_report_of_every_policy(short, workdir, capsys):
    content = quickstart.run(short, workdir)
    saved = json.loads((workdir / "report.json").read_text())
    for policy in short.policies:
        assert set(report.SCORES) <= set(saved[policy])
        rows = read_rows(workdir / "evaluate" / policy / "rows.jsonl")
        assert [sum(row.masks == masks for row in rows) for masks in (1, 2)] == [8, 4]
        # What the report says is what the rows say.
        ones = [row.recall for row in rows if row.masks == 1]
        assert saved[policy]["recall"] == pytest.approx(sum(ones) / len(ones))
        assert saved["per_masks"]["ramp_2"][policy]["episodes"] == 4
    assert saved["seed"] == short.seed and saved["wall_seconds"] > 0 and saved["config"]["dapo"]["iterations"] == 1
    # The control trains for as long as DAPO took, on a schedule of that length, from the SFT parameters.
    steps = json.loads((workdir / "sft_more" / "config.json").read_text())["settings"]["steps"]
    seconds = saved["stage_seconds"]
    assert steps == max(1, round(2 * seconds["dapo"] / seconds["sft"]))
    # One forced search and no further agency: every episode that ended by itself searched exactly once.
    forced = read_rows(workdir / "evaluate" / "one_search" / "rows.jsonl")
    assert {row.searches for row in forced} == {1}
    shown = capsys.readouterr().out
    assert "held-out RAMP, 1 mask" in shown and "DAPO minus sft_more" in shown
    assert content["gains"]["sft"]["episodes"] == 8
    # docs/metrics.md lists every key of the run.
    assert not documented_metrics.missing_metrics(workdir)
    assert not documented_metrics.missing_report_keys(saved, "Quickstart and language model")


def test_an_unknown_policy_is_refused(short, workdir):
    with pytest.raises(ValueError, match="clever"):
        evaluation.run(RunContext(short, workdir), "clever", None)


def test_held_out_tasks_come_from_the_held_out_split(short, workdir):
    context = RunContext(short, workdir)
    assert {task.split for task in context.tasks("test", "ramp_1", 6)} == {"test"}
    assert len(context.searcher("train")) < len(context.searcher("validation")) < len(context.searcher("all"))
    assert not context.has_questions("test")
