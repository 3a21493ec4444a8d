"""Shards of a dump: how it is cut, what is joined again, and that readers take shards for the file. No Beam here."""

import bz2
import dataclasses
import random
import re

import pytest

from masksearch_jax import toywiki
from masksearch_jax.data import pipeline as data_pipeline
from masksearch_jax.data import records
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.prep import filters
from masksearch_jax.prep.beam import dump_splitting
from masksearch_jax.prep.beam.shard_store import Store
from masksearch_jax.prep.beam.shards import Shards
from masksearch_jax.prep.spans import annotated_passages, candidates, rare_terms
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.prep.wiki import dump_files, dump_reader
from masksearch_jax.retrieval.passage_store import PassageStore

SHARES = {"train": 0.6, "validation": 0.1, "test": 0.3}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toywiki.generate(tmp_path_factory.mktemp("toy"), 120, 0, SHARES)


@pytest.fixture(scope="module")
def multistream(toy, tmp_path_factory):
    """The toy as Wikipedia publishes it: streams of 10 pages, and an index of where each starts."""
    folder = tmp_path_factory.mktemp("multistream")
    text = bz2.decompress(toy.dump.read_bytes())
    pages = re.findall(rb" *<page>.*?</page>\n", text, re.DOTALL)
    assert len(pages) > 100
    streams, index = [bz2.compress(text[: text.index(pages[0])])], []
    for first in range(0, len(pages), 10):
        offset = sum(map(len, streams))
        some = pages[first : first + 10]
        titles = [re.search(rb"<title>(.*?)</title>", page)[1] for page in some]
        index += [b"%d:%d:%s\n" % (offset, first + place, title) for place, title in enumerate(titles)]
        streams.append(bz2.compress(b"".join(some)))
    streams.append(bz2.compress(b"</mediawiki>\n"))
    dump, index_file = folder / "multistream.xml.bz2", folder / "index.txt.bz2"
    dump.write_bytes(b"".join(streams))
    index_file.write_bytes(bz2.compress(b"".join(index)))
    return dump, index_file


def articles_of(parts, store, folder):
    for number, part in enumerate(parts):
        here = folder / f"part{number}"
        here.mkdir()
        yield from dump_reader.articles(dump_splitting.fetch(part, store, here))


def test_parts_read_are_the_dump(toy, tmp_path):
    store, seen = Store(tmp_path / "store"), []
    arguments = ([toy.dump], store, 40_000, False, tmp_path, seen.append)
    parts, damaged = dump_splitting.by_reading(*arguments)
    assert len(parts) > 3 and damaged == 0 and seen[-1] == toy.dump.stat().st_size
    assert list(articles_of(parts, store, tmp_path)) == list(dump_reader.articles(toy.dump))
    # Again: nothing is read. Without its end: the parts that are there are kept, not written again.
    assert dump_splitting.by_reading(*arguments) == (parts, 0) and len(seen) == wikipedia_pages(toy.dump)
    (tmp_path / "store" / "source" / "done.json").unlink()
    first, last = (tmp_path / "store" / parts[place].name for place in (0, -1))
    first.write_bytes(b"kept")
    last.unlink()
    assert dump_splitting.by_reading(*arguments) == (parts, 0)
    assert first.read_bytes() == b"kept" and last.exists()


def wikipedia_pages(dump):
    stats = dump_reader.DumpStats()
    list(dump_reader.articles(dump, False, stats))
    return stats.pages


def test_parts_of_a_multistream_dump_are_the_dump(toy, multistream, tmp_path):
    dump, index = multistream
    parts = dump_splitting.by_index(str(dump), str(index), 3_000)
    assert len(parts) > 3 and all(a.end == b.start for a, b in zip(parts, parts[1:], strict=False))
    assert list(articles_of(parts, Store(tmp_path), tmp_path)) == list(dump_reader.articles(toy.dump))
    assert len(dump_splitting.by_index(str(dump), str(index), 1 << 30)) == 1


