"""The registered tasks: found by name, the same masks under any sharding or order, mixtures, questions, refusals."""

import dataclasses
import importlib

import pytest
import seqio

from masksearch_jax.prep import tasks
from masksearch_jax.text import prompt
from masksearch_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", autouse=True)
def registered(prepared):
    return tasks.register(prepared)


def drawn(task="ramp_2", split="train", **arguments):
    """[(passage, epoch, masked text)] in the order of the stream."""
    dataset = seqio.get_mixture_or_task(task).get_dataset(sequence_length=None, split=split, **arguments)
    return [(int(e["id"]), int(e["epoch"]), e["masked"].decode()) for e in dataset.as_numpy_iterator()]


@pytest.fixture(scope="module")
def whole(registered):
    return drawn(shuffle=False)


def test_masks_do_not_depend_on_sharding_or_order(whole):
    assert [epoch for _, epoch, _ in whole] == sorted(epoch for _, epoch, _ in whole)
    assert len({(id, epoch) for id, epoch, _ in whole}) == len(whole)
    shards = [drawn(shuffle=False, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
    assert all(shards) and sorted(sum(shards, [])) == sorted(whole)
    shuffled = drawn(shuffle=True, seed=11, num_epochs=2)
    assert shuffled[: len(whole)] != whole and sorted(shuffled) == sorted(whole + whole)


def test_seed_changes_masks(prepared, whole):
    try:
        tasks.register(prepared, seed=4)
        other = drawn(shuffle=False)
    finally:
        tasks.register(prepared)
    assert {text for _, _, text in other} != {text for _, _, text in whole}


def test_mixture_holds_all_its_levels(prepared):
    mask = Tokenizer(prepared / "tokenizer.model").id("[mask]")
    dataset = seqio.get_mixture_or_task("ramp_all").get_dataset(None, split="test", shuffle=False, num_epochs=1)
    examples = list(dataset.as_numpy_iterator())
    assert {int((e["inputs"] == mask).sum()) for e in examples} == {1, 2, 3, 4}
    assert [t.name for t in seqio.get_mixture_or_task("ramp_1_2").tasks] == ["ramp_1", "ramp_2"]


def test_vocabulary_and_questions(prepared):
    task = seqio.get_mixture_or_task("qa")
    tokenizer = Tokenizer(prepared / "tokenizer.model")
    vocabulary = task.output_features["inputs"].vocabulary
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert vocabulary.vocab_size == tokenizer.vocab_size
    (example,) = task.get_dataset(sequence_length=None, split="test", shuffle=False).as_numpy_iterator()
    text = prompt.question_prompt("Where was Karv born?", "Answer briefly.")
    assert example["inputs"].tolist() == tokenizer.encode(text)
    assert tokenizer.decode(example["targets"]) == "<answer> São Velith</answer>"
    assert "train" not in task.splits


def test_feature_converter_takes_the_tasks():
    dataset = seqio.get_dataset(
        "ramp_2",
        {"inputs": 64, "targets": 16},
        seqio.EncDecFeatureConverter(pack=True),
        dataset_split="test",
        shuffle=False,
    )
    assert next(dataset.as_numpy_iterator())["encoder_input_tokens"].shape == (64,)


def test_importing_with_the_environment_registers(prepared, monkeypatch):
    monkeypatch.setenv(tasks.ENVIRONMENT, str(prepared))
    seqio.TaskRegistry.remove("ramp_3")
    importlib.reload(tasks)
    assert seqio.get_mixture_or_task("ramp_all").num_input_examples("test") == 160  # 40 passages in each of four tasks


def test_refusals(prepared, registered, tmp_path):
    with pytest.raises(FileNotFoundError, match="masksearch_jax.prepare"):
        tasks.register(tmp_path)
    with pytest.raises(ValueError, match="answer_form='word'"):
        tasks.register(prepared, answer_form="word")
    with pytest.raises(ValueError, match=r"span_weights\['date'\]=-1"):
        dataclasses.replace(registered, span_weights={"date": -1})
    with pytest.raises(ValueError, match=r"epochs\['train'\]=0"):
        dataclasses.replace(registered, epochs={"train": 0})
