"""The two long stages of a preparation as Apache Beam pipelines over the shards of a dump.

Enters: settings (configs/prepare.py, `beam`) and a folder that all workers can reach. Leaves: in the data directory,
the shards `passages-00000-of-00032.array_record`, `annotated/..` and `tasks/..`, in the order of the dump. Their
records, read shard after shard, equal those that prep/preparation.py writes in one process. Any Beam runner works:
DirectRunner on this machine, DataflowRunner in the cloud (launch/dataflow.py).

    shard -> cut -> (shard, passages) -+-> ids: sums over the shards before -+-> annotate -> files
                                       +-> words -> Combine -> rare terms ---+
    shard -> SeqIO tasks -> files

Finished shards are kept: after a kill, the same command does only the others. A worker holds the data of one shard.
"""

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from masksearch_jax.evals import corpora
from masksearch_jax.prep import filters, manifest, preparation
from masksearch_jax.prep.beam import dump_splitting, shards
from masksearch_jax.prep.beam.shard_store import Store, is_remote, size
from masksearch_jax.prep.beam.shards import Shards
from masksearch_jax.prep.spans import annotated_passages, rare_terms
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.prep.tasks import registry, task_export
from masksearch_jax.prep.wiki import dump_files, dump_reader, languages
from masksearch_jax.runtime.types import ConfigSection, JsonObject
from masksearch_jax.text import tokenizer

SETTINGS = "settings.json"
# The runner that DirectRunner falls back to without its Prism program, which it would first fetch from GitHub.
_IN_PROCESS = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
# The settings that decide what the shards hold.
_DECIDING = ("dump", "entities", "seed", "skip_bad", "splits", "shares", "passages", "questions", "filters")


def validate_beam(cfg: ConfigSection) -> None:
    """Raise ValueError or FileNotFoundError for settings of `beam` that cannot work, before any work is done."""
    settings = cfg.beam
    paths = [] if cfg.dump == preparation.TOY else dump_files.files(cfg.dump)
    if any(map(corpora.is_corpus, paths)):
        raise ValueError(
            f"dump={cfg.dump!r}, beam.runner={settings.runner!r}: a corpus is read whole, which needs beam.runner=''"
        )
    if not settings.shard_mb > 0:
        raise ValueError(f"beam.shard_mb={settings.shard_mb}: more than 0 is needed")
    if settings.index:
        indices = _indices(settings.index)
        for index in indices:
            size(index)
        if len(indices) != max(len(paths), 1):
            raise ValueError(
                f"dump={cfg.dump!r}, beam.index={settings.index!r}: {len(paths)} dumps and {len(indices)} indices; "
                "name one index for each dump, in the same order, with commas between"
            )
    elif any(map(is_remote, paths)):
        raise ValueError(
            f"dump={cfg.dump!r}: workers read it by parts, which needs a multistream dump and its index, beam.index="
            "gs://..-multistream-index.txt.bz2; or copy the dump here and name the local file"
        )
    if settings.runner == "DataflowRunner" and not is_remote(settings.folder):
        raise ValueError(f"beam.folder={settings.folder!r}: workers of Dataflow need a bucket, gs://BUCKET/FOLDER")
    PipelineOptions([f"--runner={settings.runner}", *settings.options])


class JoinSeen(beam.CombineFn):
    """A combiner of what the shards counted of one bucket's words; gives [(word, passages)] of possible rare terms."""

    def create_accumulator(self) -> dict[str, list[rare_terms.Seen] | None]:
        return {}

    def add_input(self, found: dict[str, list[rare_terms.Seen] | None], part: Mapping[str, rare_terms.Seen]) -> dict:
        for word, seen in part.items():
            self._add(found, word, [seen])
        return found

    def merge_accumulators(self, parts: Iterable[dict[str, list[rare_terms.Seen] | None]]) -> dict:
        first, *others = parts
        for other in others:
            for word, seen in other.items():
                self._add(first, word, seen)
        return first

    def extract_output(self, found: dict[str, list[rare_terms.Seen] | None]) -> list[tuple[str, int]]:
        joined = ((word, rare_terms.join(seen)) for word, seen in found.items() if seen is not None)
        return [(word, seen.passages) for word, seen in joined if rare_terms.is_term(seen, rare_terms.MOST)]

    def _add(
        self, found: dict[str, list[rare_terms.Seen] | None], word: str, seen: list[rare_terms.Seen] | None
    ) -> None:
        before = found.get(word, [])
        together = None if before is None or seen is None else before + seen
        if together is not None and sum(part.passages for part in together) > rare_terms.MOST:
            together = None  # in too many passages already: nothing more has to be known
        found[word] = together


