"""The last lines of each command: what it made, where, the scores, and a next command that works."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import pytest

from configs import dapo, prepare, sft, synthesize
from masksearch_jax.workflows import command_summary

ROOT = Path(__file__).parent.parent.parent
_SPEC = importlib.util.spec_from_file_location("doc_commands", ROOT / "tests" / "docs" / "test_doc_commands.py")


@pytest.fixture
def check(monkeypatch):
    """Raises unless a command parses and its settings work."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "tests")
    module = importlib.util.module_from_spec(_SPEC)
    _SPEC.loader.exec_module(module)
    return module.check


@pytest.fixture
def given(monkeypatch):
    """Sets the arguments of this process."""
    return lambda *arguments: monkeypatch.setattr(sys, "argv", ["command", *arguments])


def parts(capsys) -> dict[str, list[str]]:
    """Return the lines of the summary by label; the command under ''."""
    captured = capsys.readouterr()
    assert not captured.out
    first, *lines = captured.err.splitlines()
    found, label = {"": [first]}, ""
    for line in lines:
        label = line[2:9].strip() or label
        found.setdefault(label, []).append(line[9:])
    return found


@pytest.fixture
def data(tmp_path):
    report = {"articles": 3000, "passages": {"train": 4000, "test": 500}, "seconds": {"all": 41.2},
              "examples": {"train": {"ramp_1": [2000, 2000], "ramp_2": [900]}}}  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "report.json").write_text(json.dumps(report))
    return tmp_path


def test_prepare(data, given, capsys, check):
    given("--config=configs/prepare.py", "--config.dump=no/FILE")
    command_summary.prepared(prepare.get_config(), data)
    told = parts(capsys)
    assert told[""] == ["prepare: done"]
    assert told["made"] == ["3,000 articles, 4,500 passages, training tasks ramp_1 4,000, ramp_2 900 in 0:41"]
    assert told["next"] == [
        f"python -m masksearch_jax.synthesize --config=configs/synthesize.py --workdir={data}"
    ]  # fmt: skip
    check(told["next"][0])


def test_prepare_with_the_config_of_a_training(data, given, capsys, check):
    given("--config", "configs/dapo.py:dump", "--config.search.hits=2", "--workdir=elsewhere")
    command_summary.prepared(dapo.get_config("dump"), data)
    (command,) = parts(capsys)["next"]
    assert "--config=configs/dapo.py:dump --config.search.hits=2 --workdir=" in command
    check(command)


def test_synthesize(tmp_path, given, capsys, check):
    given("--config=configs/synthesize.py:strong")
    rates = {"title": {"found": 1, "masks": 4, "rate": 0.25}}
    manifest = {"seconds": 5.0, "tasks": {
        "ramp_1": {"written": 60, "outcomes": {"accepted": 75, "miss": 25}, "top3_contains_answer": rates},
        "qa": {},
    }}  # fmt: skip
    command_summary.synthesized(synthesize.get_config(), tmp_path, manifest)
    told = parts(capsys)
    assert told["made"] == ["demonstrations ramp_1 60 in 0:05"]
    assert told["scores"][0] == "75% of 100 trajectories accepted" and "title 0.25" in told["scores"][1]
    assert "--config=configs/sft.py --workdir=" in told["next"][0]
    check(told["next"][0])


def test_train(tmp_path, given, capsys, check):
    given("--config=configs/sft.py:dump", "--config.sft.steps=300", "--config.search.hits=2", "--workdir=W")
    (tmp_path / "sft").mkdir()
    rows = [{"step": 50, "loss": 0.5, "tokens_per_s": 5312.4}, {"step": 100, "eval/ramp_1/recall": 0.25}]
    (tmp_path / "sft" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command_summary.trained(sft.get_config("dump"), tmp_path, 125.0)
    told = parts(capsys)
    assert told["made"] == ["60 steps of SFT; this start took 2:05"]
    assert told["where"] == [str(tmp_path / "sft" / "checkpoints"), str(tmp_path / "sft" / "metrics.jsonl")]
    assert told["scores"] == ["at step 50: loss 0.500, 5,312 tokens/s", "validation at step 100: ramp_1 recall 0.250"]
    evaluate, train = told["next"]
    assert "configs/evaluate.py:dump --config.search.hits=2 --config.policy=sft" in evaluate  # it has no sft.steps
    assert "configs/dapo.py:dump --config.sft.steps=300 --config.search.hits=2" in train
    for command in (evaluate, train):
        check(command)


def test_evaluate_and_report(tmp_path, capsys, check):
    scores = {"ramp_1": {"recall": 0.5, "recall_se": 0.01, "episodes": 900},
              "hotpotqa": {"recall": 0.25, "recall_se": None, "episodes": 1}}  # fmt: skip
    scores["custom"] = {"recall": 0.5, "score": 1.0, "episodes": 2}
    command_summary.evaluated("dapo", tmp_path, "mine", scores)
    told = parts(capsys)
    assert told["made"] == ["903 episodes of dapo"]
    assert told["where"][0].startswith(str(tmp_path / "evaluate" / "mine" / "rows.jsonl"))
    assert told["scores"] == [
        "1 mask: recall 0.500 ±0.010 over 900 episodes", "HotpotQA: recall 0.250 over 1 episodes",
        "custom: score 1.000, recall 0.500 over 2 episodes",
    ]  # fmt: skip
    check(told["next"][0])
    command_summary.reported(tmp_path / "report.html", "one page")
    assert parts(capsys)["next"] == [f"open {tmp_path / 'report.html'}"]


def test_experiment_and_convert(tmp_path, capsys, check):
    command_summary.ran("quickstart", tmp_path, {"stage_seconds": {"sft": 60.0, "dapo": 61.0}})
    told = parts(capsys)
    assert told["made"] == ["the workflow quickstart; its stages took 2:01"]
    check(told["next"][0])
    command_summary.ran("grid", tmp_path, {"stage_seconds": {"0": {"base": 60.0}}})
    assert parts(capsys)["made"] == ["the workflow grid"]
    for folder in (tmp_path / "hf", tmp_path / "stage"):
        folder.mkdir()
    (tmp_path / "stage" / "checkpoints").mkdir()
    for target, kind in ((tmp_path / "hf", "a published folder"), (tmp_path / "stage", "a stage folder")):
        command_summary.converted(Path("HF_FOLDER"), target)
        told = parts(capsys)
        assert told["made"] == [f"HF_FOLDER as {kind}"] and str(target) in told["next"][0]
        check(told["next"][0])


def test_a_command_that_another_one_started_says_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_summary.child_process, "_is_child", True)
    command_summary.reported(tmp_path / "report.html", "one page")
    assert capsys.readouterr().err == ""


def test_spaces_in_names_are_quoted(tmp_path, given):
    given("--config=configs/sft.py", "--config.pretrained=my model")
    command = command_summary.again("train", "configs/dapo.py", Path("my run"))
    assert shlex.split(command)[-2:] == ["--config.pretrained=my model", "--workdir=my run"]
