"""The annotation of a whole dump in one process: its passages, and the spans that tasks may mask in them.

Enters: settings (configs/prepare.py), the files of a dump, splits, a span finder. Leaves, in the data directory:
passages.array_record and annotated/ (prep/spans/annotated_passages.py). Apache Beam does the same by shards
(prep/beam).
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from masksearch_jax.data import records
from masksearch_jax.prep import filters, manifest, search_only
from masksearch_jax.prep.spans import annotated_passages, candidates, corroboration, shown_titles
from masksearch_jax.prep.splits import Splits
from masksearch_jax.prep.wiki import dump_files, dump_reader
from masksearch_jax.runtime.types import ConfigSection

Item = TypeVar("Item")

Choice = Callable[[candidates.SpanFinder], candidates.SpanFinder]
# (total, label) -> context, whose value is called with the number done so far, as for progress.progress_bar.
Bar = Callable[[int | None, str], contextlib.AbstractContextManager[Callable[[int], None]]]


class Clock:
    """The seconds that each stage took."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)


def annotate(
    cfg: ConfigSection,
    paths: list[str],
    splits: Splits,
    data_dir: Path,
    stats: dump_reader.DumpStats,
    bar: Bar,
    clock: Clock,
    newer: Path | str = "",
    choose: Choice = lambda rules: rules,
    ahead: Callable[[Iterable[annotated_passages.Linked]], Iterable[annotated_passages.Linked]] = lambda found: found,
    language: str = "en",
) -> tuple[int, annotated_passages.Annotation]:
    """Write passages and annotated/ of a whole dump; return the number of passages, and what was found.

    newer: a later dump, whose passages are written after those of the dump. choose, ahead: as for preparation.run.
    """
    size = manifest.size(paths)
    with clock.stage("passages"), bar(size, "articles (bytes of the dump)") as show:
        articles = _counted(
            dump_files.read_articles(paths, cfg.skip_bad, stats, dump_files.fields_of(cfg)),
            lambda _: show(stats.file_bytes),
        )
        superseded: list[str] = []
        articles = search_only.without(articles, search_only.titles(cfg), superseded.append)
        ids = _Highest()
        cut = annotated_passages.cut_articles(
            ids.seen(articles), splits, cfg.passages, data_dir / annotated_passages.LINKS
        )
        added = annotated_passages.newer_passages(newer, cfg) if newer else iter(())
        searched = search_only.cut(cfg, lambda: ids.highest + 1)
        total = records.write(data_dir / annotated_passages.PASSAGES, annotated_passages.dense(cut, added, searched))
        stats.superseded = len(superseded)
        show(size or stats.file_bytes)  # a JSON file is read whole, and padding may follow the last article
    with clock.stage("spans"):
        rare = candidates.rare_terms(passage.text for passage in annotated_passages.old(data_dir))
        finder = choose(functools.partial(candidates.find, rare=rare, language=language))
        if cfg.tasks.titles:
            finder = shown_titles.without_title(finder)
        annotation, dropped = annotated_passages.Annotation(data_dir), filters.of_benchmarks(cfg.filters)
        if cfg.filters.near_duplicate:
            repeats = filters.near_duplicates(functools.partial(_compared, data_dir), cfg.filters.near_duplicate)
            dropped = dataclasses.replace(dropped, repeats=repeats)
        keep = {"keep": corroboration.tester(data_dir, finder)} if cfg.corroborated else {}
        with bar(total, "spans") as show:
            annotation.run(
                _counted(ahead(annotated_passages.with_links(data_dir)), show), finder, dropped.reason, **keep
            )
            show(total)  # passages that are only searched have no spans
        (data_dir / annotated_passages.LINKS).unlink()
    return total, annotation


class _Highest:
    """The highest id of the articles seen so far; -1 before the first one."""

    def __init__(self):
        self.highest = -1

    def seen(self, articles: Iterable[search_only.Article]) -> Iterator[search_only.Article]:
        for article in articles:
            self.highest = max(self.highest, article[0])
            yield article


def _compared(data_dir: Path) -> Iterator[records.Passage]:
    """Yield the passages that no training passage may repeat: those of the dump, and those that are only searched."""
    return (
        p
        for p in records.read(data_dir / annotated_passages.PASSAGES, records.Passage)
        if p.split != annotated_passages.NEWER
    )


def _counted(items: Iterable[Item], show: Callable[[int], None]) -> Iterator[Item]:
    """Yield the items, and call `show` with the number of items done."""
    for count, item in enumerate(items, start=1):
        yield item
        show(count)