class Workers:
    """The implementation of preparation.Workers with Beam."""

    def __init__(self, cfg: ConfigSection, folder: Path | str):
        """Open the store of shards; `annotate` raises ValueError if shards made with other settings are in it.

        folder: where the shards are kept if cfg.beam.folder is empty, beside the data.
        """
        self._cfg = cfg
        self.store = Store(str(cfg.beam.folder or folder))
        self._shards: Shards | None = None

    def annotate(
        self,
        paths: list[str],
        splits: Splits,
        data_dir: Path,
        stats: dump_reader.DumpStats,
        bar: preparation.Bar,
        language: str = "en",
    ) -> tuple[int, annotated_passages.Annotation]:
        """Write passages and annotated/ as shards; return the number of passages, and what was found."""
        cfg = self._cfg
        with tempfile.TemporaryDirectory() as scratch:
            self._claim(paths, Path(scratch))
            parts, damaged = self._parts(paths, Path(scratch), bar)
        work = self._shards = Shards(
            self.store, parts, splits, cfg.passages.words, cfg.passages.minimum, cfg.skip_bad,
            filters.of_benchmarks(cfg.filters), language, cfg.tasks.titles,
        )  # fmt: skip
        if parts:
            with self._pipeline("annotate") as root:
                _annotate(root, work, self.store.has(shards.TERMS), cfg.filters.near_duplicate)
        counts = [self.store.read(work.name("cut/done.json", index)) for index in range(len(parts))]
        _add(stats, [count["stats"] for count in counts])
        stats.bad += damaged
        stats.file_bytes = sum(map(size, paths))
        annotation = annotated_passages.Annotation(data_dir)
        for index in range(len(parts)):
            found = self.store.read(work.name("annotated/done.json", index))
            annotation.kept.update(found["kept"])
            annotation.kinds.update(found["kinds"])
            annotation.dropped.update(found["dropped"])
            annotation.tagged += found["tagged"]
            for name in (annotated_passages.PASSAGES, *(f"annotated/{one}.tfrecord" for one in SPLITS)):
                self.store.get(work.name(name, index), data_dir / work.name(name, index))
        self._collect_names(work, annotation)
        return sum(count["passages"] for count in counts), annotation

    def export(
        self, data_dir: Path, settings: registry.TaskSettings, bar: preparation.Bar
    ) -> dict[str, dict[str, list[int]]]:
        """Write tasks/, return the counts. The masked passages are exported by shards, questions in this process."""
        work = self._shards
        assert work is not None  # annotate made them
        job = shards.job_name(tokenizer.load(data_dir).fingerprint, settings)
        files = [str(file.relative_to(data_dir)) for file in _tokenizer_files(data_dir)]
        for file in files:
            self.store.put(data_dir / file, f"{job}/{file}")
        indices = range(len(work.parts))
        with self._pipeline("export") as root:
            _ = root | beam.Create(indices) | beam.Reshuffle() | beam.Map(work.export, job, files, settings)
        for index, (name, task, epoch) in itertools.product(indices, shards.task_files(settings)):
            file = work.name(str(task_export.task_file("", name, task, epoch)), index)
            self.store.get(f"{job}/{file}", data_dir / file)
        counts = shards.total_of([self.store.read(work.name(f"{job}/done.json", index)) for index in indices], settings)
        none = dict.fromkeys(SPLITS, 0)
        registry.register(data_dir, passages=none)
        for name, asked in task_export.export(data_dir, dataclasses.replace(settings, passages=none), bar).items():
            counts.setdefault(name, {}).update(asked)
        return counts

    def _pipeline(self, name: str) -> beam.Pipeline:
        cfg = self._cfg.beam
        runner = _IN_PROCESS if cfg.runner == "DirectRunner" else cfg.runner
        print(f"beam: {name} by {cfg.runner}, shards in {self.store.root}", flush=True)
        return beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *cfg.options]))

    def language(self, paths: list[str]) -> str:
        """Return the language of dumps in a bucket, read from their heads; raise as dump_files.site does."""
        seen = dump_reader.Seen()
        found = [seen.site(Path(path), dump_splitting.head(path)).language for path in paths][0]
        languages.check_language(found, paths[0])
        return found

    def _claim(self, paths: list[str], scratch: Path) -> None:
        """Raise ValueError if the store holds shards made from something else; record the settings in an empty one."""
        recorded = self._cfg.to_dict()
        made_from = {name: recorded[name] for name in _DECIDING}
        made_from |= {name: recorded["beam"][name] for name in ("shard_mb", "index")}
        made_from |= {"titles": recorded["tasks"]["titles"]}  # what a shown title states is no candidate
        made_from |= {"bytes": sum(map(size, paths)), "code": manifest.code_version()["sha256"]}
        found = self.store.read(SETTINGS)
        if found is None:
            self.store.write(SETTINGS, made_from, scratch)
            return
        changed = [
            f"{name} was {found.get(name)!r}, is {now!r}"
            for name, now in json.loads(json.dumps(made_from)).items()
            if found.get(name) != now
        ]
        if changed:
            raise ValueError(
                f"{self.store.root} holds shards of an unfinished preparation with other settings: "
                f"{'; '.join(changed)}. Remove it, or take those settings again"
            )

    def _parts(self, paths: list[str], scratch: Path, bar: preparation.Bar) -> tuple[list[dump_splitting.Part], int]:
        cfg, most = self._cfg.beam, int(self._cfg.beam.shard_mb * 1e6)
        if cfg.index:
            return dump_splitting.by_indices(paths, _indices(cfg.index), most, self._cfg.skip_bad), 0
        with bar(sum(map(size, paths)), "parts (bytes of the dump)") as show:
            return dump_splitting.by_reading(paths, self.store, most, self._cfg.skip_bad, scratch, show)

    def _collect_names(self, work: Shards, annotation: annotated_passages.Annotation) -> None:
        """Collect the names of the first training passages, as a preparation in one process does."""
        for index in range(len(work.parts)):
            with tempfile.TemporaryDirectory() as scratch:
                for passage, anchors, *_ in work.linked(index, Path(scratch)):
                    if passage.split == "train" and not annotation.collect_names(passage, anchors):
                        return


