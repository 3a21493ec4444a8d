"""Question files as the source of SeqIO tasks: one in HotpotQA format for `qa`, and benchmarks for `qa_<name>`.

Enters: files in their official formats and the splits of articles. Leaves: annotated/qa_<split>.tfrecord and
annotated/qa_<benchmark>_test.tfrecord (ramp.QUESTION). A question of `qa` is in the most held-out split of the articles
it rests on, so no training question states a test fact. Search-only articles count as test articles. Benchmarks are
only for testing: all their questions are in the split test. A question of `qa` that a benchmark asks as well goes to
the split test too.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path

import tensorflow as tf

from masksearch_jax.evals import benchmarks
from masksearch_jax.prep import filters
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.prep.tasks import registry
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text import tags


def annotate(
    file: Path | str,
    splits: Splits,
    data_dir: Path,
    tested: Set[str] = frozenset(),
    searched: Set[str] = frozenset(),
) -> Counter[str]:
    """Write the questions of a file by split; return their counts.

    tested: normalised questions of benchmarks, which no split but test may hold. searched: as for `split_of`.
    """
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        files = {split: str(registry.question_file(data_dir, split)) for split in SPLITS}
        writers = {split: stack.enter_context(tf.io.TFRecordWriter(file)) for split, file in files.items()}
        for question in benchmarks.read_hotpotqa(file):
            asked = answer_metrics.normalize(question.question)
            split = registry.BENCHMARK_SPLIT if asked in tested else split_of(question, splits, searched)
            counts[split] += 1
            writers[split].write(_example(question, split))
    return counts


def annotate_benchmarks(files: Mapping[str, str], data_dir: Path) -> tuple[dict[str, int], set[str]]:
    """Write the questions of each benchmark; return their counts, and all questions normalised.

    files: {name: file}, with '' for a benchmark that is not used. Raises as `benchmarks.read` does.
    """
    counts, tested = {}, set()
    for name, file in files.items():
        if file:
            found = benchmarks.read(name, file)
            with tf.io.TFRecordWriter(str(registry.benchmark_file(data_dir, name))) as writer:
                for question in found:
                    writer.write(_example(question, registry.BENCHMARK_SPLIT))
            counts[name] = len(found)
            tested |= {answer_metrics.normalize(question.question) for question in found}
    return counts, tested


def split_of(question: benchmarks.Question, splits: Splits, searched: Set[str] = frozenset()) -> str:
    """Return the most held-out split of the question's articles, or the split of its id if it names no article.

    The order is train, validation, test. searched: titles of search-only articles (search_only.titles). A question that
    rests on one of them is a test question.
    """
    titles = question.supporting_titles or [question.id]
    if any(filters.title_key(title) in searched for title in question.supporting_titles):
        return SPLITS[-1]
    return max((splits.of(title) for title in titles), key=SPLITS.index)


def _example(question: benchmarks.Question, split: str) -> bytes:
    extra = {"reference": question.reference, "details": question.details}
    fields: dict[str, int | str | list[int] | list[str]] = {
        "id": question.id,
        "split": split,
        "question": tags.neutralise(question.question),
        "answers": [tags.neutralise(answer) for answer in question.answers],
        "supporting": question.supporting_titles,
        "extra": json.dumps(extra, ensure_ascii=False),
    }
    return registry.example(fields)
