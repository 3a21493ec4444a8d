"""Retrieval-Augmented Mask Prediction as SeqIO preprocessors (paper, section 2.1): draw spans, mask, format, tokenise.

Enters: annotated passages with an epoch (`FEATURES` plus 'epoch'). Leaves: masked passages with token ids. A passage in
which `masks` distinct, non-overlapping spans do not fit gives no example. Left out: where the spans come from
(prep/spans) and where the examples go (prep/tasks/task_export.py).

Which spans are masked depends only on (base seed, epoch, passage id). SeqIO's own seeds belong to positions in the
stream, so they would change the masks with sharding and shuffling. One draw orders all spans of a passage, so the masks
of `ramp_k` are those of `ramp_(k-1)` and one more.

Every preprocessor takes and returns a dataset. Those between `to_batches` and `from_batches` see [B]-batches with
ragged [B, (n)] span features: TensorFlow and SentencePiece are 2-3 times faster on batches than on single passages.
"""

import itertools
import re
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from masksearch_jax.text import clues, instructions, tags
from masksearch_jax.text.chat_template import ChatTemplate

_BATCH = 256

# One question, the strings accepted as its answer (the gold one first), the titles that it rests on, and what else a
# benchmark gives, as JSON: {"reference": its structured answer, "details": {..}}.
QUESTION = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "split": tf.io.FixedLenFeature([], tf.string),
    "question": tf.io.FixedLenFeature([], tf.string),
    "answers": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
    "supporting": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
    "extra": tf.io.FixedLenFeature([], tf.string, default_value="{}"),
}

# One annotated passage: n candidate spans, offsets in bytes (TensorFlow's unit) and in characters (Python's).
FEATURES = {
    "id": tf.io.FixedLenFeature([], tf.int64),
    "article_id": tf.io.FixedLenFeature([], tf.int64),
    "title": tf.io.FixedLenFeature([], tf.string),
    "split": tf.io.FixedLenFeature([], tf.string),
    "text": tf.io.FixedLenFeature([], tf.string),
    "starts": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    "ends": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    "char_starts": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    "char_ends": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    "kinds": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
}

# The white space that Python's str.strip removes, for TensorFlow's regular expressions.
_BLANK = "[" + "".join(rf"\x{{{code:x}}}" for code in range(0x3001) if chr(code).isspace()) + "]+"
# Patterns that match all of a text, with its last or first words as the group: what text/clues.py cuts out.
_BLANK_OF_WORDS = r"[ \t\n\f\r]"
_WORD = r"[^ \t\n\f\r]+"
_BEFORE = rf"(?s)\A.*?((?:{_WORD}{_BLANK_OF_WORDS}*){{0,{clues.BEFORE}}})\z"
_START = rf"(?s)\A[{re.escape(clues.REST)}]*(.*)\z"
_SENTENCE = rf"(?s)\A(.*?[.!?])(?:{_BLANK_OF_WORDS}.*)?\z"
_AFTER = rf"(?s)\A((?:{_BLANK_OF_WORDS}*{_WORD}){{0,{clues.AFTER}}}).*\z"
_SHOWN = ("text", "masked")
_KEPT = ("id", "article_id", "epoch", "title", "split", "text")

Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]
Features = dict[str, tf.Tensor]


