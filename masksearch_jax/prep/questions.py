"""Question files of the HotpotQA format as the source of the `qa` task.

Enters: a question file and the splits of articles. Leaves: annotated/qa_<split>.tfrecord (ramp.QUESTION). A question is
as held-out as the most held-out article it rests on, so that no training question tells a test fact.
"""

import contextlib
from collections import Counter
from pathlib import Path

import tensorflow as tf

from masksearch_jax.evals import benchmarks
from masksearch_jax.prep import tasks
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.text import tags


def annotate(file: Path | str, splits: Splits, data_dir: Path) -> Counter[str]:
    """Writes the questions of a file by split and returns their numbers."""
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        files = {split: str(tasks.question_file(data_dir, split)) for split in SPLITS}
        writers = {split: stack.enter_context(tf.io.TFRecordWriter(file)) for split, file in files.items()}
        for question in benchmarks.read_hotpotqa(file):
            split = split_of(question, splits)
            counts[split] += 1
            fields = {
                "id": question.id,
                "split": split,
                "question": tags.neutralise(question.question),
                "answers": [tags.neutralise(answer) for answer in question.answers],
                "supporting": question.supporting_titles,
            }
            writers[split].write(tasks.example(fields))
    return counts


def split_of(question: benchmarks.Question, splits: Splits) -> str:
    """The last split, in the order train, validation, test, of the question's articles; by its id if it names none."""
    titles = question.supporting_titles or [question.id]
    return max((splits.of(title) for title in titles), key=SPLITS.index)
