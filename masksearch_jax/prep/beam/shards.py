"""What is done with one shard of the dump: each function is one worker's, and Beam appears nowhere here.

Enters: the number of a shard and the files of the store that earlier stages made of it. Leaves: the shard's files in
the store, and last a small JSON that says they are there: a shard with one is never done again. A shard is worked on
as a small data directory of its own, by the very functions of prep.pipeline, prep.tasks and prep.export that do a
whole dump in one process; only the numbers of passages and the rare terms come from outside. Shards are runs of
articles in the order of the dump, so that the shards of a file, one after the other, are the file of one process.
"""

import contextlib
import dataclasses
import functools
import hashlib
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from masksearch_jax.data import records
from masksearch_jax.prep import annotated, dumps, export, filters, rare, shown_titles, spans, tasks, wikipedia
from masksearch_jax.prep.beam import split
from masksearch_jax.prep.beam.store import Store
from masksearch_jax.prep.splits import SPLITS, Splits

TERMS = "terms.json"
# Words travel in this many dictionaries: one element of Beam's for each word would take longer than the reading.
_BUCKETS = 256
# SeqIO's tasks are registered by name for the whole process, and a worker of Dataflow has several threads.
_REGISTRY = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of one dump. words, minimum: of prep.passages. filter: what is known without the passages.
    language: of the wiki."""

    store: Store
    parts: Sequence[split.Part]
    splits: Splits
    words: int
    minimum: int
    skip_bad: bool
    filter: filters.Filter
    language: str = "en"
    titles: bool = False  # whether prompts show them

    def name(self, file: str, index: int) -> str:
        folder, _, last = file.rpartition("/")
        return f"{folder}/{records.shard(last, index, len(self.parts)).name}".lstrip("/")

    def cut(self, index: int) -> tuple[int, int]:
        """Cuts the articles into passages with ids from 0; returns (index, number of passages)."""
        marker = self.name("cut/done.json", index)
        done = self.store.read(marker)
        if done is None:
            with tempfile.TemporaryDirectory() as scratch:
                folder, stats = Path(scratch), wikipedia.DumpStats()
                dump = split.fetch(self.parts[index], self.store, folder)
                articles = dumps.read_articles([dump], self.skip_bad, stats)
                settings = SimpleNamespace(words=self.words, minimum=self.minimum)
                found = annotated.cut_articles(articles, self.splits, settings, folder / annotated.LINKS)
                try:
                    count = records.write(folder / annotated.PASSAGES, found)
                except wikipedia.DumpError as error:
                    raise wikipedia.DumpError(f"{self.parts[index]}: {error}") from error
                for file in (annotated.PASSAGES, annotated.LINKS):
                    self.store.put(folder / file, self.name(f"cut/{file}", index))
                done = self.store.write(marker, {"passages": count, "stats": dataclasses.asdict(stats)}, folder)
        return index, done["passages"]

    def linked(self, index: int, folder: Path) -> Iterator[annotated.Linked]:
        """Returns what `cut` made, ids from 0, by way of an empty local folder."""
        for file in (annotated.PASSAGES, annotated.LINKS):
            self.store.get(self.name(f"cut/{file}", index), folder / file)
        return annotated.with_links(folder)

    def count_words(self, index: int, start: int) -> list[tuple[int, dict[str, rare.Seen]]]:
        """Returns what is seen of each word, in buckets; start: id of the shard's first passage."""
        with tempfile.TemporaryDirectory() as scratch:
            file = self.store.get(self.name(f"cut/{annotated.PASSAGES}", index), Path(scratch) / annotated.PASSAGES)
            seen, _ = rare.count(passage.text for passage in records.read(file, records.Passage))
        buckets: dict[int, dict[str, rare.Seen]] = {}
        for word, found in seen.items():
            moved = found._replace(first=start + found.first, last=start + found.last)
            buckets.setdefault(zlib.crc32(word.encode()) % _BUCKETS, {})[word] = moved
        return list(buckets.items())

    def sign(self, index: int, start: int) -> Iterator[tuple[int, filters.Signed]]:
        """Yields (band, passage with its signature) for each band of each passage."""
        with tempfile.TemporaryDirectory() as scratch:
            file = self.store.get(self.name(f"cut/{annotated.PASSAGES}", index), Path(scratch) / annotated.PASSAGES)
            for passage in records.read(file, records.Passage):
                if (found := filters.signature(passage.text)) is not None:
                    signed = filters.sign(dataclasses.replace(passage, id=start + passage.id), found)
                    yield from ((band, signed) for band in filters.bands(found).tolist())

    def save_terms(self, words: Sequence[tuple[str, int]], repeats: Sequence[int], total: int) -> bool:
        """Keeps the rare terms among (word, passages with it) of a corpus of `total` passages, and the repeats."""
        limit = rare.limit(total)
        with tempfile.TemporaryDirectory() as scratch:
            kept = sorted(word for word, passages in words if passages <= limit)
            self.store.write(TERMS, {"words": kept, "repeats": sorted(set(repeats))}, Path(scratch))
        return True

    def annotate(self, index: int, start: int) -> int:
        """Writes the shard's passages, with ids from `start`, and its annotated passages by split."""
        marker = self.name("annotated/done.json", index)
        if self.store.has(marker):
            return index
        terms = self.store.read(TERMS)
        finder = functools.partial(spans.find, rare=rare.tester(terms["words"]), language=self.language)
        if self.titles:
            finder = shown_titles.without_title(finder)
        # Of all repeats, those of this shard alone would do; there are few.
        dropped = dataclasses.replace(self.filter, repeats=frozenset(terms["repeats"]))
        with tempfile.TemporaryDirectory() as scratch:
            cut, folder = Path(scratch) / "cut", Path(scratch) / "data"
            numbered = (dataclasses.replace(p, id=start + p.id) for p, *_ in self.linked(index, cut))
            records.write(folder / annotated.PASSAGES, numbered)
            (cut / annotated.LINKS).rename(folder / annotated.LINKS)
            annotation = annotated.Annotation(folder)
            annotation.run(annotated.with_links(folder), finder, dropped.reason)
            self.store.put(folder / annotated.PASSAGES, self.name(annotated.PASSAGES, index))
            for name in SPLITS:
                self.store.put(tasks.passage_file(folder, name), self.name(f"annotated/{name}.tfrecord", index))
            counts = ("kept", "kinds", "dropped", "tagged")
            found = {name: getattr(annotation, name) for name in counts}
            self.store.write(marker, found, folder)
        return index

    def export(self, index: int, job: str, tokenizer_files: Sequence[str], settings: tasks.TaskSettings) -> int:
        """Exports the RAMP tasks of the shard to the store's folder `job`, which holds the tokenizer's files."""
        marker = self.name(f"{job}/done.json", index)
        if self.store.has(marker):
            return index
        kept = self.store.read(self.name("annotated/done.json", index))["kept"]
        passages = {name: kept.get(name, 0) for name in SPLITS}
        none = dict.fromkeys(SPLITS, 0)
        own = dataclasses.replace(settings, passages=passages, questions=none, lookups={}, benchmarks={})
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for file in tokenizer_files:
                self.store.get(f"{job}/{file}", folder / file)
            for name in SPLITS:
                self.store.get(self.name(f"annotated/{name}.tfrecord", index), tasks.passage_file(folder, name))
            own.save(folder / "annotated")
            with _REGISTRY:
                tasks.register(folder)
                counts = export.export(folder, own, _no_bar)
            for name, level, epoch in task_files(settings):
                local = export.task_file(folder, name, level, epoch)
                if not local.exists():  # a split without a passage in this shard
                    records.write(local, [])
                self.store.put(local, self.name(f"{job}/{local.relative_to(folder)}", index))
            self.store.write(marker, counts, folder)
        return index


