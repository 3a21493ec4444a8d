"""Masks: distinct, non-overlapping, keyed by (seed, epoch, passage), refillable; TensorFlow's ids are Python's ids."""

import collections
import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from masksearch_jax.prep.tasks import ramp, registry
from masksearch_jax.text import prompt, tags
from masksearch_jax.text.tokenizer import Tokenizer


def examples(directory, task, split="train", **arguments):
    dataset = seqio.get_mixture_or_task(task).get_dataset(
        sequence_length=None, split=split, **{"shuffle": False, **arguments}
    )
    return list(dataset.as_numpy_iterator())


@pytest.fixture(scope="module")
def by_masks(prepared):
    registry.register(prepared)
    return {masks: examples(prepared, f"ramp_{masks}") for masks in registry.MASKS}


def fits(spans, masks):
    """Whether some `masks` spans do not overlap, by brute force."""
    return any(
        all(b[0] >= a[1] for a, b in itertools.pairwise(sorted(chosen)))
        for chosen in itertools.combinations(spans, masks)
    )


def test_masks_are_distinct_candidates_and_refill(by_masks, annotated):
    passages = {p.id: p for p in annotated["train"]}
    for masks, found in by_masks.items():
        for example in found:
            passage = passages[example["id"]]
            masked, answers = example["masked"].decode(), [a.decode() for a in example["answers"]]
            pieces = masked.split(tags.MASK)
            assert len(pieces) == masks + 1 and len(answers) == masks
            refilled, spans = pieces[0], []
            for answer, piece in zip(answers, pieces[1:], strict=True):
                spans.append((len(refilled), len(refilled) + len(answer)))
                refilled += answer + piece
            assert refilled == passage.text == example["text"].decode()
            assert len(set(spans)) == masks and set(spans) <= set(passage.spans)
            kinds = dict(zip(passage.spans, passage.kinds, strict=True))
            assert [kinds[span] for span in spans] == [kind.decode() for kind in example["answer_kinds"]]


def test_tasks_hold_only_passages_where_that_many_fit(by_masks, annotated):
    for masks, found in by_masks.items():
        ids = collections.Counter(example["id"] for example in found)
        impossible = {p.id for p in annotated["train"] if not fits(p.spans, masks)}
        certain = {
            p.id for p in annotated["train"]
            if len(p.spans) >= masks and all(fits(pair, 2) for pair in itertools.combinations(p.spans, 2))
        }  # fmt: skip
        assert not impossible & set(ids)
        assert all(ids[id] == 3 for id in certain)  # in each of three epochs
        assert len(certain) > 10 and len(impossible) > 10


def test_a_task_adds_one_mask_to_the_task_below(by_masks):
    below = {(e["id"], e["epoch"]): set(e["answers"]) for e in by_masks[2]}
    assert all(below[e["id"], e["epoch"]] <= set(e["answers"]) for e in by_masks[3])


def test_epochs_mask_differently_and_evenly(by_masks, annotated):
    drawn = collections.defaultdict(list)
    for example in by_masks[1]:
        drawn[example["id"]].append(example["masked"])
    many = [p.id for p in annotated["train"] if len(p.spans) >= 6]
    assert np.mean([len(set(drawn[id])) for id in many]) > 2
    passage = next(p for p in annotated["train"] if len(p.spans) == 4)
    weights = tf.ones([4])
    first = collections.Counter(
        int(tf.argmax(ramp.priorities(0, tf.constant(epoch, tf.int64), tf.constant(passage.id, tf.int64), weights)))
        for epoch in range(600)
    )
    assert all(abs(first[i] - 150) < 5 * np.sqrt(600 * 0.25 * 0.75) for i in range(4))


