"""Pages of experiments: a grid of methods, rounds of distillation, one line over seeds."""

import json
import xml.etree.ElementTree

import pytest
from test_report_page import Reader, dapo_rows, row, section, write_log, write_policy

from masksearch_jax.evals.report.experiment_page import experiment_page, is_experiment
from masksearch_jax.workflows import reporting


@pytest.fixture
def drawing():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")


@pytest.fixture
def grid(tmp_path):
    chains = {"Agent-PE": "base", "Search-R1": "base/qa_rl"}
    for seed in (0, 1):
        for chain in chains.values():
            cell = tmp_path / f"seed_{seed}" / chain.replace("/", "+")
            stage = "dapo" if chain.endswith("rl") else "sft"
            write_log(cell / stage, [one | {"reward": one["reward"] + seed} for one in dapo_rows(3)])
            write_policy(cell / "evaluate" / stage, [row("a", 1.0), row("b", 0.0)])
    cell = {"mean": 0.5, "half_width": 0.1}
    content = {
        "workflow": "grid",
        "methods": [
            {"label": label, "chain": chain, "policy": "", "baseline": "Agent-PE" if "/" in chain else ""}
            for label, chain in chains.items()
        ],
        "columns": ["hotpotqa", "average"],
        "seeds": ["0", "1"],
        "measured": {label: {"hotpotqa": cell, "average": {"mean": 0.25, "half_width": None}} for label in chains},
        "gains": {"Search-R1": {"hotpotqa": {"mean": 0.02, "half_width": 0.01}, "average": cell}},
        "tokens": {label: [{"sft": 1000, "generated": 0}, {"sft": 3000, "generated": 10}] for label in chains},
        "stage_seconds": {"0": {"prepare": 1.0}},
        "config": {"workflow": "grid", "seed": 0},
    }
    (tmp_path / "report.json").write_text(json.dumps(content))
    return tmp_path


def test_a_grid(grid, drawing):
    page = experiment_page(grid)
    tables = {table.title: table for table in section(page, "Results").tables}
    assert tables["Held-out recall"].rows[0] == ("Agent-PE", "50.0 ±10.0", "25.0")
    assert tables["Differences from the baseline"].rows == (("Search-R1 − Agent-PE", "+2.0 ±1.0", "+50.0 ±10.0"),)
    assert tables["Tokens of training"].rows[1] == ("Search-R1", "2,000", "5")
    bars = section(page, "Results").charts[0]
    assert bars.names == ("Agent-PE", "Search-R1") and bars.curves[0].half_width == (10.0, 10.0)
    reward = next(chart for chart in section(page, "Training by DAPO").charts if chart.title == "Reward")
    # Two seeds, 0.1 and 1.1: t of one degree of freedom x 0.7071 / sqrt(2).
    (curve,) = reward.curves
    assert curve.label == "Search-R1" and curve.y[0] == pytest.approx(0.6)
    assert curve.half_width[0] == pytest.approx(12.706 * 0.5)
    titles = [one.title for one in section(page, "Sample trajectories").episodes]
    assert titles == [
        "Agent-PE, seed 0, best: a", "Agent-PE, seed 0, worst: b",
        "Search-R1, seed 0, best: a", "Search-R1, seed 0, worst: b",
    ]  # fmt: skip
    assert dict(page.facts)["seeds"] == "0, 1" and dict(page.facts)["seed 0"] == "1 s"
    Reader(reporting.write(grid).read_text())


def test_groups_of_methods_have_curves_of_their_own_and_charts_become_files(grid, drawing, tmp_path):
    content = json.loads((grid / "report.json").read_text())
    content["groups"] = [["Does RL help?", ["Search-R1"]], ["Base", ["Agent-PE"]]]
    (grid / "report.json").write_text(json.dumps(content))
    page = experiment_page(grid)
    curves = {one.title: {curve.label for chart in one.charts for curve in chart.curves} for one in page.sections}
    # The chain of a row has all its stages.
    assert curves["Does RL help?: SFT"] == curves["Base: SFT"] == {"Agent-PE"}
    assert curves["Does RL help?: DAPO"] == {"Search-R1"} and "Base: DAPO" not in curves
    reporting.write(grid, str(tmp_path / "charts"))
    files = {path.name: path.read_text() for path in (tmp_path / "charts").iterdir()}
    assert len(files) == sum(len(section.charts) for section in page.sections)
    drawn = xml.etree.ElementTree.fromstring(files["does_rl_help_dapo_reward.svg"])
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg" and "--s0: #" in drawn[0].text and "<p" not in drawn[0].text


