"""Runs the SeqIO tasks and writes what they yield as records.Task: the last place where TensorFlow is needed.

Enters: registered tasks (prep/tasks/registry.py) over a data directory. Leaves:
`tasks/<split>/<task>/epoch_<e>.array_record`, in passage order, one file for each epoch even if it is empty, and their
counts. Left out: the manifest (prep/manifest.py).

Examples leave tf.data in batches: one at a time they cost three times as much.
"""

import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from masksearch_jax.data import records
from masksearch_jax.prep.tasks import registry

_BATCH = 512


def task_file(data_dir: Path | str, split: str, task: str, epoch: int) -> Path:
    return Path(data_dir) / "tasks" / split / task / f"epoch_{epoch}.array_record"


def export(
    data_dir: Path | str,
    settings: registry.TaskSettings,
    bar: Callable[[int, str], contextlib.AbstractContextManager[Callable[[int], None]]],
) -> dict[str, dict[str, list[int]]]:
    """Export every registered task; return the numbers of records as {split: {task: [of each epoch]}}.

    bar: `(total, label) -> context` like progress.progress_bar, shown while it runs.
    """
    jobs = [(split, f"ramp_{masks}") for split, n in settings.passages.items() if n for masks in registry.MASKS]
    jobs += [(split, "qa") for split, n in settings.questions.items() if n]
    jobs += [(split, registry.TOOL_WARMUP) for split, n in settings.tool_warmup.items() if n]
    jobs += [(registry.BENCHMARK_SPLIT, registry.benchmark_task(name)) for name, n in settings.benchmarks.items() if n]
    counts: dict[str, dict[str, list[int]]] = {}
    with bar(len(jobs), "export tasks") as show:
        for done, (split, task) in enumerate(jobs, start=1):
            masked = task.startswith("ramp_")
            epochs = settings.epochs[split] if masked else 1
            found = masked_passages(task, split, settings.answer_form) if masked else questions(task, split)
            counts.setdefault(split, {})[task] = _write_epochs(found, epochs, data_dir, split, task)
            show(done)
    return counts


def masked_passages(task: str, split: str, answer_form: str) -> Iterator[tuple[int, records.Task]]:
    """Yield (epoch, record) of a RAMP task in order of epoch, then passage."""
    for batch in _batches(task, split):
        columns = (batch[name] for name in _RAMP_COLUMNS)
        for id, article, epoch, title, text, masked, answers, kinds, inputs, targets in zip(*columns, strict=True):
            yield (
                epoch,
                records.Task(
                    id=f"{split}/{task}/{epoch}/{id}",
                    kind="ramp",
                    split=split,
                    prompt=inputs,
                    targets=targets,
                    answer_form=answer_form,
                    answers=[[answer] for answer in answers],
                    span_kinds=kinds,
                    text=masked,
                    paragraph=text,
                    title=title,
                    passage_id=id,
                    article_id=article,
                ),
            )


_RAMP_COLUMNS = (
    "id", "article_id", "epoch", "title", "text", "masked", "answers", "answer_kinds", "inputs", "targets",
)  # fmt: skip


def questions(task: str, split: str) -> Iterator[tuple[int, records.Task]]:
    """Yield (0, record) of a question task: 'qa', that of a benchmark, or 'tool_warmup', whose answers are spans."""
    warmup = task == registry.TOOL_WARMUP
    for batch in _batches(task, split):
        columns = (batch[name] for name in ("id", "question", "answers", "supporting", "extra", "inputs", "targets"))
        for id, question, answers, supporting, extra, inputs, targets in zip(*columns, strict=True):
            extra = json.loads(extra)
            yield (
                0,
                records.Task(
                    id=f"{split}/{task}/{id}",
                    kind=registry.TOOL_WARMUP if warmup else "qa",
                    split=split,
                    prompt=inputs,
                    targets=targets,
                    answer_form="spans" if warmup else "whole",
                    answers=[[answer] for answer in answers] if warmup else [answers],
                    span_kinds=["quote"] * len(answers) if warmup else ["answer"],
                    text=question,
                    paragraph="",
                    title="",
                    passage_id=-1,
                    article_id=-1,
                    supporting=supporting,
                    benchmark=task.removeprefix(registry.BENCHMARK_PREFIX)
                    if task not in ("qa", registry.TOOL_WARMUP)
                    else "",
                    reference=extra.get("reference"),
                    details=extra.get("details", {}),
                ),
            )


def _batches(task: str, split: str) -> Iterator[dict[str, list]]:
    """Yield the examples of a SeqIO task as columns of plain Python values."""
    dataset = seqio.get_mixture_or_task(task).get_dataset(
        sequence_length=None, split=split, shuffle=False, try_in_mem_cache=False
    )
    batches = iter(dataset.ragged_batch(_BATCH))
    with _without_notes():
        first = next(batches, None)
    for batch in itertools.chain([] if first is None else [first], batches):
        yield {name: _plain(column) for name, column in batch.items()}


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Hide the notes that SentencePiece in TF Text prints, past Python, for models without normalisation, as ours."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            others = b"".join(line for line in caught if b"precompiled_charsmap is empty" not in line)
            sys.stderr.write(others.decode(errors="replace"))


def _plain(column: tf.Tensor | tf.RaggedTensor) -> list:
    """Return a batch of scalars or vectors as (lists of) int, or str decoded from UTF-8."""
    if not isinstance(column, tf.RaggedTensor):
        values = column.numpy()
        if values.dtype != object:
            return values.tolist()
        flat = [value.decode() for value in values.ravel()]
        return flat if values.ndim == 1 else np.array(flat, object).reshape(values.shape).tolist()
    splits = column.row_splits.numpy().tolist()
    flat = _plain(column.values)
    return [flat[start:end] for start, end in itertools.pairwise(splits)]


def _write_epochs(
    found: Iterator[tuple[int, records.Task]], epochs: int, data_dir: Path | str, split: str, task: str
) -> list[int]:
    """Write a stream that is sorted by epoch into one file for each epoch; return their counts."""
    counts = [-1] * epochs
    for epoch, group in itertools.groupby(found, key=lambda item: item[0]):
        if counts[epoch] != -1:
            raise RuntimeError(f"{task}, split {split}: epoch {epoch} came twice; the source must yield whole epochs")
        counts[epoch] = records.write(task_file(data_dir, split, task, epoch), (record for _, record in group))
    for epoch, count in enumerate(counts):
        if count == -1:
            counts[epoch] = records.write(task_file(data_dir, split, task, epoch), [])
    return counts
