"""The registered tasks: found by name, the same masks under any sharding or order, mixtures, questions, refusals."""

import dataclasses
import importlib
import shutil

import pytest
import seqio
import tensorflow as tf
import tiny_published

from masksearch_jax.prep.tasks import registry, task_export, vocabulary
from masksearch_jax.text import chat_template, prompt, published_tokenizer
from masksearch_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", autouse=True)
def registered(prepared):
    return registry.register(prepared)


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
        registry.register(prepared, seed=4)
        other = drawn(shuffle=False)
    finally:
        registry.register(prepared)
    assert {text for _, _, text in other} != {text for _, _, text in whole}


def test_mixture_holds_all_its_tasks(prepared):
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
    said = "It is [mask]. Fill in {clues}."
    try:
        registry.register(prepared, question_instruction=said)
        dataset = seqio.get_mixture_or_task("qa").get_dataset(sequence_length=None, split="test", shuffle=False)
        (example,) = dataset.as_numpy_iterator()
        text = prompt.question_prompt("Where was Karv born?", said)
        assert text.endswith('Fill in "Where was Karv born? It is [mask].".')
        assert example["inputs"].tolist() == tokenizer.encode(text)
    finally:
        registry.register(prepared)


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
    monkeypatch.setenv(registry.ENVIRONMENT, str(prepared))
    seqio.TaskRegistry.remove("ramp_3")
    importlib.reload(registry)
    assert seqio.get_mixture_or_task("ramp_all").num_input_examples("test") == 160  # 40 passages in each of four tasks


def test_refusals(prepared, registered, tmp_path):
    with pytest.raises(FileNotFoundError, match="masksearch_jax.prepare"):
        registry.register(tmp_path)
    with pytest.raises(ValueError, match="answer_form='word'"):
        registry.register(prepared, answer_form="word")
    with pytest.raises(ValueError, match=r"span_weights\['date'\]=-1"):
        dataclasses.replace(registered, span_weights={"date": -1})
    with pytest.raises(ValueError, match=r"epochs\['train'\]=0"):
        dataclasses.replace(registered, epochs={"train": 0})


@pytest.fixture(scope="module", params=tiny_published.MAKERS)
def of_a_checkpoint(request, prepared, tmp_path_factory):
    """The prepared data with the tokenizer of a published model instead: (directory, tokenizer, kind)."""
    directory = tmp_path_factory.mktemp(request.param)
    shutil.copytree(prepared / "annotated", directory / "annotated")
    folder = tiny_published.MAKERS[request.param](directory / "checkpoint")
    yield directory, published_tokenizer.copy(folder, directory / "tokenizer"), request.param
    registry.register(prepared)


def test_tasks_run_with_the_tokenizer_of_a_checkpoint(of_a_checkpoint, prepared, whole):
    directory, tokenizer, _ = of_a_checkpoint
    registry.register(directory, instruction="Fill in.")
    assert drawn(shuffle=False) == whole  # the masks are none of the tokenizer's business
    for split in ("train", "test"):
        dataset = seqio.get_mixture_or_task("ramp_2").get_dataset(sequence_length=None, split=split, shuffle=False)
        for example in dataset.as_numpy_iterator():
            text = prompt.ramp_prompt(example["masked"].decode(), "Fill in.")
            assert example["inputs"].tolist() == tokenizer.prefix_ids + tokenizer.encode(text)
            answer = "; ".join(part.decode() for part in example["answers"])
            assert example["targets"].tolist() == tokenizer.encode(f"<answer> {answer}</answer>")
    assert {e["inputs"].dtype.name for e in dataset.as_numpy_iterator()} == {"int32"}


