"""Benchmarks evaluated: every one in the data, its own scores, the index that it asks for; the real ones end to end."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import evaluate as evaluate_page
from masksearch_jax.data import records
from masksearch_jax.evals import runner
from masksearch_jax.retrieval.index import build
from masksearch_jax.text import prompt
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.workflows import evaluation
from masksearch_jax.workflows.context import RunContext

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def asked(cfg, workdir):
    """(page, W) with HotpotQA, FanOutQA and FreshQA in W/data, and a newer article of the first test article."""
    data = workdir / "data"
    tokenizer = tokenizer_lib.load(data)
    passages = list(records.read(data / "passages.array_record", records.Passage))
    old = next(p for p in passages if p.split == "test")
    newer = records.Passage(len(passages), old.article_id, old.title, f"{old.title} moved to Nowhere in 2024.", "newer")
    records.write(data / "passages.array_record", [*passages, newer])
    held = [p for p in [*passages, newer] if p.title != old.title or p is newer]
    build.build_index(data / "index" / "fresh", held, {"encoder": "lexical", "index": "exact", "dims": 512})
    for index, splits in (("train", ["train"]), ("all", ["train", "validation", "test"])):
        inside = [p for p in passages if p.split in splits]
        build.build_index(data / "index" / index, inside, {"encoder": "lexical", "index": "exact", "dims": 512})
    asked = {
        "hotpotqa": (f"Where was {old.title} born?", "yes", None),
        "fanoutqa": (f"Where was {old.title} born?", "a - 1\nb - 2", {"a": 1, "b": 2}),
        "freshqa": (f"{old.title} moved to where in 2024?", "Nowhere", None),
    }
    for name, (text, gold, reference) in asked.items():
        tasks = [
            records.Task(
                id=f"test/qa_{name}/{number}", kind="qa", split="test",
                prompt=tokenizer.encode(prompt.question_prompt(text)), targets=[], answer_form="whole",
                answers=[[gold]], span_kinds=["answer"], text=text, paragraph="", title="", passage_id=-1,
                article_id=-1, benchmark=name, reference=reference, details={"number": str(number)},
            )
            for number in range(5)
        ]  # fmt: skip
        records.write(data / "tasks" / "test" / f"qa_{name}" / "epoch_0.array_record", tasks)
    cfg.evaluate.episodes.update({"ramp_1": 0, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 100})
    cfg.evaluate.benchmarks.update({"hotpotqa": 2, "fanoutqa": -1, "freshqa": 3, "musique": 100})
    return cfg, workdir, old.id, newer.id


def test_each_benchmark_of_the_data_is_a_suite(asked):
    cfg, workdir, old, newer = asked
    context = RunContext(cfg, workdir)
    engine = context.engine("all", 1.0)
    scores = evaluation.run(context, "one_search", engine, context.initial())
    assert {name: score["episodes"] for name, score in scores.items()} == {"hotpotqa": 2, "fanoutqa": 5, "freshqa": 3}
    assert {name for name, score in scores.items() if "loose" in score} == {"fanoutqa"}
    assert json.loads((workdir / "evaluate" / "one_search" / "scores.json").read_text()) == scores
    rows = runner.read_rows(workdir / "evaluate" / "one_search" / "rows.jsonl")
    assert [row.benchmark for row in rows] == ["hotpotqa"] * 2 + ["fanoutqa"] * 5 + ["freshqa"] * 3
    assert [row.details["number"] for row in rows[7:]] == ["0", "1", "2"]
    # What a question names is found by its name: nothing is excluded, and FreshQA alone sees the newer article.
    found = {row.benchmark: row.turns[0]["passages"] for row in rows}
    assert found["hotpotqa"] == found["fanoutqa"] == [old] and found["freshqa"] == [newer]
    assert engine.searcher is context.searcher("all")
    assert scores["freshqa"]["hit"] == 1.0 and scores["hotpotqa"]["hit"] == 0.0
    # Without a newer dump it searches like the others.
    (workdir / "data" / "index" / "fresh").rename(workdir / "data" / "index" / "other")
    cfg.evaluate.benchmarks.update({"hotpotqa": 0, "fanoutqa": 0})
    assert list(evaluation.run(context, "one_search", engine, context.initial())) == ["freshqa"]
    (*_, row) = runner.read_rows(workdir / "evaluate" / "one_search" / "rows.jsonl")
    assert row.turns[0]["passages"][0] < newer


@pytest.mark.slow
def test_hotpotqa_and_fanoutqa_from_their_official_files(data_dir, tmp_path):
    """Prepare over the articles of HotpotQA's sample; then one retrieval with untrained weights on both benchmarks."""
    workdir = tmp_path / "w"
    line = [
        sys.executable, "-m", "masksearch_jax.prepare", "--config=configs/prepare.py", f"--workdir={workdir}",
        f"--config.dump={data_dir / 'hotpotqa_100_corpus.json.gz'}",
        f"--config.questions={data_dir / 'hotpotqa_100.json.gz'}",
        f"--config.benchmarks.hotpotqa={data_dir / 'hotpotqa_100.json.gz'}",
        f"--config.benchmarks.fanoutqa={data_dir / 'fanoutqa_dev.json.gz'}",
    ]  # fmt: skip
    subprocess.run(line, check=True, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)})
    written = json.loads((workdir / "data" / "manifest.json").read_text())
    assert written["examples"]["test"]["qa_hotpotqa"] == [100]
    assert written["examples"]["test"]["qa_fanoutqa"] == [310]
    assert written["examples"]["test"]["qa"] == [100] and "qa" not in written["examples"]["train"]  # all are tested
    cfg = evaluate_page.get_config("dump")
    cfg.evaluate.episodes.update(dict.fromkeys(cfg.evaluate.episodes, 0))
    cfg.evaluate.benchmarks.update({"hotpotqa": 40, "fanoutqa": 24})
    context = RunContext(cfg, workdir)
    scores = evaluation.run(context, "one_search", context.engine("all", 1.0), context.initial())
    print(json.dumps(scores, indent=1))
    assert {name: score["episodes"] for name, score in scores.items()} == {"hotpotqa": 40, "fanoutqa": 24}
    # The articles of HotpotQA's own contexts are in the index: the answer is often in one of three passages found.
    assert scores["hotpotqa"]["hit"] > 0.3 and scores["hotpotqa"]["searches"] == 1.0
    rows = runner.read_rows(workdir / "evaluate" / "one_search" / "rows.jsonl")
    assert all(row.loose is not None for row in rows if row.benchmark == "fanoutqa")
    # Untrained weights answer nothing; the scores say so instead of failing.
    assert scores["hotpotqa"]["recall"] < 0.2 and 0.0 <= scores["fanoutqa"]["loose"] < 0.2