def priorities(seed: int, epoch: tf.Tensor, passage_id: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Return float32 [n]. Masks are taken in falling order of it; a span of weight 0 gets -inf.

    log(u) / w orders a sample without replacement in proportion to w (Efraimidis and Spirakis 2006).
    """
    key = tf.constant([seed, 0], tf.int64)
    for value in (epoch, passage_id):
        key = tf.random.experimental.stateless_fold_in(key, value)
    uniform = tf.random.stateless_uniform(tf.shape(weights), key, minval=1e-7, maxval=1.0)
    return tf.math.log(uniform) / weights


def choose(priority: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor, masks: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Choose up to `masks` spans of each row, best first, never two that overlap.

    Args: priority float32 [B, n] (-inf: no span here), starts and ends int64 [B, n]. Returns int32 [B, masks], the
    indices of the spans in reading order, and bool [B], True where `masks` spans fitted. Other rows hold padding.
    """
    columns = tf.shape(priority)[1]
    alive = priority > -float("inf")
    taken = []
    complete = tf.fill([tf.shape(priority)[0]], columns > 0)
    # A batch without any span still needs one column for argmax and gather.
    priority, starts, ends = (tf.pad(x, [[0, 0], [0, 1]]) for x in (priority, starts, ends))
    alive = tf.pad(alive, [[0, 0], [0, 1]])
    for _ in range(masks):
        best = tf.argmax(tf.where(alive, priority, -float("inf")), axis=1, output_type=tf.int32)
        complete &= tf.gather(alive, best, batch_dims=1)
        start = tf.gather(starts, best, batch_dims=1)[:, None]
        end = tf.gather(ends, best, batch_dims=1)[:, None]
        alive &= (ends <= start) | (starts >= end)
        taken.append(best)
    chosen = tf.stack(taken, axis=1)
    order = tf.argsort(tf.gather(starts, chosen, batch_dims=1), axis=1)
    return tf.gather(chosen, order, batch_dims=1), complete


def splice(text: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cut spans out of texts and put mask tags in their places.

    Args: text string [B], starts and ends int64 [B, k], byte offsets in reading order. Returns the masked texts [B] and
    the strings that were cut out [B, k]. Filling the masks with them restores the text.
    """
    sizes = tf.cast(tf.strings.length(text), tf.int64)[:, None]
    kept_starts = tf.concat([tf.zeros_like(sizes), ends], axis=1)
    kept_ends = tf.concat([starts, sizes], axis=1)

    def cut(begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        # substr does not broadcast a text over its positions.
        texts = tf.repeat(text[:, None], tf.shape(begin)[1], axis=1)
        return tf.strings.substr(texts, begin, end - begin)

    return tf.strings.reduce_join(cut(kept_starts, kept_ends), axis=1, separator=tags.MASK), cut(starts, ends)


def draw(seed: int, span_weights: Mapping[str, float]) -> Preprocessor:
    """Add 'priority' to single passages. span_weights: the weight of a span by its kind, 1 for kinds not given."""

    def one(example: Features) -> Features:
        weights = tf.ones(tf.shape(example["kinds"]))
        for kind, weight in sorted(span_weights.items()):
            weights = tf.where(example["kinds"] == kind, tf.cast(weight, tf.float32), weights)
        priority = priorities(seed, example["epoch"], example["id"], weights)
        return {**example, "priority": priority}

    return _over(one)


def _over(function: Callable[[Features], Features]) -> Preprocessor:
    """Map a function in parallel, in order, without AutoGraph, which nothing here needs and which takes time."""
    plain = tf.autograph.experimental.do_not_convert(function)
    return lambda dataset: dataset.map(plain, num_parallel_calls=tf.data.AUTOTUNE)


def to_batches(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Batch passages in order, the last batch smaller. Span features become ragged [B, (n)]."""
    return dataset.ragged_batch(_BATCH)


def from_batches(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Undo `to_batches`."""
    return dataset.unbatch()


def mask(masks: int) -> Preprocessor:
    """Replace `masks` spans of each passage by the mask tag; drop passages in which they do not fit.

    Adds 'masked' [B], 'answers' [B, masks] and 'answer_kinds' [B, masks]. Spans that are not masked are dropped.
    """

    def batch(example: Features) -> Features:
        starts, ends, kinds = (example[name].to_tensor() for name in ("starts", "ends", "kinds"))
        priority = example["priority"].to_tensor(-float("inf"))
        chosen, complete = choose(priority, starts, ends, masks)
        rows = tf.where(complete)[:, 0]
        kept = {name: tf.gather(example[name], rows) for name in _KEPT}
        chosen, starts, ends, kinds = (tf.gather(x, rows) for x in (chosen, starts, ends, kinds))
        starts, ends, kinds = (tf.gather(x, chosen, batch_dims=1) for x in (starts, ends, kinds))
        masked, answers = splice(kept["text"], starts, ends)
        return {**kept, "masked": masked, "answers": answers, "answer_kinds": kinds}

    return _over(batch)


def prepend_title(titles: bool) -> Preprocessor:
    """Put the title and a colon before 'text' and 'masked' if `titles` is set, as a search shows passages."""

    def batch(example: Features) -> Features:
        return {**example, **{name: tf.strings.join([example["title"], ": ", example[name]]) for name in _SHOWN}}

    return _over(batch) if titles else lambda dataset: dataset


def format_prompt(instruction: str, answer_form: str, template: ChatTemplate, place: str = "after") -> Preprocessor:
    """Add the strings 'inputs' (in the words of text.prompt.ramp_prompt) and 'targets' (the answer block).

    template: gives what stands left and right of the text of 'inputs'. `add_control_tokens` adds its control tokens.
    answer_form: 'spans' fills the masks in order, 'paragraph' repeats the passage unmasked (the official form). place:
    of the instruction (text/instructions.py).
    """
    opening, closing = tags.ANSWER
    before, after = instructions.around(instruction, place)

    def batch(example: Features) -> Features:
        if answer_form == "paragraph":
            content = example["text"]
        else:
            content = tf.strings.reduce_join(example["answers"], axis=1, separator=tags.SPAN_SEPARATOR + " ")
        inputs = _message(template, tf.strings.join(_around(before, example["masked"], after, example["masked"])))
        return {**example, "inputs": inputs, "targets": tf.strings.join([opening, " ", content, closing])}

    return _over(batch)


def format_question_prompt(
    instruction: str, template: ChatTemplate, every: bool = False, place: str = "after"
) -> Preprocessor:
    """Add 'inputs' (in the words of text.prompt.question_prompt) and 'targets'.

    'targets' is the first accepted answer. With `every`, it is all `answers`, which are then spans, not alternatives.
    """
    opening, closing = tags.ANSWER
    before, after = instructions.around(instruction, place)

    def batch(example: Features) -> Features:
        asked = tf.strings.join([example["question"], " ", clues.asked(instruction)])
        inputs = _message(template, tf.strings.join(_around(before, example["question"], after, asked)))
        if every:
            gold = tf.strings.reduce_join(example["answers"], axis=1, separator=tags.SPAN_SEPARATOR + " ")
        else:
            gold = example["answers"].to_tensor()[:, 0]
        return {**example, "inputs": inputs, "targets": tf.strings.join([opening, " ", gold, closing])}

    return _over(batch)


def clues_of(masked: tf.Tensor) -> tf.Tensor:
    """Return the words around the masks of each text [B] as one string per text, as text/clues.py does."""
    parts = tf.strings.split(masked, tags.MASK)  # ragged [B, masks + 1]
    before, after = _cut(_cut(parts[:, :-1], _BEFORE), _START), _cut(_cut(parts[:, 1:], _AFTER), _SENTENCE)

    def joined(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        return tf.strings.join(['"', left, tags.MASK, right, '"'])

    around = tf.ragged.map_flat_values(joined, before, after)
    return tf.strings.reduce_join(around, axis=1, separator=clues.SEPARATOR)


def _cut(texts: tf.RaggedTensor, pattern: str) -> tf.RaggedTensor:
    """Return the group of a pattern that matches all of a text, or the text itself where the pattern does not match."""
    return tf.ragged.map_flat_values(tf.strings.regex_replace, texts, pattern, r"\1")


def _around(before: str, body: tf.Tensor, after: str, masked: tf.Tensor) -> list[tf.Tensor | str]:
    """Return the parts of a message: `before`, `body`, `after`, with the clues of `masked` in place of '{clues}'."""

    def parts(text: str) -> list[tf.Tensor | str]:
        first, *others = text.split(clues.PLACEHOLDER)
        return [first, *itertools.chain.from_iterable((clues_of(masked), part) for part in others)]

    return [*parts(before), body, *parts(after)]


def _message(template: ChatTemplate, text: tf.Tensor) -> tf.Tensor:
    """Return the texts [B] between a template's control tokens, joined as ChatTemplate.encode joins them."""
    if template.trims in ("strip", "lstrip"):
        text = tf.strings.regex_replace(text, rf"\A{_BLANK}", "")
    if template.trims in ("strip", "rstrip"):
        text = tf.strings.regex_replace(text, rf"{_BLANK}\z", "")
    return tf.strings.join([template.left, text, template.right])


def tokenize(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
    """Encode 'inputs' and 'targets' of batches with the features' vocabularies: ragged int32 [B, (tokens)]."""
    return seqio.preprocessors.tokenize(dataset, output_features, copy_pretokenized=False)


def add_control_tokens(template: ChatTemplate) -> Preprocessor:
    """Put the control tokens of a prompt around the token ids of 'inputs', ragged int32 [B, (tokens)]."""

    def batch(example: Features) -> Features:
        rows = tf.shape(example["targets"].row_lengths())[0]
        outer = (template.prefix_ids, template.suffix_ids)
        parts = [tf.repeat(tf.constant([ids], tf.int32), rows, axis=0) for ids in outer]
        return {**example, "inputs": tf.concat([parts[0], example["inputs"], parts[1]], axis=1)}

    return _over(batch) if template.prefix_ids or template.suffix_ids else lambda dataset: dataset