def test_an_index_of_another_dump_is_refused(toy, multistream, tmp_path):
    dump, index = multistream
    with pytest.raises(ValueError, match="no bzip2 stream starts at byte"):
        shifted = tmp_path / "shifted.txt"
        shifted.write_bytes(re.sub(rb"(?m)^(\d+)", lambda m: b"%d" % (int(m[1]) + 1), bz2.open(index).read()))
        dump_splitting.by_index(str(dump), str(shifted), 3_000)
    with pytest.raises(ValueError, match=r"bad\.txt, line 1: b'nonsense"):
        (tmp_path / "bad.txt").write_text("nonsense\n")
        dump_splitting.by_index(str(dump), str(tmp_path / "bad.txt"), 3_000)
    with pytest.raises(ValueError, match="it is of another dump"):
        dump_splitting.by_index(str(toy.splits), str(index), 3_000)
    with pytest.raises(FileNotFoundError, match="missing.txt"):
        dump_splitting.by_index(str(dump), str(tmp_path / "missing.txt"), 3_000)


def test_words_seen_in_parts_join_to_those_of_the_whole():
    rng = random.Random(0)
    words = [f"word{i}" for i in range(60)]
    texts = [" ".join(rng.choices(words[max(0, i - 40) // 4 :][:12], k=6)) for i in range(200)]
    whole, total = rare_terms.count(texts)
    assert total == 200
    borders = [0, *sorted(rng.sample(range(1, 200), 7)), 200]
    parts: dict[str, list[rare_terms.Seen]] = {}
    for start, end in zip(borders, borders[1:], strict=False):
        for word, seen in rare_terms.count(texts[start:end])[0].items():
            parts.setdefault(word, []).append(seen._replace(first=seen.first + start, last=seen.last + start))
    for seen in parts.values():
        rng.shuffle(seen)
    assert {word: rare_terms.join(seen) for word, seen in parts.items()} == whole
    test = candidates.rare_terms(texts, share=0.1)
    chosen = {word for word in words if test(word)}
    # Counted here from the definition: 3 to 20 passages, half of them close behind the one before.
    for word in words:
        places = [number for number, text in enumerate(texts) if word in text.split()]
        close = sum(b - a <= 15 for a, b in zip(places, places[1:], strict=False))
        assert (word in chosen) == (3 <= len(places) <= 20 and 2 * close >= len(places))
    assert 0 < len(chosen) < len(words)


def test_shards_cut_and_annotated_are_those_of_one_process(toy, tmp_path):
    """What Beam calls, called here in another order."""
    splits, stats = Splits(toy.splits, SHARES, 0), dump_reader.DumpStats()
    store = Store(tmp_path / "store")
    parts, _ = dump_splitting.by_reading([toy.dump], store, 60_000, False, tmp_path, lambda done: None)
    work = Shards(store, parts, splits, words=100, minimum=40, skip_bad=False, filter=filters.Filter())
    counts = sorted(work.cut(index) for index in reversed(range(len(parts))))
    starts = [sum(count for _, count in counts[:index]) for index in range(len(parts))]
    seen = {}
    for index in range(len(parts)):
        for _, bucket in work.count_words(index, starts[index]):
            for word, found in bucket.items():
                seen.setdefault(word, []).append(found)
    joined = {word: rare_terms.join(found) for word, found in seen.items()}
    total = sum(count for _, count in counts)
    work.save_terms([(w, s.passages) for w, s in joined.items() if rare_terms.is_term(s, rare_terms.MOST)], [], total)
    for index in reversed(range(len(parts))):
        work.annotate(index, starts[index])

    here = tmp_path / "here"
    here.mkdir()
    articles = dump_files.read_articles([toy.dump], False, stats)
    settings = dataclasses.make_dataclass("Settings", ["words", "minimum"])(100, 40)
    records.write(
        here / annotated_passages.PASSAGES,
        annotated_passages.cut_articles(articles, splits, settings, here / annotated_passages.LINKS),
    )
    wanted = list(records.read(here / annotated_passages.PASSAGES, records.Passage))
    test = candidates.rare_terms(passage.text for passage in wanted)
    assert {word for word in joined if test(word)} == set(store.read("terms.json")["words"])
    annotation = annotated_passages.Annotation(here)
    annotation.run(annotated_passages.with_links(here), lambda *found: candidates.find(*found, rare=test))
    assert list(records.read(tmp_path / "store" / annotated_passages.PASSAGES, records.Passage)) == wanted
    for name in SPLITS:
        shards = [tmp_path / "store" / work.name(f"annotated/{name}.tfrecord", i) for i in range(len(parts))]
        # Records of TFRecord files stand one behind the other, so that joined files are the file.
        assert b"".join(s.read_bytes() for s in shards) == (here / "annotated" / f"{name}.tfrecord").read_bytes()
    marked = tmp_path / "store" / work.name(annotated_passages.PASSAGES, 0)
    before = marked.stat()
    assert work.cut(0) == counts[0] and work.annotate(0, 0) == 0
    assert marked.stat() == before  # a finished shard is not done again


def passages(count):
    return [records.Passage(i, i, f"Title {i}", f"Text {i}", "train") for i in range(count)]


def test_readers_take_shards_for_the_file(tmp_path):
    path, wanted = tmp_path / "passages.array_record", passages(10)
    for index, (start, end) in enumerate([(0, 4), (4, 4), (4, 10)]):
        records.write(records.shard(path, index, 3), wanted[start:end])
    assert records.shard(path, 2, 3).name == "passages-00002-of-00003.array_record"
    assert records.unsharded(records.shard(path, 2, 3)) == path == records.unsharded(path)
    assert list(records.read(path, records.Passage)) == wanted
    for in_memory in (True, False):
        store = PassageStore(path, in_memory)
        assert len(store) == 10 and list(store) == wanted
        assert store.get([9, 0, 4, 3, 4]) == [wanted[i] for i in (9, 0, 4, 3, 4)]
        with pytest.raises(IndexError, match="asked for 10"):
            store.get([10])
    records.shard(path, 1, 3).unlink()
    with pytest.raises(FileNotFoundError, match="passages-00001-of-00003"):
        list(records.read(path, records.Passage))
    records.write(records.shard(path, 0, 2), [])
    with pytest.raises(FileNotFoundError, match=r"of \[2, 3\]"):
        records.files(path)


def test_training_reads_the_same_stream_from_shards(tmp_path):
    def task(i):
        return records.Task(
            id=f"t{i}", kind="ramp", split="train", prompt=[i], targets=[i], answer_form="spans", answers=[["a"]],
            span_kinds=["link"], text="", paragraph="", title="", passage_id=i, article_id=i,
        )  # fmt: skip

    curriculum = Curriculum(((None, {"ramp_1": 1.0}),))
    streams = []
    for name, borders in (("one", None), ("three", [0, 5, 5, 12])):
        for epoch in range(2):
            path, found = tmp_path / name / "train" / "ramp_1" / f"epoch_{epoch}.array_record", [*map(task, range(12))]
            if borders is None:
                records.write(path, found)
            else:
                for index, (start, end) in enumerate(zip(borders, borders[1:], strict=False)):
                    records.write(records.shard(path, index, 3), found[start:end])
        stream = data_pipeline.tasks(tmp_path / name, "train", curriculum, seed=0, tokenizer_fingerprint="t")
        streams.append([next(stream).id for _ in range(40)])
        assert "epoch_1" in stream.fingerprint
    assert streams[0] == streams[1] and len(set(streams[0][:12])) == 12
    records.shard(tmp_path / "three" / "train" / "ramp_1" / "epoch_0.array_record", 2, 3).unlink()
    with pytest.raises(FileNotFoundError, match="epoch_0-00002-of-00003"):
        data_pipeline.tasks(tmp_path / "three", "train", curriculum, seed=0, tokenizer_fingerprint="t")
