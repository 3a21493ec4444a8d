"""The export: records equal to what the tasks yield, one file for each epoch, ids and counts that agree."""

import contextlib

import pytest
import seqio

from masksearch_jax.data import records
from masksearch_jax.prep.tasks import registry, task_export
from masksearch_jax.text.tokenizer import Tokenizer


@contextlib.contextmanager
def silent(total, label):
    yield lambda done: None


@pytest.fixture(scope="module")
def exported(prepared):
    settings = registry.register(prepared)
    return prepared, task_export.export(prepared, settings, silent)


def read(directory, split, task, epoch):
    return list(records.read(task_export.task_file(directory, split, task, epoch), records.Task))


def test_counts_and_files(exported):
    directory, counts = exported
    assert set(counts) == {"train", "test"} and set(counts["test"]) == {"ramp_1", "ramp_2", "ramp_3", "ramp_4", "qa"}
    files = {path.relative_to(directory).as_posix() for path in (directory / "tasks").rglob("*.array_record")}
    assert len(files) == 4 * 3 + 4 + 1
    for split, by_task in counts.items():
        for task, numbers in by_task.items():
            assert numbers == [len(read(directory, split, task, epoch)) for epoch in range(len(numbers))]


def test_records_are_whole(exported, annotated):
    directory, _ = exported
    passages = {p.id: p for p in annotated["train"]}
    tokenizer = Tokenizer(directory / "tokenizer.model")
    seen = set()
    for masks in registry.MASKS:
        for epoch in range(3):
            found = read(directory, "train", f"ramp_{masks}", epoch)
            assert [t.passage_id for t in found] == sorted(t.passage_id for t in found)
            for task in found:
                seen.add(task.id)
                passage = passages[task.passage_id]
                assert task.masks == masks == len(task.span_kinds) == task.text.count("[mask]")
                assert (task.kind, task.split, task.article_id) == ("ramp", "train", passage.id // 3)
                refilled = task.text
                for (answer,) in task.answers:
                    refilled = refilled.replace("[mask]", answer, 1)
                assert refilled == task.paragraph == passage.text
                assert tokenizer.decode(task.prompt) == " " + task.text
                answers = "; ".join(golds[0] for golds in task.answers)
                assert tokenizer.decode(task.targets) == f"<answer> {answers}</answer>"
    assert len(seen) == sum(len(read(directory, "train", f"ramp_{n}", e)) for n in registry.MASKS for e in range(3))


def test_records_equal_the_seqio_task(exported):
    directory, _ = exported
    dataset = seqio.get_mixture_or_task("ramp_3").get_dataset(None, split="test", shuffle=False)
    expected = [(int(e["id"]), e["inputs"].tolist(), e["targets"].tolist()) for e in dataset.as_numpy_iterator()]
    assert [(t.passage_id, t.prompt, t.targets) for t in read(directory, "test", "ramp_3", 0)] == expected


def test_question_record(exported):
    (task,) = read(exported[0], "test", "qa", 0)
    assert (task.id, task.kind, task.answers, task.masks) == ("test/qa/q7", "qa", [["São Velith", "Velith"]], 1)
    assert (task.passage_id, task.article_id, task.paragraph, task.span_kinds) == (-1, -1, "", ["answer"])
    # Its answer is never cut at a separator, and a curriculum calls it 'qa'; a masked passage rests on nothing else.
    assert (task.answer_form, task.task_name, task.supporting) == ("whole", "qa", ["Karv", "São Velith"])
    masked = read(exported[0], "test", "ramp_2", 0)[0]
    assert (masked.answer_form, masked.task_name, masked.supporting) == ("spans", "ramp_2", [])


def test_an_epoch_without_examples_is_an_empty_file(tmp_path):
    assert task_export._write_epochs(iter([]), 2, tmp_path, "test", "ramp_4") == [0, 0]
    assert read(tmp_path, "test", "ramp_4", 1) == []
    with pytest.raises(RuntimeError, match="epoch 0 came twice"):
        task_export._write_epochs(iter([(0, _task()), (1, _task()), (0, _task())]), 2, tmp_path, "test", "ramp_4")


def test_a_second_export_is_the_same(exported, tmp_path):
    directory, _ = exported
    epochs = [[], [], []]
    for epoch, record in task_export.masked_passages("ramp_2", "train", "spans"):
        epochs[epoch].append(record)
    assert epochs == [read(directory, "train", "ramp_2", epoch) for epoch in range(3)]


def _task():
    return records.Task("i", "ramp", "test", [3], [4], "spans", [["a"]], ["link"], "[mask]", "a", "t", 0, 0)
