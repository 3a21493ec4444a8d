"""Stage II: SFT and DAPO on questions, from a stage I checkpoint; on a made world, and on HotpotQA where it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import evaluate as evaluate_page
from configs import stage2_dapo
from masksearch_jax.data import records
from masksearch_jax.evals import runner
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.runtime import metrics
from masksearch_jax.text import prompt
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.workflows import evaluation, synthesis_stage, training
from masksearch_jax.workflows.context import RunContext

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def asked(cfg, workdir):
    """(page, W): stage II with everything small, and questions about each person's city and its year in W/data."""
    stage2_dapo.stage2_sft.questions(cfg)
    cfg.dapo.curriculum = ((None, (("qa", 1.0),)),)
    cfg.synthesize.update({"association_tasks": 10, "styles": {"title": 0.0, "passage": 1.0, "associated": 0.0}})
    cfg.sft.steps = cfg.sft.checkpoint_every = cfg.sft.optimizer.total_steps = 2
    cfg.dapo.update({"iterations": 1, "dynamic_sampling": False, "checkpoint_every": 1})
    tokenizer = tokenizer_lib.load(workdir / "data")
    passages = list(records.read(workdir / "data" / "passages.array_record", records.Passage))
    for split in ("train", "validation", "test"):
        questions = []
        for person, city in zip(passages[0::2], passages[1::2], strict=True):
            if person.split == split:
                text = f"In what year was a person born in {city.title}?"
                questions.append(
                    records.Task(
                        id=f"{split}/qa/{person.id}", kind="qa", split=split,
                        prompt=tokenizer.encode(prompt.question_prompt(text)), targets=[], answer_form="whole",
                        answers=[[person.text.split()[-1][:-1]]], span_kinds=["answer"], text=text, paragraph="",
                        title="", passage_id=-1, article_id=-1, supporting=[city.title, person.title],
                    )
                )  # fmt: skip
        records.write(workdir / "data" / "tasks" / split / "qa" / "epoch_0.array_record", questions)
    return cfg, workdir


def assert_equal(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def test_both_stages_of_training_and_evaluation_on_questions(asked, tmp_path, monkeypatch):
    cfg, workdir = asked
    requests = []
    original = RolloutEngine.run

    def run(self, params, wanted, **more):
        requests.extend(wanted)
        return original(self, params, wanted, **more)

    monkeypatch.setattr(RolloutEngine, "run", run)
    cfg.stage = "sft"
    supervised = training.run(cfg, workdir)
    made = json.loads((workdir / "demonstrations" / "manifest.json").read_text())["tasks"]
    assert made["qa"]["written"] > 10 and not any(made[name] for name in made if name != "qa")
    assert not list((workdir / "demonstrations").glob("ramp_*"))
    # By RL from there, in a workdir of its own: no demonstrations, no SFT.
    second = tmp_path / "second"
    shutil.copytree(workdir / "data", second / "data")
    cfg.stage, cfg.start, cfg.dapo.eval_every = "dapo", str(workdir / "sft"), 0
    trained = training.run(cfg, second)
    assert sorted(p.name for p in second.iterdir()) == ["dapo", "data"]
    assert {r.task.kind for r in requests} == {"qa"} and {r.task.split for r in requests} == {"train"}
    row = metrics.read_rows(second / "dapo" / "metrics.jsonl")[-1]
    assert "reward_answer/qa" in row and not any(name.startswith("reward_answer/ramp") for name in row)
    # Two optimizer steps at a small rate: near where it started, and not there.
    steps = [float(abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (trained, supervised)), strict=True)]
    assert 0 < max(steps) < 0.1
    context = RunContext(cfg, second)
    cfg.evaluate.episodes.update({"ramp_1": 4, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 3})
    scores = evaluation.run(context, "dapo", context.engine("all", 1.0))
    assert scores["qa"]["episodes"] == 3 and set(scores) == {"ramp_1", "qa"}
    rows = runner.read_rows(second / "evaluate" / "dapo" / "rows.jsonl")
    assert [row.task_id.split("/")[0] for row in rows if row.kind == "qa"] == ["test"] * 3
    cfg.validation_episodes = 2
    assert set(name.split("/")[0] for name in context.validation(2)(trained, 1)) == {"qa"}


