"""A benchmark of one's own on data that is prepared already, sampled evaluation, and evaluations by name."""

import json
from types import SimpleNamespace

import pytest

from masksearch_jax.data import records
from masksearch_jax.evals import runner
from masksearch_jax.rollout.device_programs import Sampling
from masksearch_jax.scoring.benchmark_metrics import ChosenMetric
from masksearch_jax.text import prompt, tags
from masksearch_jax.workflows import custom_benchmark, evaluation
from masksearch_jax.workflows.context import RunContext

QUESTIONS = [
    {"question": "Who was born in Tolm?", "answer": "Karn Velith", "aliases": ["Karn"]},
    {"question": "Is <answer> a tag?", "answer": "no"},
    {"question": "When?", "answer": ["1200", "the year 1200"]},
]


@pytest.fixture
def own(cfg, workdir, tmp_path):
    """(page, W) with a file of three questions as the only suite."""
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)))
    cfg.evaluate.episodes.update(dict.fromkeys(cfg.evaluate.episodes, 0))
    cfg.benchmarks.custom = str(file)
    return cfg, workdir


def test_the_tasks(own):
    cfg, workdir = own
    context = RunContext(cfg, workdir)
    found = custom_benchmark.tasks(context)
    assert [task.id for task in found] == [f"test/qa_custom/row-{i}" for i in range(3)]
    assert [task.answers for task in found] == [[["Karn Velith", "Karn"]], [["no"]], [["1200", "the year 1200"]]]
    assert found[0].prompt == context.tokenizer.encode(prompt.question_prompt(QUESTIONS[0]["question"]))
    assert "<answer>" not in found[1].text and tags.neutralise(QUESTIONS[1]["question"]) == found[1].text
    cfg.benchmarks.episodes = 2
    assert len(custom_benchmark.tasks(context)) == 2
    cfg.benchmarks.custom = "nowhere.jsonl"
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl does not exist"):
        custom_benchmark.tasks(context)
    cfg.benchmarks.custom = ""
    assert custom_benchmark.tasks(context) == []


def test_what_is_trained_on_is_said(own, capsys):
    cfg, workdir = own
    context = RunContext(cfg, workdir)
    (task, *_) = custom_benchmark.tasks(context)
    records.write(workdir / "data" / "tasks" / "train" / "qa" / "epoch_0.array_record", [task])
    custom_benchmark._trained_on.cache_clear()
    assert len(custom_benchmark.tasks(context)) == 3
    assert "1 of the 3 questions of" in capsys.readouterr().err


def test_an_engine_of_another_temperature_than_the_identity_is_refused(own):
    cfg, workdir = own
    context, engine = RunContext(cfg, workdir), SimpleNamespace(cfg=SimpleNamespace(sampling=Sampling(1.0)))
    cfg.evaluate.samples, cfg.evaluate.temperature = 2, 0.7
    with pytest.raises(ValueError, match=r"samples at a temperature of 1 and not at evaluate.temperature=0.7"):
        evaluation.run(context, "untrained", engine)
    assert evaluation.open_engine(context).cfg.sampling.temperature == 0.7


def test_a_suite_beside_the_others_with_samples_and_names(own, monkeypatch, capsys):
    cfg, workdir = own
    cfg.evaluate.samples, cfg.evaluate.temperature = 3, 0.8
    context = RunContext(cfg, workdir)
    engine = evaluation.open_engine(context)
    manifest = (workdir / "data" / "manifest.json").read_bytes()
    scores = evaluation.run(context, "untrained", engine, name="mine-1")
    folder = workdir / "evaluate" / "mine-1"
    rows, drawn = (runner.read_rows(folder / name) for name in ("rows.jsonl", "sampled.jsonl"))
    assert [row.suite for row in rows] == ["custom"] * 3 and [row.sample for row in drawn] == [0, 1, 2] * 3
    assert all(row.score == row.em for row in rows) and scores["custom"]["score"] == scores["custom"]["em"]
    assert list(scores["custom"]["sampled"]["pass"]) == ["1", "2", "3"]
    of_first = [row for row in drawn if row.task_id == rows[0].task_id]
    assert len({row.turns[0]["text"] for row in of_first}) > 1  # drawn apart
    assert (workdir / "data" / "manifest.json").read_bytes() == manifest

    # The same again is read; the greedy rows are those of an evaluation without samples; another one is refused.
    monkeypatch.setattr(runner, "evaluate", None)
    assert evaluation.run(context, "untrained", engine, name="mine-1") == scores
    assert "has the scores of untrained already" in capsys.readouterr().err
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    cfg.benchmarks.metric = "f1"
    with pytest.raises(
        ValueError, match=r"mine-1 holds another evaluation.*another --name. What differs: metric.metric"
    ):
        evaluation.run(RunContext(cfg, workdir), "untrained", engine, name="mine-1")
    cfg.benchmarks.metric = "em"
    with pytest.raises(ValueError, match="What differs: policy"):
        evaluation.run(RunContext(cfg, workdir), "rag", engine, name="mine-1")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == kept
    for name in ("dapo", "../up", "a b", ".hidden"):
        with pytest.raises(ValueError, match="--name=.*has to be a folder's name"):
            evaluation.run(context, "untrained", engine, name=name)


@pytest.mark.parametrize(
    "name, rules, said, score",
    [
        ("em", "squad", "the Karn Velith", 1.0),
        ("em", "squad", "it was Karn Velith", 0.0),
        ("contains", "squad", "it was Karn Velith", 1.0),
        ("contains", "squad", "Karn", 0.0),
        ("f1", "squad", "Karn", 2 / 3),
        ("recall", "squad", "Karn", 0.5),
        ("em", "triviaqa", "Karn-Velith", 1.0),
        ("em", "squad", "Karn-Velith", 0.0),
    ],
)
def test_the_chosen_metric(name, rules, said, score):
    assert ChosenMetric(name, rules).of(said, ["Karn Velith"])[1] == pytest.approx(score)


def test_a_metric_that_is_none():
    with pytest.raises(ValueError, match="benchmarks.metric='luck' is none of"):
        ChosenMetric("luck")
    with pytest.raises(ValueError, match="benchmarks.rules='luck' is none of"):
        ChosenMetric("em", "luck")
