"""The work on one shard of a dump. A single worker runs each function, and nothing here depends on Beam.

Enters: the number of a shard and the files that earlier stages put into the store for it. Leaves: the shard's files in
the store and, last, a small JSON file that marks them as finished. A shard with that file is never done again. A shard
is treated as a small data directory of its own, by the same functions of prep/spans and prep/tasks that process a whole
dump in one process; only the passage numbers and the rare terms come from outside. Shards are runs of articles in the
order of the dump, so the shards of a file, one after the other, equal the file that one process writes.
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

from masksearch_jax.data import records
from masksearch_jax.prep import filters
from masksearch_jax.prep.beam import dump_splitting
from masksearch_jax.prep.beam.shard_store import Store
from masksearch_jax.prep.spans import annotated_passages, candidates, rare_terms, shown_titles
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.prep.tasks import registry, task_export
from masksearch_jax.prep.wiki import dump_files, dump_reader
from masksearch_jax.runtime.types import JsonObject

TERMS = "terms.json"
# Words are passed on in this many dictionaries: one Beam element per word would take longer than the reading.
_BUCKETS = 256
# SeqIO registers tasks by name for the whole process, and a Dataflow worker has several threads.
_REGISTRY = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of one dump.

    words, minimum: as in passage_cutting.cut. filter: what can be decided before the passages are known. language: of
    the wiki. titles: whether prompts show the titles of passages.
    """

    store: Store
    parts: Sequence[dump_splitting.Part]
    splits: Splits
    words: int
    minimum: int
    skip_bad: bool
    filter: filters.Filter
    language: str = "en"
    titles: bool = False

    def name(self, file: str, index: int) -> str:
        folder, _, last = file.rpartition("/")
        return f"{folder}/{records.shard(last, index, len(self.parts)).name}".lstrip("/")

    def cut(self, index: int) -> tuple[int, int]:
        """Cut the articles into passages with ids from 0; return (index, number of passages)."""
        marker = self.name("cut/done.json", index)
        done = self.store.read(marker)
        if done is None:
            with tempfile.TemporaryDirectory() as scratch:
                folder, stats = Path(scratch), dump_reader.DumpStats()
                dump = dump_splitting.fetch(self.parts[index], self.store, folder)
                articles = dump_files.read_articles([dump], self.skip_bad, stats)
                settings = SimpleNamespace(words=self.words, minimum=self.minimum)
                found = annotated_passages.cut_articles(
                    articles, self.splits, settings, folder / annotated_passages.LINKS
                )
                try:
                    count = records.write(folder / annotated_passages.PASSAGES, found)
                except dump_reader.DumpError as error:
                    raise dump_reader.DumpError(f"{self.parts[index]}: {error}") from error
                for file in (annotated_passages.PASSAGES, annotated_passages.LINKS):
                    self.store.put(folder / file, self.name(f"cut/{file}", index))
                done = self.store.write(marker, {"passages": count, "stats": dataclasses.asdict(stats)}, folder)
        return index, done["passages"]

    def linked(self, index: int, folder: Path) -> Iterator[annotated_passages.Linked]:
        """Return what `cut` made, with ids from 0. folder: an empty local folder for the files."""
        for file in (annotated_passages.PASSAGES, annotated_passages.LINKS):
            self.store.get(self.name(f"cut/{file}", index), folder / file)
        return annotated_passages.with_links(folder)

    def count_words(self, index: int, start: int) -> list[tuple[int, dict[str, rare_terms.Seen]]]:
        """Return what is counted of each word, in buckets. start: id of the shard's first passage."""
        with tempfile.TemporaryDirectory() as scratch:
            file = self.store.get(
                self.name(f"cut/{annotated_passages.PASSAGES}", index), Path(scratch) / annotated_passages.PASSAGES
            )
            seen, _ = rare_terms.count(passage.text for passage in records.read(file, records.Passage))
        buckets: dict[int, dict[str, rare_terms.Seen]] = {}
        for word, found in seen.items():
            moved = found._replace(first=start + found.first, last=start + found.last)
            buckets.setdefault(zlib.crc32(word.encode()) % _BUCKETS, {})[word] = moved
        return list(buckets.items())

    def sign(self, index: int, start: int) -> Iterator[tuple[int, filters.Signed]]:
        """Yield (band, passage with its signature) for each band of each passage."""
        with tempfile.TemporaryDirectory() as scratch:
            file = self.store.get(
                self.name(f"cut/{annotated_passages.PASSAGES}", index), Path(scratch) / annotated_passages.PASSAGES
            )
            for passage in records.read(file, records.Passage):
                if (found := filters.signature(passage.text)) is not None:
                    signed = filters.sign(dataclasses.replace(passage, id=start + passage.id), found)
                    yield from ((band, signed) for band in filters.bands(found).tolist())

    def save_terms(self, words: Sequence[tuple[str, int]], repeats: Sequence[int], total: int) -> bool:
        """Store the repeats, and the rare terms among (word, passages with it) in a corpus of `total` passages."""
        limit = rare_terms.limit(total)
        with tempfile.TemporaryDirectory() as scratch:
            kept = sorted(word for word, passages in words if passages <= limit)
            self.store.write(TERMS, {"words": kept, "repeats": sorted(set(repeats))}, Path(scratch))
        return True

    def annotate(self, index: int, start: int) -> int:
        """Write the shard's passages, with ids from `start`, and its annotated passages by split."""
        marker = self.name("annotated/done.json", index)
        if self.store.has(marker):
            return index
        terms = self.store.read(TERMS)
        finder: candidates.SpanFinder = functools.partial(
            candidates.find, rare=rare_terms.tester(terms["words"]), language=self.language
        )
        if self.titles:
            finder = shown_titles.without_title(finder)
        # The repeats of this shard would be enough, but all of them are few.
        dropped = dataclasses.replace(self.filter, repeats=frozenset(terms["repeats"]))
        with tempfile.TemporaryDirectory() as scratch:
            cut, folder = Path(scratch) / "cut", Path(scratch) / "data"
            numbered = (dataclasses.replace(p, id=start + p.id) for p, *_ in self.linked(index, cut))
            records.write(folder / annotated_passages.PASSAGES, numbered)
            (cut / annotated_passages.LINKS).rename(folder / annotated_passages.LINKS)
            annotation = annotated_passages.Annotation(folder)
            annotation.run(annotated_passages.with_links(folder), finder, dropped.reason)
            self.store.put(folder / annotated_passages.PASSAGES, self.name(annotated_passages.PASSAGES, index))
            for name in SPLITS:
                self.store.put(registry.passage_file(folder, name), self.name(f"annotated/{name}.tfrecord", index))
            counts = ("kept", "kinds", "dropped", "tagged")
            found = {name: getattr(annotation, name) for name in counts}
            self.store.write(marker, found, folder)
        return index

    def export(self, index: int, job: str, tokenizer_files: Sequence[str], settings: registry.TaskSettings) -> int:
        """Export the RAMP tasks of the shard to the store's folder `job`, which holds the files of the tokenizer."""
        marker = self.name(f"{job}/done.json", index)
        if self.store.has(marker):
            return index
        kept = self.store.read(self.name("annotated/done.json", index))["kept"]
        passages = {name: kept.get(name, 0) for name in SPLITS}
        none = dict.fromkeys(SPLITS, 0)
        own = dataclasses.replace(settings, passages=passages, questions=none, tool_warmup={}, benchmarks={})
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for file in tokenizer_files:
                self.store.get(f"{job}/{file}", folder / file)
            for name in SPLITS:
                self.store.get(self.name(f"annotated/{name}.tfrecord", index), registry.passage_file(folder, name))
            own.save(folder / "annotated")
            with _REGISTRY:
                registry.register(folder)
                counts = task_export.export(folder, own, _no_bar)
            for name, task, epoch in task_files(settings):
                local = task_export.task_file(folder, name, task, epoch)
                if not local.exists():  # a split without a passage in this shard
                    records.write(local, [])
                self.store.put(local, self.name(f"{job}/{local.relative_to(folder)}", index))
            self.store.write(marker, counts, folder)
        return index


