"""Benchmarks as SeqIO tasks: registered with metric functions, scored by SeqIO's Evaluator, exported for evaluation."""

import dataclasses
import json
import shutil

import pytest
import seqio

from masksearch_jax.data import records
from masksearch_jax.prep.splits import Splits
from masksearch_jax.prep.tasks import question_source, registry, task_export
from masksearch_jax.text import prompt
from masksearch_jax.text.tokenizer import Tokenizer

HOTPOTQA = [
    {"_id": f"h{i}", "question": text, "answer": answer, "supporting_facts": [["Karv", 0]], "type": "bridge"}
    for i, (text, answer) in enumerate([("Where was Karv born?", "São Velith"), ("Is a <answer> a tag?", "no")])
]
FANOUTQA = [{
    "id": "f1", "question": "Who is each?", "answer": {"Karv": 1984, "Velith": "town"}, "categories": [],
    "decomposition": [{"evidence": {"title": "Karv"}, "decomposition": []}],
}]  # fmt: skip


@pytest.fixture(scope="module")
def benchmarked(prepared, tmp_path_factory):
    """(data directory, settings) with two benchmarks beside what `prepared` holds; the registry is put back."""
    directory = tmp_path_factory.mktemp("benchmarked")
    shutil.copytree(prepared, directory, dirs_exist_ok=True)
    files = {"nq": "", "hotpotqa": str(directory / "dev.json"), "fanoutqa": str(directory / "fanout.json")}
    (directory / "dev.json").write_text(json.dumps(HOTPOTQA))
    (directory / "fanout.json").write_text(json.dumps(FANOUTQA))
    counts, asked = question_source.annotate_benchmarks(files, directory)
    assert counts == {"hotpotqa": 2, "fanoutqa": 1} and asked == {"where was karv born", "is answer tag", "who is each"}
    settings = registry.TaskSettings.load(directory / "annotated")
    dataclasses.replace(settings, benchmarks=counts).save(directory / "annotated")
    yield directory, registry.register(directory)
    registry.register(prepared)


def test_tasks_and_mixture(benchmarked):
    directory, settings = benchmarked
    assert settings.benchmarks == {"hotpotqa": 2, "fanoutqa": 1}
    task = seqio.get_mixture_or_task("qa_hotpotqa")
    assert set(task.splits) == {"test"} and task.num_input_examples("test") == 2
    tokenizer = Tokenizer(directory / "tokenizer.model")
    first, second = task.get_dataset(None, split="test", shuffle=False).as_numpy_iterator()
    assert first["inputs"].tolist() == tokenizer.encode(
        prompt.question_prompt("Where was Karv born?", "Answer briefly.")
    )
    assert second["inputs"].tolist() == tokenizer.encode(" Is a (answer) a tag? Answer briefly.")
    mixture = seqio.get_mixture_or_task("qa_benchmarks")
    assert {t.name for t in mixture.tasks} == {"qa_hotpotqa", "qa_fanoutqa"}
    assert "qa_nq" not in seqio.TaskRegistry.names()


def test_registering_other_data_forgets_them(benchmarked, prepared):
    directory, _ = benchmarked
    registry.register(prepared)
    assert not {"qa_hotpotqa", "qa_fanoutqa"} & set(seqio.TaskRegistry.names())
    assert "qa_benchmarks" not in seqio.MixtureRegistry.names()
    registry.register(directory)


@pytest.mark.parametrize(
    "answers, expected",
    [
        (
            ["<think> hm</think><answer> Velith</answer>", "<answer> No.</answer>", "<answer> Karv 1,984</answer>"],
            {"qa_hotpotqa": {"recall": 0.75, "f1": (2 / 3 + 1) / 2, "em": 0.5},
             "qa_fanoutqa": {"recall": 0.5, "f1": 2 / 3, "em": 0.0, "loose": 0.5}},
        ),
        (
            ["São Velith", "<search> no</search>", "<answer> a</answer><answer> Karv 1984</answer>"],
            {"qa_hotpotqa": {"recall": 0.0, "f1": 0.0, "em": 0.0},
             "qa_fanoutqa": {"recall": 0.0, "f1": 0.0, "em": 0.0, "loose": 0.0}},
        ),
    ],
)  # fmt: skip
def test_seqio_evaluates_them(benchmarked, answers, expected):
    """Through SeqIO's own Evaluator: what a model says goes in as token ids, means come out."""
    said = {"qa_hotpotqa": answers[:2], "qa_fanoutqa": answers[2:]}
    vocabulary = seqio.get_mixture_or_task("qa_hotpotqa").output_features["targets"].vocabulary
    for name, texts in said.items():
        evaluator = seqio.Evaluator(
            mixture_or_task_name=name,
            feature_converter=seqio.EncDecFeatureConverter(pack=False),
            eval_split="test",
            sequence_length={"inputs": 128, "targets": 64},
        )

        def padded(text):
            ids = [*vocabulary.encode(text), vocabulary.eos_id]
            return ids + [vocabulary.pad_id] * (96 - len(ids))

        def predict(dataset, texts=texts, padded=padded, **_):
            return [(index, padded(texts[index])) for index, _ in dataset.as_numpy_iterator()]

        future, _ = evaluator.evaluate(
            compute_metrics=True, predict_fn=predict, predict_with_aux_fn=None, score_fn=None
        )
        found = {key: getattr(value, "value", value) for key, value in future.result()[name].items()}
        assert found == pytest.approx(expected[name])


def test_records(benchmarked):
    ((_, task),) = task_export.questions("qa_fanoutqa", "test")
    assert (task.id, task.kind, task.split, task.benchmark) == ("test/qa_fanoutqa/f1", "qa", "test", "fanoutqa")
    assert task.answers == [["Karv - 1984\nVelith - town"]] and task.reference == {"Karv": 1984, "Velith": "town"}
    assert (task.details, task.task_name, task.supporting) == ({"answer": "dict"}, "qa", ["Karv"])
    assert (task.passage_id, task.article_id) == (-1, -1)  # nothing is excluded from its searches
    ((_, own),) = task_export.questions("qa", "test")
    assert (own.benchmark, own.reference, own.details) == ("", None, {})


def test_what_a_benchmark_asks_is_never_trained_on(benchmarked, tmp_path):
    asked = {"t1": "Where was Karv born", "t2": "Where did Karv die?"}
    entries = [{**HOTPOTQA[0], "_id": id, "question": text} for id, text in asked.items()]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    (tmp_path / "annotated").mkdir()
    splits = Splits("", {"train": 1.0, "validation": 0.0, "test": 0.0}, 0)
    passage = records.Passage(0, 0, HOTPOTQA[0]["supporting_facts"][0][0].upper(), "Text.", "train")
    records.write(tmp_path / "passages.array_record", [passage])
    assert question_source.annotate(tmp_path / "train.json", splits, tmp_path) == {"train": {"by_articles": 2}}
    counts = question_source.annotate(tmp_path / "train.json", splits, tmp_path, {"where was karv born"})
    assert counts == {"train": {"by_articles": 1}, "test": {"by_articles": 1}}
