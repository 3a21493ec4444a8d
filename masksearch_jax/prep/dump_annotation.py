"""A whole dump read by one process: its passages, and the spans that tasks may mask in them.

Enters: settings (configs/prepare.py), the files of a dump, splits, a span finder. Leaves, in the data directory:
passages.array_record and annotated/ (prep/annotated.py). Apache Beam does the same by shards (prep/beam).
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from masksearch_jax.data import records
from masksearch_jax.prep import (
    annotated,
    dumps,
    elsewhere,
    filters,
    manifest,
    search_only,
    shown_titles,
    spans,
    wikipedia,
)
from masksearch_jax.prep.splits import Splits

Choice = Callable[[spans.SpanFinder], spans.SpanFinder]
# (total, label) -> context whose value is called with the number done so far, as metrics.progress_bar.
Bar = Callable[[int, str], contextlib.AbstractContextManager[Callable[[int], None]]]


class Clock:
    """Seconds by stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)


def annotate(
    cfg: Any,
    paths: list[str],
    splits: Splits,
    data_dir: Path,
    stats: wikipedia.DumpStats,
    bar: Bar,
    clock: Clock,
    newer: Path | str = "",
    choose: Choice = lambda rules: rules,
    ahead: Callable[[Iterable[annotated.Linked]], Iterable[annotated.Linked]] = lambda found: found,
    language: str = "en",
) -> tuple[int, annotated.Annotation]:
    """Writes passages and annotated/ of a whole dump; returns how many passages there are, and what was found. newer:
    a later dump, whose passages are written after. choose, ahead: as for `run`."""
    with clock.stage("passages"), bar(manifest.size(paths) or 0, "articles (bytes of the dump)") as show:
        articles = _counted(dumps.read_articles(paths, cfg.skip_bad, stats), lambda _: show(stats.file_bytes))
        superseded: list[str] = []
        articles = search_only.without(articles, search_only.titles(cfg), superseded.append)
        ids = _Highest()
        cut = annotated.cut_articles(ids.seen(articles), splits, cfg.passages, data_dir / annotated.LINKS)
        added = annotated.newer_passages(newer, cfg) if newer else iter(())
        searched = search_only.cut(cfg, lambda: ids.highest + 1)
        total = records.write(data_dir / annotated.PASSAGES, annotated.dense(cut, added, searched))
        stats.superseded = len(superseded)
    with clock.stage("spans"):
        rare = spans.rare_terms(passage.text for passage in annotated.old(data_dir))
        finder = choose(functools.partial(spans.find, rare=rare, language=language))
        if cfg.tasks.titles:
            finder = shown_titles.without_title(finder)
        annotation, dropped = annotated.Annotation(data_dir), filters.of_benchmarks(cfg.filters)
        if cfg.filters.near_duplicate:
            repeats = filters.near_duplicates(functools.partial(_compared, data_dir), cfg.filters.near_duplicate)
            dropped = dataclasses.replace(dropped, repeats=repeats)
        keep = {"keep": elsewhere.tester(data_dir, finder)} if cfg.elsewhere else {}
        with bar(total, "spans") as show:
            annotation.run(_counted(ahead(annotated.with_links(data_dir)), show), finder, dropped.reason, **keep)
        (data_dir / annotated.LINKS).unlink()
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
    """Yields what no training passage may repeat: the passages of the dump, and those that are only searched."""
    return (p for p in records.read(data_dir / annotated.PASSAGES, records.Passage) if p.split != annotated.NEWER)


def _counted(items: Iterable[Any], show: Callable[[int], None]) -> Iterator[Any]:
    """Yields the items, telling `show` how many are done."""
    for count, item in enumerate(items, start=1):
        yield item
        show(count)