@contextlib.contextmanager
def _no_bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def task_files(settings: registry.TaskSettings) -> Iterator[tuple[str, str, int]]:
    """Yield (split, task, epoch) of each file of RAMP tasks that an export writes."""
    for name in SPLITS:
        if settings.passages[name]:
            for masks in registry.MASKS:
                yield from ((name, f"ramp_{masks}", epoch) for epoch in range(settings.epochs[name]))


def job_name(fingerprint: str, settings: registry.TaskSettings) -> str:
    """Return the folder of an export, named by a hash of the tokenizer and the settings that decide its content."""
    described = repr((fingerprint, registry.MASKS, dataclasses.asdict(settings)))
    return f"job-{hashlib.sha256(described.encode()).hexdigest()[:12]}"


def total_of(counts: Sequence[dict[str, dict[str, list[int]]]], settings: registry.TaskSettings) -> JsonObject:
    """Return the sum over shards of {split: {task: [records of each epoch]}}."""
    totals: dict[str, dict[str, Counter[int]]] = {}
    for name, task, epoch in task_files(settings):
        found = totals.setdefault(name, {}).setdefault(task, Counter())
        found[epoch] += sum(one[name][task][epoch] for one in counts if name in one)
    return {name: {task: list(found.values()) for task, found in by.items()} for name, by in totals.items()}