# Around a text, with a system message.
WHOLE = {
    "qwen": ("<|im_start|>system\nUse <search>.<|im_end|>\n<|im_start|>user\n",
             "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "llama": ("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
              "Today Date: 26 Jul 2024\n\nUse <search>.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
              "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    "gemma": ("<bos><start_of_turn>user\nUse <search>.\n\n", "<end_of_turn>\n<start_of_turn>model\n"),
}  # fmt: skip


def test_chat_prompts_are_those_of_the_whole_template(of_a_checkpoint):
    directory, tokenizer, kind = of_a_checkpoint
    variables = {"enable_thinking": False} if kind == "qwen" else {}
    # The templates of the other two drop blank space around a message.
    blank = "" if kind == "qwen" else " \n\u2003"
    changes = {"chat": "auto", "system": "Use <search>.", "chat_variables": variables}
    settings = registry.register(directory, **changes, question_instruction="Briefly." + blank)
    assert (settings.chat, settings.system, settings.chat_variables) == ("auto", "Use <search>.", variables)
    template = chat_template.open_chat_template(tokenizer, "auto", "Use <search>.", variables)
    before, after = WHOLE[kind]
    for task, name in (("ramp_1", "masked"), ("qa", "question")):
        dataset = seqio.get_mixture_or_task(task).get_dataset(sequence_length=None, split="test", shuffle=False)
        for example in dataset.as_numpy_iterator():
            body = example[name].decode() + (" Briefly." if task == "qa" else "")
            assert example["inputs"].tolist() == tokenizer.encode_control(before + body + after)
            assert example["inputs"].tolist() == template.encode(tokenizer, body + blank)
    (record,) = [record for _, record in task_export.masked_passages("ramp_1", "test", "spans")][:1]
    assert tokenizer.decode(record.prompt) == before + record.text + after


def test_outputs_after_a_thought_that_the_prompt_opened_are_read(prepared, tmp_path):
    """By SeqIO's own evaluators too."""
    shutil.copytree(prepared / "annotated", tmp_path / "annotated")
    tokenizer = published_tokenizer.copy(tiny_published.reasoner(tmp_path / "checkpoint"), tmp_path / "tokenizer")
    output = "so</think><answer> Oslo</answer>"
    try:
        for chat, read in (("", ""), ("auto", "Oslo")):
            registry.register(tmp_path, chat=chat)
            task = seqio.get_mixture_or_task("qa")
            (example,) = task.get_dataset(sequence_length=None, split="test", shuffle=False).as_numpy_iterator()
            assert tokenizer.decode(example["inputs"]).endswith("<think>\n") == bool(chat)
            assert task.postprocess_fn(output, example=example, is_target=False) == read
    finally:
        registry.register(prepared)


def test_vocabulary_of_a_checkpoint(of_a_checkpoint):
    directory, tokenizer, _ = of_a_checkpoint
    ours = vocabulary.of(tokenizer)
    texts = ["<answer> São Velith</answer>", "", "日本 🎈", " x" * 40]
    assert (ours.vocab_size, ours.eos_id, ours.pad_id) == (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id)
    assert ours.bos_id == (tokenizer.prefix_ids or [None])[0] and ours.unk_id is None
    assert ours.encode_tf(tf.constant(texts)).to_list() == [ours.encode(text) for text in texts]
    assert ours.encode_tf(tf.constant(texts[2])).numpy().tolist() == tokenizer.encode(texts[2])
    ids = tokenizer.encode(texts[2])
    assert ours.decode([*ids, tokenizer.eos_id, 5, 5]) == texts[2] + tokenizer.decode([tokenizer.eos_id])
    assert ours.decode_tf(tf.constant(ids)).numpy().decode() == texts[2]
    assert ours.decode_tf(tf.constant([ids, ids])).numpy().tolist() == [texts[2].encode()] * 2
    again = published_tokenizer.PublishedTokenizer(directory / "checkpoint")
    assert ours == vocabulary.of(again) and hash(ours) == hash(vocabulary.of(again)) and ours != "x"
    with pytest.raises(ValueError, match="one text or a batch"):
        ours.encode_tf(tf.constant([texts]))
