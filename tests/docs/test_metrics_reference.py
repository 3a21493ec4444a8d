"""docs/metrics.md lists no key that is gone. That it lists each is checked where tests make a run
(trainers/test_experiment.py, trainers/test_language_model.py)."""

import ast
import json
import re

import doc_pages
import documented_metrics
import pytest

from masksearch_jax.evals import runner
from masksearch_jax.rollout.trajectory import StopReason

# Parts of keys that settings or data name.
_NAMES = {"ramp_1", "grid"}


@pytest.fixture(scope="module")
def spelled() -> set[str]:
    """Every name, keyword, field and part of a string in the package."""
    found: set[str] = set()
    for file in (doc_pages.ROOT / "masksearch_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.split(r"[/.\s]", node.value))
            elif isinstance(node, ast.keyword | ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found | {f"latency_p{share}_ms" for share in (50, 99)}


@pytest.mark.parametrize("part", ["metrics.jsonl", "report.json", "data/report.json"])
def test_no_listed_key_is_gone(part, spelled):
    listed = documented_metrics.keys(documented_metrics.section(part))
    assert len(listed) > 20
    gone = [
        key
        for key in listed
        if any(name not in spelled for name in re.split(r"[/.]", key) if name and not name.startswith("<"))
    ]
    assert not gone


def test_every_reason_to_stop_and_every_score_is_listed():
    listed = documented_metrics.keys(documented_metrics.section("metrics.jsonl"))
    assert {f"stop/{reason.value}" for reason in StopReason} <= set(listed)
    row = runner.Row("1", "ramp", 1, ["name"], "", [["a"]], "a", ["a"], [1.0], [1.0], [1.0], 1.0, 1.0, 1.0, 1.0, [True],
                     1.0, 1, ["q"], 1, 3, "answer", [], loose=1.0)  # fmt: skip
    scores = {"ramp_1": runner.summarise([row]) | {"left_out": 0}}
    assert not documented_metrics.missing_report_keys(
        {"per_masks": {"ramp_1": {"dapo": scores["ramp_1"]}}}, "Quickstart and language model"
    )


def test_an_unlisted_key_is_noticed(tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "luck": 1}) + "\n")
    assert documented_metrics.missing_metrics(tmp_path) == {"luck"}
    assert documented_metrics.missing_report_keys({"seed": 0, "luck": 1}, "Grid") >= {"luck"}


def test_record_fields_are_those_of_data_formats():
    """Tables of docs/data_formats.md name the fields of the records and of rows.jsonl."""
    import dataclasses

    from masksearch_jax.data import records

    text = (doc_pages.DOCS / "data_formats.md").read_text()
    tables = [
        {field for row in table[1:] for field in re.findall(r"`(\w+)`", row[0])}
        for table in doc_pages.tables(text)
        if table[0][0] == "field"
    ]
    wanted = [{field.name for field in dataclasses.fields(cls)} for cls in (
        records.Task, records.Demonstration, records.Passage, runner.Row
    )]  # fmt: skip
    assert tables == wanted
