"""Rounds of self-evolving distillation on a made world."""

import json

import pytest
from ml_collections import ConfigDict

from masksearch_jax.agents import distillation
from masksearch_jax.data import records
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.workflows import evolve, training


@pytest.fixture
def page(cfg):
    cfg.stage = "sft"
    cfg.sft.steps = cfg.sft.checkpoint_every = cfg.sft.optimizer.total_steps = 2
    cfg.evaluate.episodes.update({"ramp_1": 4, "ramp_2": 2, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    cfg.evolve = ConfigDict({
        "rounds": ((("ramp_1", 6),), (("ramp_1", 4), ("ramp_2", 6))),
        "samples": 2, "keep": 1, "judge": "rules", "recall": 1.0,
        "judging": {"timeout_s": 1.0, "retries": 0, "attempts": 1}, "temperature": 1.0, "steps": 2,
        "control": False, "learning_rate_scale": 0.5,
    })  # fmt: skip
    return cfg


@pytest.fixture
def accepting(monkeypatch):
    """Takes any trajectory: two steps of SFT solve nothing."""
    monkeypatch.setattr(distillation, "judged", lambda made, floor, judge=None: [("", 1.0)] * len(made))


def demonstrations(folder):
    files = folder.glob("*.array_record")
    return {path.stem: [d.id for d in records.read(path, records.Demonstration)] for path in files}


def test_the_set_grows_by_what_each_teacher_adds(page, workdir, accepting, monkeypatch, capsys):
    monkeypatch.setattr(evolve, "_CHUNK", 3)
    keys, made = [], distillation.Request
    monkeypatch.setattr(distillation, "Request", lambda *a, key, **k: keys.append(key) or made(*a, key=key, **k))
    content = evolve.run(page, workdir)
    first, second, third = (demonstrations(folder / "demonstrations") for folder in (
        workdir, workdir / "round_1", workdir / "round_2"
    ))  # fmt: skip
    for before, after in ((first, second), (second, third)):
        for name, ids in before.items():
            assert after[name][: len(ids)] == ids
    assert len(second["ramp_1"]) == len(first["ramp_1"]) + 6 and second["ramp_2"] == first["ramp_2"]
    # Tasks go on where the rounds before left off, so none is tried twice until all were.
    tried = [i.split(".", 1)[1].rsplit(".", 1)[0] for i in third["ramp_1"] if i.startswith("round_")]
    assert len(tried) == 10 == len(set(tried))
    assert [one["round"] for one in content["rounds"]] == [0, 1, 2]
    assert content["rounds"][2]["tasks"]["ramp_2"]["tasks"] == 6
    assert all(one["held_out"]["ramp_1"]["episodes"] == 4 for one in content["rounds"])
    assert json.loads((workdir / "round_2" / "report.json").read_text()) == content["rounds"][2]
    assert "self-evolving distillation" in capsys.readouterr().out
    assert len(set(keys)) == len(keys) == 2 * (6 + 4 + 6)  # no two chunks, tasks or rounds share random bits
    # Started again after a kill in round 2, it makes what is missing, from the same numbers.
    for name in ("demonstrations/manifest.json", "report.json", "evaluate/sft/scores.json"):
        (workdir / "round_2" / name).unlink()
    calls = []
    original = distillation.harvest
    monkeypatch.setattr(distillation, "harvest", lambda *a, **k: calls.append(a) or original(*a, **k))
    again = evolve.run(page, workdir)
    assert len(calls) == 4  # two chunks of each task of round 2 alone
    assert demonstrations(workdir / "round_2" / "demonstrations") == third
    assert again["rounds"] == content["rounds"]


@pytest.mark.slow
def test_a_control_is_trained_as_long_on_the_set_as_it_was(page, workdir, accepting, capsys):
    page.evolve.rounds, page.evolve.control = ((("ramp_1", 3),),), True
    content = evolve.run(page, workdir)
    folder = workdir / "round_1_control"
    assert demonstrations(folder / "demonstrations") == demonstrations(workdir / "demonstrations")
    assert content["rounds"][1]["control"] == json.loads((folder / "evaluate" / "sft" / "scores.json").read_text())
    steps = [json.loads(line)["step"] for line in (folder / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == page.evolve.steps and "1, none new" in capsys.readouterr().out


@pytest.mark.slow
def test_a_language_model_may_judge_what_the_teacher_answers(page, workdir, monkeypatch):
    page.evolve.judge, page.evolve.rounds, page.llm.url = "llm", ((("ramp_1", 3),),), "http://localhost:9"
    page.llm.model = "any"
    settings, asked = [], []

    def connect(context, judging):
        settings.append((context.cfg.llm.url, judging.to_dict()))
        return lambda batch: [asked.append(one) or 1.0 for one in batch]

    monkeypatch.setattr(training, "answer_judge", connect)
    monkeypatch.setattr(distillation, "_spans", lambda task, trajectory: ["anything"] * len(task.answers))
    monkeypatch.setattr(Trajectory, "searches", 1)
    made = evolve.run(page, workdir)["rounds"][1]["tasks"]["ramp_1"]
    assert settings == [("http://localhost:9", page.evolve.judging.to_dict())]
    assert len(asked) == 6 and made["outcomes"]["accepted"] == 3  # every wrong answer that it says yes to, one a task
    assert all(given == ["anything"] for _, given, _ in asked)


@pytest.mark.parametrize(
    "name, value",
    [
        ("judge", "who"),
        ("judge", "llm"),  # of which the page names none
        ("rounds", ((("ramp_1", 0),),)),
        ("rounds", ((),)),
        ("keep", 3),
        ("recall", 0.0),
    ],
)
def test_bad_settings_are_refused_before_any_work(page, workdir, name, value):
    page.evolve[name] = value
    with pytest.raises(ValueError, match="rounds|keep|recall|evolve.judge"):
        evolve.run(page, workdir)
    assert not (workdir / "demonstrations").exists()
