"""Question files as the source of SeqIO tasks: one to train on for `qa`, and benchmarks for `qa_<name>`.

Enters: files in any form of evals/question_forms.py or official format, and the splits of articles. Leaves:
annotated/qa_<split>.tfrecord and annotated/qa_<benchmark>_test.tfrecord (ramp.QUESTION). A question of `qa` is in the
most held-out split of the articles it rests on, so no training question states a test fact. Search-only articles count
as test articles. Titles that are no article of the corpus are dropped from a question, and one that rests on no article
of the corpus is split by its id. The teacher can then only look for the strings of its answer, and leaves it to RL
where the question says the answer itself. Benchmarks are only for testing: all their questions are in the split test. A
question of `qa` that a benchmark asks as well goes to the split test too.
"""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import tensorflow as tf

from masksearch_jax.data import records
from masksearch_jax.evals import benchmarks, question_forms
from masksearch_jax.prep import filters
from masksearch_jax.prep.spans import annotated_passages
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.prep.tasks import registry
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text import tags
from masksearch_jax.text.normal_forms import normal_form

BY_ARTICLES, BY_ANSWER, LEFT_TO_RL = "by_articles", "by_answer", "left_to_rl"


def annotate(
    file: Path | str,
    splits: Splits,
    data_dir: Path,
    tested: Set[str] = frozenset(),
    searched: Set[str] = frozenset(),
) -> dict[str, Counter[str]]:
    """Write the questions of a file by split; return {split: {how they can be taught: questions}}.

    tested: normalised questions of benchmarks, which no split but test may hold. searched: as for `split_of`. How a
    question can be taught: BY_ARTICLES, BY_ANSWER or LEFT_TO_RL.
    """
    found = question_forms.read_questions(file)
    held = _titles_of_corpus(data_dir, {filters.title_key(t) for one in found for t in one.supporting_titles})
    counts: dict[str, Counter[str]] = {}
    with contextlib.ExitStack() as stack:
        files = {split: str(registry.question_file(data_dir, split)) for split in SPLITS}
        writers = {split: stack.enter_context(tf.io.TFRecordWriter(file)) for split, file in files.items()}
        for question in found:
            question = dataclasses.replace(question, supporting_titles=_known(question.supporting_titles, held))
            asked = answer_metrics.normalize(question.question)
            split = registry.BENCHMARK_SPLIT if asked in tested else split_of(question, splits, searched)
            counts.setdefault(split, Counter())[_taught(question)] += 1
            writers[split].write(_example(question, split))
    return counts


def _taught(question: benchmarks.Question) -> str:
    if question.supporting_titles:
        return BY_ARTICLES
    return LEFT_TO_RL if answer_metrics.is_given(question.question, question.answers) else BY_ANSWER


def _titles_of_corpus(data_dir: Path, wanted: Set[str]) -> dict[str, list[str]]:
    """Return {title key: the titles of passages that have it} for those of the keys `wanted` that the corpus has."""
    found: dict[str, list[str]] = {}
    last = ""
    for passage in records.read(data_dir / annotated_passages.PASSAGES, records.Passage) if wanted else ():
        if passage.title != last:
            last, key = passage.title, filters.title_key(passage.title)
            if key in wanted and last not in found.setdefault(key, []):
                found[key].append(last)
    return found


def _known(titles: Sequence[str], held: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the titles as the corpus spells them, without those that it lacks."""
    known: dict[str, None] = {}
    for title in (normal_form("NFC", title) for title in titles):
        spelled = held.get(filters.title_key(title), ())
        known |= dict.fromkeys([title] if title in spelled else spelled)
    return list(known)


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
    """Return the most held-out split of the question's articles, or that of its id if it rests on no known article.

    The order is train, validation, test. searched: titles of search-only articles (search_only.titles). A question that
    rests on one of them is a test question.
    """
    if any(filters.title_key(title) in searched for title in question.supporting_titles):
        return SPLITS[-1]
    titles = [title for title in question.supporting_titles if splits.names(title)]
    return max(map(splits.of, titles), key=SPLITS.index) if titles else splits.by_hash(question.id)


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
