"""The table and report.json hold what went in."""

import json

import pytest

from masksearch_jax.evals import report

SUMMARY = {
    "recall": 0.5,
    "recall_se": 0.012,
    "em": 0.25,
    "f1": 0.4,
    "format": 1.0,
    "hit": 0.7,
    "searches": 1.5,
    "queries_per_mask": 1.25,
    "tokens": 31.26,
    "episodes": 400,
    "by_kind": {"name": 0.6, "date": 0.1},
}
SCORES = {**{name: SUMMARY for name in report.POLICIES}, "sft_more": None}


def test_table():
    lines = report.table(SCORES, "Held-out RAMP").splitlines()
    assert lines[0] == "Held-out RAMP" and len(lines) == 3 + len(SCORES)
    assert lines[1].split() == "policy recall EM F1 format hit searches queries/mask tokens episodes".split()
    assert lines[3].split() == "untrained 0.500 ±0.012 0.250 0.400 1.000 0.700 1.50 1.250 31.3 400".split()
    assert lines[6].split()[-9:] == ["-"] * 9
    assert len({len(line) for line in lines[2:4]}) == 1
    with pytest.raises(ValueError, match="no scores"):
        report.table({})


def test_loose_accuracy_is_a_column_where_there_is_any():
    lines = report.table({"HotpotQA": SUMMARY, "FanOutQA": SUMMARY | {"loose": 0.125}}).splitlines()
    assert lines[0].split()[-1] == "loose" and [line.split()[-1] for line in lines[2:]] == ["-", "0.125"]


def test_benchmark_table():
    """Recall times 100 as in the paper's table 2, with the mean over benchmarks."""
    scores = {"HotpotQA": SUMMARY, "MuSiQue": SUMMARY | {"recall": 0.25}}
    lines = report.benchmark_table({"sft": scores, "dapo": None}, "benchmarks").splitlines()
    assert lines[0] == "benchmarks" and lines[1].split() == ["policy", "HotpotQA", "MuSiQue", "avg"]
    assert lines[3].split() == ["SFT", "50.00", "25.00", "37.50"] and lines[4].split() == ["DAPO", "-", "-", "-"]


def test_by_kind_table():
    lines = report.by_kind_table({"sft": SUMMARY, "dapo": None}).splitlines()
    assert lines[0].split() == ["policy", "date", "name"]
    assert lines[2].split() == ["SFT", "0.100", "0.600"] and lines[3].split() == ["DAPO", "-", "-"]


def test_write_report(tmp_path):
    path = tmp_path / "new" / "report.json"
    written = report.write_report(path, SCORES, {"ramp_1": SCORES}, 3, 812.5, {"seed": 3}, {"qa": SUMMARY})
    loaded = json.loads(path.read_text())
    assert loaded == json.loads(json.dumps(written))
    assert set(loaded) == {*report.POLICIES, "per_masks", "seed", "wall_seconds", "config", "qa"}
    assert loaded["sft_more"] is None and loaded["dapo"] == SUMMARY and loaded["wall_seconds"] == 812.5
    assert not list(path.parent.glob("*.partial"))


def test_an_incomplete_report_is_refused(tmp_path):
    def write(scores):
        report.write_report(tmp_path / "report.json", scores, {}, 0, 1.0, {})

    with pytest.raises(ValueError, match="sft_more"):
        write({name: SUMMARY for name in report.POLICIES if name != "sft_more"})
    with pytest.raises(ValueError, match=r"'dapo' lack \['tokens'\]"):
        write({**SCORES, "dapo": {k: v for k, v in SUMMARY.items() if k != "tokens"}})
    with pytest.raises(ValueError):
        write({**SCORES, "dapo": {**SUMMARY, "recall": float("nan")}})
    assert not list(tmp_path.iterdir())