def test_weights_sample_in_proportion_and_zero_excludes():
    weights = tf.constant([1.0, 3.0, 0.0])
    ids = tf.range(800, dtype=tf.int64)
    epoch = tf.constant(0, tf.int64)
    drawn = np.array([ramp.priorities(1, epoch, id, weights) for id in ids])
    assert np.isneginf(drawn[:, 2]).all()
    share = (drawn.argmax(axis=1) == 1).mean()
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 800)


def test_choose_by_hand():
    infinite = float("inf")
    priority = tf.constant([[-1.0, -3.0, -2.0], [-1.0, -2.0, -infinite]])
    starts = tf.constant([[0, 10, 4], [5, 0, 0]], tf.int64)
    ends = tf.constant([[5, 12, 8], [9, 5, 0]], tf.int64)
    chosen, complete = ramp.choose(priority, starts, ends, 2)
    # Row 0: span 2 is second best but overlaps span 0. Row 1: touching is no overlap; reading order.
    assert chosen.numpy().tolist() == [[0, 1], [1, 0]] and complete.numpy().tolist() == [True, True]
    assert ramp.choose(priority, starts, ends, 3)[1].numpy().tolist() == [False, False]
    nothing = tf.zeros([2, 0])
    assert ramp.choose(nothing, tf.cast(nothing, tf.int64), tf.cast(nothing, tf.int64), 1)[1].numpy().tolist() == [
        False,
        False,
    ]


def test_tensorflow_ids_are_python_ids(by_masks, prepared):
    tokenizer = Tokenizer(prepared / "tokenizer.model")
    for masks, found in by_masks.items():
        for example in found:
            text = prompt.ramp_prompt(example["masked"].decode())
            assert example["inputs"].tolist() == tokenizer.encode(text)
            answer = "; ".join(a.decode() for a in example["answers"])
            assert example["targets"].tolist() == tokenizer.encode(f"<answer> {answer}</answer>"), masks


def test_forms_and_instruction(prepared):
    tokenizer = Tokenizer(prepared / "tokenizer.model")
    try:
        registry.register(
            prepared, answer_form="paragraph", instruction="Fill the masks.", epochs={"train": 1, "test": 1}
        )
        for example in examples(prepared, "ramp_2", "test")[:10]:
            assert tokenizer.decode(example["targets"]) == f"<answer> {example['text'].decode()}</answer>"
            text = prompt.ramp_prompt(example["masked"].decode(), "Fill the masks.")
            assert example["inputs"].tolist() == tokenizer.encode(text)
        plain = examples(prepared, "ramp_2", "test")
        registry.register(prepared, answer_form="paragraph", instruction="Fill the masks.", titles=True)
        for before, after in zip(plain, examples(prepared, "ramp_2", "test"), strict=True):
            title = before["title"].decode()
            assert [after[name].decode() for name in ("masked", "text")] == [
                f"{title}: {before[name].decode()}" for name in ("masked", "text")
            ]
            text = prompt.ramp_prompt(after["masked"].decode(), "Fill the masks.")
            assert after["inputs"].tolist() == tokenizer.encode(text)
            assert tokenizer.decode(after["targets"]) == f"<answer> {after['text'].decode()}</answer>"
        registry.register(prepared, instruction="Fill the masks.", instruction_place="before")
        for example in examples(prepared, "ramp_2", "test")[:10]:
            text = prompt.ramp_prompt(example["masked"].decode(), "Fill the masks.", "before")
            assert text.startswith(" Fill the masks.\n\n") and example["inputs"].tolist() == tokenizer.encode(text)
        registry.register(prepared, instruction="Fill in {clues}.", titles=True)
        for example in examples(prepared, "ramp_2", "test")[:10]:
            text = prompt.ramp_prompt(example["masked"].decode(), "Fill in {clues}.")
            assert text.count("[mask]") == 4 and example["inputs"].tolist() == tokenizer.encode(text)
        registry.register(prepared, span_weights={"date": 0.0})
        assert not any(b"date" in example["answer_kinds"] for example in examples(prepared, "ramp_2"))
    finally:
        registry.register(prepared)