@contextlib.contextmanager
def _no_bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def task_files(settings: tasks.TaskSettings) -> Iterator[tuple[str, str, int]]:
    """Yields (split, task, epoch) of each file of RAMP tasks that an export has."""
    for name in SPLITS:
        if settings.passages[name]:
            for level in tasks.LEVELS:
                yield from ((name, f"ramp_{level}", epoch) for epoch in range(settings.epochs[name]))


def job_name(fingerprint: str, settings: tasks.TaskSettings) -> str:
    """Returns the folder of an export: another tokenizer or other settings never meet what these made."""
    described = repr((fingerprint, tasks.LEVELS, dataclasses.asdict(settings)))
    return f"job-{hashlib.sha256(described.encode()).hexdigest()[:12]}"


def total_of(counts: Sequence[dict[str, dict[str, list[int]]]], settings: tasks.TaskSettings) -> dict[str, Any]:
    """Returns the sum over shards of {split: {task: [records of each epoch]}}."""
    totals: dict[str, dict[str, Counter[int]]] = {}
    for name, task, epoch in task_files(settings):
        found = totals.setdefault(name, {}).setdefault(task, Counter())
        found[epoch] += sum(one[name][task][epoch] for one in counts if name in one)
    return {name: {task: list(found.values()) for task, found in by.items()} for name, by in totals.items()}
