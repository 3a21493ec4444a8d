"""The table of methods on a made world: chains share their beginnings, and nothing runs twice."""

import json
import shutil
import subprocess
import sys
import threading

import pytest
from ml_collections import ConfigDict

from masksearch_jax.evals import intervals
from masksearch_jax.runtime import metrics
from masksearch_jax.workflows import grid, training


@pytest.fixture
def page(cfg):
    cfg.workflow = "grid"
    cfg.evaluate.episodes.update({"ramp_1": 4, "ramp_2": 2, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    one_mask = ((None, (("ramp_1", 1.0),)),)
    stage = {"steps": 2, "checkpoint_every": 2, "curriculum": one_mask, "optimizer": {"total_steps": 2}}
    cfg.stages = ConfigDict({
        "base": {"kind": "sft", "settings": stage},
        "more": {"kind": "sft", "settings": stage | {"curriculum": ((None, (("ramp_2", 1.0),)),)}},
        "rl": {"kind": "dapo", "settings": {"iterations": 1, "dynamic_sampling": False}},
        "plain": {
            "kind": "dapo", "generations_of": "base/more/rl",
            "settings": {"iterations": 99, "dynamic_sampling": False, "max_generations": 1},
        },
    })  # fmt: skip
    cfg.grid = ConfigDict({
        "seeds": (1,), "at_once": 1, "columns": ("ramp_1", "ramp_2"), "groups": (("SFT or RL", ("SFT", "RL")),),
        "methods": (
            ("RAG", "base", "one_search", ""), ("SFT", "base/more", "", ""), ("RL", "base/more/rl", "", "SFT"),
            ("as much", "base/plain", "", ""),
        ),
    })  # fmt: skip
    return cfg


@pytest.mark.slow
def test_every_cell_is_trained_once_and_read_afterwards(page, workdir, monkeypatch, capsys):
    shutil.move(workdir / "data", workdir / "seed_1" / "data")  # in place of prepare
    trained = []
    for name in ("train_sft", "train_dapo"):
        original = getattr(training, name)
        monkeypatch.setattr(
            training,
            name,
            lambda context, *a, _of=original, **k: trained.append(context.workdir.name) or _of(context, *a, **k),
        )
    content = grid.run(page, workdir)
    assert trained == ["base", "base+more", "base+more+rl", "base+plain"]
    # The page's 99 iterations give way to what the other chain generated.
    assert len(metrics.read_rows(workdir / "seed_1" / "base+plain" / "dapo" / "metrics.jsonl")) == 1
    assert "RL - SFT" in capsys.readouterr().out
    # A chain carries the tokens of all its stages.
    (base,), (sft,), (rl,) = (content["tokens"][label] for label in ("RAG", "SFT", "RL"))
    assert sft["sft"] > base["sft"] > 0 == sft["generated"]
    assert rl["sft"] == sft["sft"] and rl["generated"] > 0
    assert json.loads((workdir / "report.json").read_text()) == json.loads(json.dumps(content))
    # Started again: a cell that is missing is made again, alone, and the rest is read.
    shutil.rmtree(workdir / "seed_1" / "base+more+rl")
    trained.clear()
    again = grid.run(page, workdir)
    assert trained == ["base+more+rl"] and again["measured"] == content["measured"]


def test_seeds_run_side_by_side_by_the_line_of_this_process(page, tmp_path, monkeypatch):
    page.grid.seeds, page.grid.at_once = (4, 5, 6), 2
    monkeypatch.setattr(sys, "argv", ["experiment.py", "--config=configs/table2.py", "--config.grid.at_once=2"])
    commands = []

    def run(command, stdout, stderr, **more):
        commands.append(command)
        stdout.write("no such file")
        return subprocess.CompletedProcess(command, returncode=int("--config.grid.seeds=(5,)" in command))

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ValueError, match=r"seed 5 ended with exit status 1; .*seed_5/log.txt"):
        grid.run(page, tmp_path)
    assert len(commands) == 3  # one that fails leaves the others alone
    for command in commands:
        # Later overrides count: the seed's process works on it alone, here, and starts none of its own.
        assert command[1:5] == ["-m", "masksearch_jax.experiment", *sys.argv[1:]]
        assert "--config.grid.at_once=1" in command[5:] and f"--workdir={tmp_path}" in command[5:]
    assert (tmp_path / "seed_6" / "log.txt").read_text() == "no such file"


def test_a_seed_is_worked_on_by_one_process_at_a_time(page, tmp_path):
    ended = threading.Event()

    def enter(line):
        with line.alone():
            ended.set()

    with grid.SeedRun(page, tmp_path, 3).alone():
        other = threading.Thread(target=enter, args=(grid.SeedRun(page, tmp_path, 3),))
        other.start()
        assert not ended.wait(0.2)
    assert ended.wait(5)
    other.join()


def test_means_and_gains_are_over_seeds(page, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "tokens", lambda *_: {})
    recalls = {
        "RAG": ((0.1, 0.2), (0.3, 0.4)), "SFT": ((0.2, 0.4), (0.6, 0.8)), "RL": ((0.5, 0.5), (0.7, 0.9)),
        "as much": ((0.0, 0.0), (0.0, 0.0)),
    }  # fmt: skip
    scores = {
        label: {
            str(seed): {"ramp_1": {"recall": one}, "ramp_2": {"recall": two}} for seed, (one, two) in enumerate(found)
        }
        for label, found in recalls.items()
    }
    content = grid.summary(page, tmp_path, grid.validated_methods(page), scores)
    assert content["columns"] == ["ramp_1", "ramp_2", "average"]
    assert content["measured"]["SFT"]["ramp_1"] == intervals.mean([0.2, 0.6])
    assert content["measured"]["SFT"]["average"]["mean"] == pytest.approx(0.5)
    assert list(content["gains"]) == ["RL"]
    gain = content["gains"]["RL"]["ramp_1"]  # 0.3 and 0.1: t with one degree of freedom
    assert gain["mean"] == pytest.approx(0.2) and gain["half_width"] == pytest.approx(12.706 * 0.1)
    assert "SFT" in grid.table(content) and "±127.1" in grid.table(content)


@pytest.mark.parametrize(
    "setting, value, said",
    [
        ("generations_of", "base/more", "'more' is no stage of DAPO"),
        ("generations_of", "base/nothing", "'nothing' is no stage of DAPO"),
        ("settings", {"max_generations": 3}, "max_generations=1"),
    ],
)
def test_equal_generations_are_of_stages_that_generate(page, tmp_path, setting, value, said):
    page.stages.plain[setting] = value
    with pytest.raises(ValueError, match=said):
        grid.run(page, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "methods, said",
    [
        ((("A", "base/nothing", "", ""),), "nothing"),
        ((("A", "base", "clever", ""),), "clever"),
        ((("A", "base", "", "B"),), "'B'"),
        ((("A", "base", "", ""), ("A", "base/more", "", "")), "apart"),
        ((), "a method and a seed"),
    ],
)
def test_methods_that_cannot_work_are_refused_before_any_work(page, tmp_path, methods, said):
    page.grid.methods = methods
    with pytest.raises(ValueError, match=said):
        grid.run(page, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_group_of_an_unknown_method_is_refused_before_any_work(page, tmp_path):
    page.grid.groups = (("Which?", ("SFT", "DPO")),)
    with pytest.raises(ValueError, match=r"'Which\?' names \['DPO'\]"):
        grid.run(page, tmp_path)
    assert not list(tmp_path.iterdir())


def test_intervals_of_known_samples():
    # Three values, t with two degrees of freedom: 4.303 * s / sqrt(3).
    found = intervals.mean([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0 and found["half_width"] == pytest.approx(4.303 / 3**0.5)
    assert intervals.mean([0.5]) == {"mean": 0.5, "half_width": None}
    assert intervals.mean([1.0] * 60)["half_width"] == 0.0
    with pytest.raises(ValueError, match="no values"):
        intervals.mean([])
