"""From articles to annotated passages: cut and number them, record the links, find the spans, write the SeqIO input.

Enters: a dump (or a benchmark's corpus), splits, a span finder. Leaves: passages.array_record and
annotated/<split>.tfrecord (ramp.FEATURES). With these functions one process prepares a whole dump (dump_annotation.py),
and prep/beam each shard of one.
"""

import contextlib
import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import tensorflow as tf

from masksearch_jax.data import records
from masksearch_jax.prep.spans import candidates
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.prep.tasks import exchangeable_tokens, registry
from masksearch_jax.prep.wiki import dump_files, dump_reader, passage_cutting, wikitext
from masksearch_jax.runtime.types import ConfigSection, JsonObject
from masksearch_jax.text import tags

PASSAGES = "passages.array_record"
NEWER = "newer"  # the split of passages of a newer dump
LINKS = "links.jsonl"  # exists between two stages, then removed
# Tokens are counted and names collected on at most this many training passages, the first ones.
SAMPLE = 50_000

# A passage with its links and its article's categories and infobox.
Linked = tuple[records.Passage, list[wikitext.Anchor], list[str], list[tuple[str, str]]]


def newer_passages(dump: Path | str | Sequence[str], cfg: ConfigSection) -> Iterator[records.Passage]:
    """Yield the passages of a newer dump, as split 'newer' and without numbers (`dense` numbers them).

    dump: a setting, as dump_files.files reads it.
    """
    paths = dump_files.files(dump, "newer_dump")
    articles = dump_files.read_articles(paths, cfg.skip_bad, dump_reader.DumpStats(), dump_files.fields_of(cfg))
    for article_id, title, document in articles:
        for passage in passage_cutting.cut(document, title, cfg.passages.words, cfg.passages.minimum):
            yield records.Passage(-1, article_id, title, passage.text, NEWER)


def old(data_dir: Path) -> Iterator[records.Passage]:
    """Yield the passages of the dump, without those of a newer dump and those that are only searched."""
    return (p for p in records.read(data_dir / PASSAGES, records.Passage) if p.split in SPLITS)


def dense(*parts: Iterable[records.Passage]) -> Iterator[records.Passage]:
    """Yield the passages of all parts, numbered from 0."""
    for id, passage in enumerate(itertools.chain(*parts)):
        yield dataclasses.replace(passage, id=id)


def cut_articles(
    articles: Iterable[tuple[int, str, wikitext.Document]],
    splits: Splits,
    settings: ConfigSection | SimpleNamespace,
    links_file: Path,
) -> Iterator[records.Passage]:
    """Yield the passages of all articles with consecutive ids; write their links to a file for the span finder."""
    count = 0
    with links_file.open("w", encoding="utf-8") as links:
        for article_id, title, document in articles:
            cut = passage_cutting.cut(document, title, settings.words, settings.minimum)
            split = splits.of(title) if cut else ""
            for passage in cut:
                yield records.Passage(count, article_id, title, passage.text, split)
                anchors = [(a.start, a.end, a.target) for a in passage.anchors]
                links.write(json.dumps((anchors, document.categories, document.infobox)) + "\n")
                count += 1


def with_links(data_dir: Path) -> Iterator[Linked]:
    """Yield the passages of the dump together with what `cut_articles` recorded for them."""
    with (data_dir / LINKS).open(encoding="utf-8") as links:
        for passage, line in zip(old(data_dir), links, strict=True):
            anchors, categories, infobox = json.loads(line)
            yield passage, [wikitext.Anchor(*a) for a in anchors], categories, [tuple(item) for item in infobox]


class Annotation:
    """Writer of annotated/<split>.tfrecord that counts what it writes and leaves out.

    kept: passages with a span, by split. kinds: {kind: spans}. tagged: passages left out because they contain one of
    our tags. dropped: passages left out by prep/filters.py, by reason. named: (text, spans of names) of training
    passages and of their titles, for exchangeable_tokens.groups.
    """

    def __init__(self, data_dir: Path):
        self._data_dir = data_dir
        self.kept: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.tagged = 0
        self.named: list[tuple[str, list[tuple[int, int]]]] = []

    def run(
        self,
        found: Iterable[Linked],
        finder: candidates.SpanFinder,
        reason: Callable[[records.Passage], str] = lambda passage: "",
        keep: Callable[[records.Passage, candidates.Span], bool] = lambda passage, span: True,
    ) -> None:
        """Annotate each passage for which `reason()` returns '', with the spans that `keep()` accepts."""
        with contextlib.ExitStack() as stack:
            (self._data_dir / "annotated").mkdir(exist_ok=True)
            files = {split: str(registry.passage_file(self._data_dir, split)) for split in SPLITS}
            writers = {split: stack.enter_context(tf.io.TFRecordWriter(file)) for split, file in files.items()}
            for passage, anchors, categories, infobox in found:
                if passage.split == "train":
                    self.collect_names(passage, anchors)
                shown = f"{passage.title} {passage.text}"
                if tags.neutralise(shown) != shown:
                    self.tagged += 1
                    continue
                if left_out := reason(passage):
                    self.dropped[left_out] += 1
                    continue
                chosen = finder(passage.text, passage.title, anchors, categories, infobox)
                # An answer with a separator in it would read as two.
                chosen = [s for s in chosen if tags.SPAN_SEPARATOR not in passage.text[s.start : s.end]]
                chosen = [s for s in chosen if keep(passage, s)]
                if chosen:
                    self.kept[passage.split] += 1
                    self.kinds.update(span.kind for span in chosen)
                    writers[passage.split].write(registry.example(_fields(passage, chosen)))

    def collect_names(self, passage: records.Passage, anchors: list[wikitext.Anchor]) -> bool:
        """Collect the names of a training passage; return whether more are wanted."""
        if len(self.named) < 2 * SAMPLE:
            places = [(a.start, a.end) for a in anchors] + exchangeable_tokens.mentions(passage.text, passage.title)
            self.named += [(passage.text, places), (passage.title, [(0, len(passage.title))])]
        return len(self.named) < 2 * SAMPLE


def _fields(passage: records.Passage, chosen: list[candidates.Span]) -> JsonObject:
    """Return the fields of ramp.FEATURES."""

    def in_bytes(offset: int) -> int:
        return len(passage.text[:offset].encode())

    return {
        "id": passage.id,
        "article_id": passage.article_id,
        "title": passage.title,
        "split": passage.split,
        "text": passage.text,
        "starts": [in_bytes(s.start) for s in chosen],
        "ends": [in_bytes(s.end) for s in chosen],
        "char_starts": [s.start for s in chosen],
        "char_ends": [s.end for s in chosen],
        "kinds": [s.kind for s in chosen],
    }