def test_a_killed_evaluation_goes_on_with_its_next_suite(asked, monkeypatch, capsys):
    cfg, workdir, _, _ = asked
    context, played, kills = RunContext(cfg, workdir), [], ["fanoutqa"]
    engine, play = context.engine("all", 1.0), runner.evaluate

    def counted(engine, params, tasks, **other):
        played.append(tasks[0].benchmark)
        if played[-1] in kills:
            raise OSError("killed in the second suite")
        return play(engine, params, tasks, **other)

    monkeypatch.setattr(runner, "evaluate", counted)
    with pytest.raises(OSError, match="killed"):
        evaluation.run(context, "untrained", engine)
    kills.clear()
    folder = workdir / "evaluate" / "untrained"
    assert not (folder / "scores.json").exists()
    scores = evaluation.run(context, "untrained", engine)
    assert played == ["hotpotqa", "fanoutqa", "fanoutqa", "freshqa"] and not (folder / "suites").exists()
    # As an evaluation in one go has them.
    assert evaluation.run(context, "untrained", engine, context.initial()) == scores
    rows = (folder / "rows.jsonl").read_bytes()
    # Given parameters leave no name; the same weights by name are scored once, and read from then on.
    played.clear()
    assert evaluation.run(context, "untrained", engine, reuse=True) == scores and len(played) == 3
    assert evaluation.run(context, "untrained", engine, reuse=True) == scores and len(played) == 3
    assert (folder / "rows.jsonl").read_bytes() == rows
    assert "has the scores of untrained already" in capsys.readouterr().err
    # With another limit these are other episodes.
    cfg.episode.turns = cfg.episode.turns - 1
    evaluation.run(RunContext(cfg, workdir), "untrained", engine, reuse=True)
    assert len(played) == 6


def test_rows_of_other_weights_answers_or_passages_are_not_taken_for_these(asked, tmp_path):
    cfg, workdir, _, _ = asked
    context = RunContext(cfg, workdir)

    def identity(context):
        return evaluation._identity(context, "untrained", evaluation.suites_of(context))

    seen = [identity(context)]
    assert identity(RunContext(cfg, workdir)) == seen[0]
    cfg.adapters = str(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    seen.append(identity(context))
    # A new key for the same questions; then other passages, which the manifest lists.
    path = workdir / "data" / "tasks" / "test" / "qa_hotpotqa" / "epoch_0.array_record"
    tasks = [dataclasses.replace(task, answers=[["no"]]) for task in records.read(path, records.Task)]
    records.write(path, tasks)
    seen.append(identity(context))
    (workdir / "data" / "manifest.json").write_text('{"files": {}}')
    seen.append(identity(context))
    assert all(one != other for one, other in itertools.combinations(seen, 2))