def _indices(setting: str) -> list[str]:
    return [index.strip() for index in setting.split(",")]


def _annotate(root: beam.Pipeline, work: Shards, counted: bool, near_duplicate: float) -> None:
    """Build the graph of the first stage. counted: whether the rare terms and repeats are in the store already."""
    cut = root | "shards" >> beam.Create(range(len(work.parts))) | beam.Reshuffle() | "cut" >> beam.Map(work.cut)
    starts = cut | "all" >> beam.combiners.ToList() | "sum" >> beam.Map(_starts)
    start_of = beam.pvalue.AsSingleton(starts)
    if counted:
        terms = root | "terms" >> beam.Create([True])
    else:
        words = (
            cut
            | "count words" >> beam.FlatMap(lambda one, starts: work.count_words(one[0], starts[one[0]]), start_of)
            | beam.CombinePerKey(JoinSeen())
            | beam.FlatMap(lambda bucket: bucket[1])
            | "all terms" >> beam.combiners.ToList()
        )
        repeats = root | beam.Create([[]])
        if near_duplicate:
            repeats = (
                cut
                | "sign" >> beam.FlatMap(lambda one, starts: work.sign(one[0], starts[one[0]]), start_of)
                | beam.GroupByKey()
                | "repeats" >> beam.FlatMap(lambda band: filters.repeats_among(band[1], near_duplicate))
                | beam.Distinct()
                | "all repeats" >> beam.combiners.ToList()
            )
        terms = words | "terms" >> beam.Map(
            lambda words, repeats, starts: work.save_terms(words, repeats, starts[-1]),
            beam.pvalue.AsSingleton(repeats),
            start_of,
        )
    _ = (
        cut
        | "after the count" >> beam.Reshuffle()
        | "annotate"
        >> beam.Map(
            lambda one, starts, _: work.annotate(one[0], starts[one[0]]), start_of, beam.pvalue.AsSingleton(terms)
        )
    )


def _starts(counts: list[tuple[int, int]]) -> list[int]:
    """Return, from (shard, passages) pairs, the id of each shard's first passage, then the number of all passages."""
    return [0, *itertools.accumulate(passages for _, passages in sorted(counts))]


def _add(stats: dump_reader.DumpStats, parts: list[JsonObject]) -> None:
    for field in dataclasses.fields(stats):
        if field.type is int:
            setattr(stats, field.name, sum(part[field.name] for part in parts))


def _tokenizer_files(data_dir: Path) -> list[Path]:
    own = data_dir / tokenizer.TRAINED
    return [own] if own.is_file() else sorted(p for p in (data_dir / tokenizer.PUBLISHED).rglob("*") if p.is_file())
