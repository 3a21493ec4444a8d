"""Tasks that the data holds nothing of are left out of the settings, or end the run: `empty_tasks`."""

import json

import pytest

from masksearch_jax.data import records
from masksearch_jax.workflows import empty_tasks, evaluation, synthesis_stage, training
from masksearch_jax.workflows.context import RunContext

MIX = (("ramp_1", 0.5), ("ramp_2", 0.3), ("ramp_3", 0.1), ("qa", 0.1))


@pytest.fixture
def asking(cfg, workdir):
    """Settings that ask for more masks than the data has; of ramp_3 there are empty files, of the rest none."""
    for split in ("train", "validation", "test"):
        records.write(workdir / "data" / "tasks" / split / "ramp_3" / "epoch_0.array_record", [])
    cfg.empty_tasks = "skip"
    cfg.synthesize.examples.update({"ramp_1": 20, "ramp_2": 10, "ramp_3": 5, "ramp_4": 5, "qa": 5})
    cfg.evaluate.episodes.update({"ramp_1": 4, "ramp_2": 2, "ramp_3": 2, "ramp_4": 2, "qa": 2})
    cfg.sft.curriculum = ((10, (("ramp_3", 1.0),)), (None, MIX))
    cfg.dapo.curriculum = ((None, MIX),)
    cfg.validation_tasks = ("ramp_1", "ramp_4")
    return cfg


def test_they_are_left_out_with_one_warning(asking, workdir, capsys):
    training.ensure_data(asking, workdir)
    kept = (("ramp_1", 0.5), ("ramp_2", 0.3))
    assert asking.sft.curriculum == asking.dapo.curriculum == ((None, kept),)
    assert asking.validation_tasks == ("ramp_1",)
    assert {name for name, count in asking.synthesize.examples.items() if count} == {"ramp_1", "ramp_2"}
    warned = capsys.readouterr().err
    assert warned.count("left out:") == 1 and "ramp_3 of the split train" in warned and "qa of the split test" in warned
    training.ensure_data(asking, workdir)
    assert "left out" not in capsys.readouterr().err
    assert set(evaluation.suites_of(RunContext(asking, workdir))) == {"ramp_1", "ramp_2"}


def test_a_task_without_a_demonstration_is_left_out_of_sft(asking, workdir, capsys, monkeypatch):
    made = synthesis_stage.mask_teacher.synthesize

    def refusing(tasks, *others):
        for task, outcome in zip(tasks, made(tasks, *others), strict=True):
            yield outcome if len(task.answers) == 1 else synthesis_stage.mask_teacher.Outcome(task.id, None, "miss")

    monkeypatch.setattr(synthesis_stage.mask_teacher, "synthesize", refusing)
    training.ensure_data(asking, workdir)
    context = RunContext(asking, workdir)
    for _ in range(2):  # made, and then found
        training.ensure_demonstrations(context)
        assert asking.sft.curriculum == ((None, (("ramp_1", 0.5),)),)
        assert len(asking.dapo.curriculum[0][1]) == 2
        assert "left out: ramp_2 of sft.curriculum; no demonstration" in capsys.readouterr().err or _
        asking.sft.curriculum = ((None, MIX[:2]),)
    manifest = json.loads((workdir / "demonstrations" / "manifest.json").read_text())
    assert manifest["tasks"]["ramp_2"]["written"] == 0


def test_nothing_left_is_an_error(asking, workdir, tmp_path):
    empty_tasks.leave_out(asking, tmp_path / "none")  # whoever opens the data says that it is missing
    asking.dapo.curriculum = ((None, (("ramp_4", 1.0),)),)
    with pytest.raises(ValueError, match=r"dapo.curriculum=.* holds nothing of ramp_4; prepare a larger corpus"):
        empty_tasks.leave_out(asking, workdir)


def test_an_evaluation_of_benchmarks_alone_needs_no_tasks(asking, workdir):
    asking.evaluate.episodes.update(dict.fromkeys(asking.evaluate.episodes, 0))
    empty_tasks.leave_out(asking, workdir)


def test_by_default_a_missing_task_is_an_error(asking, workdir):
    asking.empty_tasks, asking.synthesize.examples.qa = "refuse", 0
    training.ensure_data(asking, workdir)
    with pytest.raises(ValueError, match=r"holds no training task of ramp_3, of which synthesize.examples asks for 5"):
        training.ensure_demonstrations(RunContext(asking, workdir))