def test_an_incomplete_grid_is_refused(grid):
    content = json.loads((grid / "report.json").read_text())
    (grid / "report.json").write_text(json.dumps(content | {"columns": ["hotpotqa", "musique"]}))
    with pytest.raises(ValueError, match="measured lacks 'musique' of method 'Agent-PE'"):
        experiment_page(grid)
    del content["measured"]
    (grid / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lacks \['measured'\]"):
        experiment_page(grid)


def test_rounds(tmp_path, drawing):
    made = {
        "tasks": 100, "outcomes": {"accepted": 40, "wrong": 360}, "acceptance": 0.1, "solved": 0.3, "diversity": 0.5,
        "searches": 1.25, "new": 30,
    }  # fmt: skip
    held = {"ramp_1": {"recall": 0.2, "recall_se": 0.01}, "ramp_2": {"recall": 0.1, "recall_se": None}}
    rounds = [
        {"round": 0, "tasks": {}, "set": {"ramp_1": 200}, "held_out": held},
        {"round": 1, "tasks": {"ramp_1": made}, "set": {"ramp_1": 230}, "held_out": held,
         "control": {"ramp_1": {"recall": 0.15, "recall_se": 0.01}}},
    ]  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps({"rounds": rounds, "seed": 0, "config": {"workflow": "evolve"}}))
    for folder in (tmp_path, tmp_path / "round_1_control", tmp_path / "round_1"):
        write_log(folder / "sft", [{"step": n, "time": 1795730000.0, "loss": 1.0 / n} for n in (50, 100)])
        write_policy(folder / "evaluate" / "sft", [row("a", 1.0), row("b", 0.0)])
    page = experiment_page(tmp_path)
    assert page.title.startswith("evolve: ")
    held_out, made = section(page, "Results by round").tables
    assert held_out.rows[1:] == (
        ("round 1, none new", "200", "0.150 ±0.010", "-"), ("round 1", "230", "0.200 ±0.010", "0.100"),
    )  # fmt: skip
    cells = ("round 1, 1 mask", "100", "30", "0.100", "0.300", "0.500", "1.250", "accepted 40, wrong 360")
    assert made.rows == (cells,)
    (loss,) = section(page, "Training by round").charts
    assert [curve.label for curve in loss.curves] == ["round 0", "round 1, none new", "round 1"]
    assert len(section(page, "Sample trajectories").episodes) == 6
    Reader(reporting.write(tmp_path).read_text())
    del rounds[1]["tasks"]  # as in a report from before it was called so
    (tmp_path / "report.json").write_text(json.dumps({"rounds": rounds, "seed": 0, "config": {"workflow": "evolve"}}))
    with pytest.raises(ValueError, match=r"a round lacks \['tasks'\]; run its experiment again"):
        experiment_page(tmp_path)


def test_seeds_of_one_line(tmp_path):
    for seed, recalls in enumerate(((1.0, 0.0), (1.0, 1.0), (1.0, 0.5))):
        write_log(tmp_path / f"seed-{seed}" / "dapo", dapo_rows(3))
        write_policy(tmp_path / f"seed-{seed}" / "evaluate" / "dapo", [row(str(n), r) for n, r in enumerate(recalls)])
    assert is_experiment(tmp_path) and not is_experiment(tmp_path / "seed-0")
    page = experiment_page(tmp_path)
    # 0.5, 1.0, 0.75: mean 0.75, t of 2 degrees of freedom x 0.25 / sqrt(3).
    assert section(page, "Results").tables[0].rows == (("DAPO", "0.750 ±0.621"),)
    assert section(page, "Training: dapo").charts and len(section(page, "Results").charts) == 1


def test_seeds_with_nothing_in_them(tmp_path):
    (tmp_path / "seed_0").mkdir()
    with pytest.raises(FileNotFoundError, match=r"seed_0; none holds a stage.*masksearch_jax.experiment"):
        experiment_page(tmp_path)