def test_start_gives_the_last_checkpoint_of_a_stage(asked, tmp_path, capsys):
    cfg, workdir = asked
    cfg.stage = "sft"
    first = training.run(cfg, workdir)
    cfg.start = str(workdir / "sft")
    context = RunContext(cfg, workdir)
    assert_equal(context.initial(), first)
    assert_equal(evaluation.parameters(context, "untrained"), first)
    # A stage that is older than a setting of the model was trained with its default.
    page = workdir / "sft" / "config.json"
    saved = json.loads(page.read_text())
    del saved["model"]["token_shift"]
    page.write_text(json.dumps(saved))
    assert_equal(RunContext(cfg, workdir).initial(), first)
    # Another shape and another meaning of the same shapes are both refused by name.
    for name, value in (("ff", 64), ("rope_base", 500.0)):
        other = cfg.copy_and_resolve_references()
        other.model[name] = value
        with pytest.raises(ValueError, match=f"holds another model: {name} is"):
            RunContext(other, workdir).initial()
        # So are they where the stage itself is evaluated, or finished and gone on from.
        with pytest.raises(ValueError, match=f"w/sft holds another model: {name} is"):
            RunContext(other, workdir).parameters("sft")
        with pytest.raises(ValueError, match=f"sft was trained with other settings: model.{name} is"):
            training.train_sft(RunContext(other, workdir))
    other = cfg.copy_and_resolve_references()
    other.model.remat = "full"
    assert_equal(RunContext(other, workdir).initial(), first)
    # Another objective is a new stage's own, and said.
    capsys.readouterr()
    other.search.hits, other.episode.turns = 2, 2
    RunContext(other, workdir).initial()
    said = capsys.readouterr().err
    assert "search.hits 1 -> 2" in said and "episode.turns 3 -> 2" in said and "rollout" not in said
    # The same ids have to mean the same text.
    shutil.copytree(workdir / "data", tmp_path / "other" / "data")
    texts = [p.text for p in records.read(workdir / "data" / "passages.array_record", records.Passage)]
    size = tokenizer_lib.load(workdir / "data").vocab_size
    tokenizer_lib.train(texts[::-1][:40], tmp_path / "other" / "data" / "tokenizer.model", vocab_size=size)
    with pytest.raises(ValueError, match="tokenizer"):
        RunContext(cfg, tmp_path / "other").initial()
    cfg.start = str(workdir)
    with pytest.raises(ValueError, match="holds no checkpoints; name the folder"):
        training.run(cfg, workdir)


def test_tasks_mix_and_missing_questions_are_told(asked):
    cfg, workdir = asked
    cfg.synthesize.examples.update({"ramp_1": 8, "qa": 8})
    cfg.sft.curriculum = ((None, (("qa", 0.5), ("ramp_1", 0.5))),)
    cfg.stage = "sft"
    training.run(cfg, workdir)
    kept = {p.stem for p in (workdir / "demonstrations").glob("*.array_record")}
    assert kept == {"ramp_1", "qa"}
    shutil.rmtree(workdir / "data" / "tasks" / "train" / "qa")
    with pytest.raises(ValueError, match="no training task of qa.*--config.questions=FILE"):
        synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))
    cfg.start = str(workdir / "sft")
    with pytest.raises(FileNotFoundError, match="--config.questions=FILE"):
        training.train_dapo(RunContext(cfg, workdir))


@pytest.mark.slow
def test_hotpotqa_end_to_end(data_dir, tmp_path):
    """The sample of 100 questions over the articles of their contexts: prepare, SFT, DAPO from it, evaluation."""
    workdir = tmp_path / "w"
    sources = (
        f"--config.prepare.dump={data_dir / 'hotpotqa_100_corpus.json.gz'}",
        f"--config.prepare.questions={data_dir / 'hotpotqa_100.json.gz'}",
    )

    def run(page, *flags):
        line = [sys.executable, "-m", "masksearch_jax.train", f"--config=configs/{page}", f"--workdir={workdir}"]
        environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
        subprocess.run([*line, *flags], cwd=ROOT, env=environment, check=True)

    run("stage2_sft.py:dump", *sources, "--config.sft.steps=20")
    run(
        "stage2_dapo.py:dump", *sources, f"--config.start={workdir / 'sft'}", "--config.dapo.iterations=1",
        "--config.dapo.dynamic_sampling=False", "--config.dapo.max_generations=1",
    )  # fmt: skip
    page = evaluate_page.get_config("dump")
    page.mesh.data = 1
    page.evaluate.episodes.update({"ramp_1": 2, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0})
    context = RunContext(page, workdir)
    scores = evaluation.run(context, "dapo", context.engine("all", 1.0))
    made = json.loads((workdir / "demonstrations" / "manifest.json").read_text())["tasks"]["qa"]
    assert made["written"] > 20 and made["searches"] / made["written"] > 1.3  # two articles a question
    tasks = {
        split: list(records.read(workdir / "data" / "tasks" / split / "qa" / "epoch_0.array_record", records.Task))
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, tasks.values())) == 100 and len({t.text for found in tasks.values() for t in found}) == 100
    # Each question stands where the most held-out of its articles does: a test question needs one unknown to training.
    passages = records.read(workdir / "data" / "passages.array_record", records.Passage)
    rank, split_of = {split: number for number, split in enumerate(tasks)}, {p.title: p.split for p in passages}
    for split, found in tasks.items():
        assert all(max((split_of[title] for title in t.supporting), key=rank.get) == split for t in found)
    assert scores["qa"]["episodes"] == len(tasks["test"])
    (row,) = metrics.read_rows(workdir / "dapo" / "metrics.jsonl")
    assert row["batch_groups"] > 0 and np.isfinite(row["grad_norm"])
