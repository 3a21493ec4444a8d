"""The dump reader: what it yields, what it skips, and how it takes damage."""

import bz2
import gzip
import os
import tracemalloc

import pytest

from masksearch_jax.prep.wiki import dump_reader

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en">\n'
    "  <siteinfo><sitename>Test</sitename></siteinfo>\n"
)


def page(number, title, text, namespace=0, redirect=False):
    mark = '<redirect title="Elsewhere" />' if redirect else ""
    return (
        f"  <page>\n    <title>{title}</title>\n    <ns>{namespace}</ns>\n    <id>{number}</id>\n    {mark}\n"
        f"    <revision>\n      <id>9{number}</id>\n      <contributor><id>7</id></contributor>\n"
        f'      <text xml:space="preserve">{text}</text>\n    </revision>\n  </page>\n'
    )


PAGES = [
    page(1, "Alpha", "'''Alpha''' &lt;ref&gt;x&lt;/ref&gt; &amp; [[Beta]]."),
    page(2, "Talk:Alpha", "Talk.", namespace=1),
    page(3, "Old", "#REDIRECT [[Alpha]]", redirect=True),
    page(4, "Older", "  #redirect [[Alpha]]"),
    page(5, "Béta", "Second, with ünïcode."),
    page(6, "Gamma", "Third."),
]
DUMP = (HEAD + "".join(PAGES) + "</mediawiki>\n").encode()


def read(path, **options):
    stats = dump_reader.DumpStats()
    return list(dump_reader.articles(path, stats=stats, **options)), stats


def write(tmp_path, data, name="dump.xml"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", [bytes, bz2.compress, gzip.compress], ids=["xml", "bz2", "gz"])
def test_articles_only_and_all_counted(tmp_path, pack):
    found, stats = read(write(tmp_path, pack(DUMP)))
    assert [(a.id, a.title) for a in found] == [(1, "Alpha"), (5, "Béta"), (6, "Gamma")]
    assert found[0].wikitext == "'''Alpha''' <ref>x</ref> & [[Beta]]."
    assert (stats.pages, stats.redirects, stats.non_articles, stats.articles, stats.bad) == (6, 2, 1, 3, 0)
    assert stats.wikitext_bytes == sum(len(a.wikitext.encode()) for a in found)


def test_multistream(tmp_path):
    """Wikipedia's multistream dumps: the head, then a stream for every hundred pages, then the end."""
    streams = [HEAD, PAGES[0] + PAGES[1], "".join(PAGES[2:]), "</mediawiki>\n"]
    found, _ = read(write(tmp_path, b"".join(bz2.compress(s.encode()) for s in streams)))
    assert [a.title for a in found] == ["Alpha", "Béta", "Gamma"]


def test_last_revision_counts(tmp_path):
    two = page(1, "A", "old").replace("  </page>", "    <revision><text>new</text></revision>\n  </page>")
    found, _ = read(write(tmp_path, (HEAD + two + "</mediawiki>").encode()))
    assert found[0].wikitext == "new"


def test_chunk_borders(tmp_path, monkeypatch):
    """Every size of a piece gives the same articles, also where it cuts a tag or a character in two."""
    path = write(tmp_path, DUMP)
    whole = read(path)[0]
    for size in (1, 2, 3, 7, 16, 101):
        monkeypatch.setattr(dump_reader, "_CHUNK", size)
        assert read(path)[0] == whole


def test_missing_or_foreign_file_fails_before_reading(tmp_path):
    with pytest.raises(dump_reader.DumpError, match="no such file.*--config.dump"):
        dump_reader.articles(tmp_path / "none.xml")
    for data in (b"", b"<html>", b"{}"):
        with pytest.raises(dump_reader.DumpError, match="no MediaWiki export"):
            dump_reader.articles(write(tmp_path, data))
    with pytest.raises(dump_reader.DumpError, match="first byte"):
        dump_reader.articles(write(tmp_path, b"BZh9 this is no bzip2 stream", "x.bz2"))


# What the file needs so that the damage lies behind some pages: text that bzip2 cannot shrink.
def noise(count):
    return "".join(page(10 + i, f"N{i}", os.urandom(30_000).hex()) for i in range(count))


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, bytes], ids=["bz2", "gz", "xml"])
def test_truncated(tmp_path, pack):
    data = pack((HEAD + noise(30) + "</mediawiki>").encode())
    path = write(tmp_path, data[: len(data) * 2 // 3], "cut.xml.any")
    seen = []
    with pytest.raises(dump_reader.DumpError) as error:
        for article in dump_reader.articles(path):
            seen.append(article.title)
    # The message names the file, the last page that was read whole, its count, and the way out.
    assert 5 < len(seen) < 30
    assert str(path) in str(error.value) and f"page {len(seen)} ('{seen[-1]}')" in str(error.value)
    assert "--config.skip_bad=True" in str(error.value)
    found, stats = read(path, skip_bad=True)
    assert [a.title for a in found] == seen and stats.bad == 1


def test_damaged_stream_in_the_middle(tmp_path):
    """With skip_bad the streams behind a damaged one are read: of 100 pages each, one lot is lost."""
    streams = [bz2.compress((HEAD if i == 0 else "").encode() + noise_lot(i)) for i in range(4)]
    streams.append(bz2.compress(b"</mediawiki>"))
    middle = bytearray(streams[1])
    middle[len(middle) // 2] ^= 0xFF
    path = write(tmp_path, b"".join([streams[0], bytes(middle), *streams[2:]]))
    with pytest.raises(dump_reader.DumpError, match=r"L0-4.*damaged"):
        read(path)
    found, stats = read(path, skip_bad=True)
    lots = {a.title.partition("-")[0] for a in found}
    assert {"L0", "L2", "L3"} <= lots and stats.bad == 1
    assert [a.title for a in found if not a.title.startswith("L1")] == [
        f"L{i}-{j}" for i in (0, 2, 3) for j in range(5)
    ]


def noise_lot(lot):
    return "".join(page(lot * 10 + j, f"L{lot}-{j}", os.urandom(20_000).hex()) for j in range(5)).encode()


@pytest.mark.parametrize(
    ("broken", "lost"),
    [
        (PAGES[4].replace("</title>", ""), {"Béta"}),
        (PAGES[4].replace("Second", "Sec & ond"), {"Béta"}),
        (PAGES[4].replace("  </page>\n", ""), {"Béta"}),
        (PAGES[4].replace("  <page>\n", ""), {"Béta"}),
        (PAGES[4].replace("<id>5</id>", "<id>five</id>"), {"Béta"}),
        (PAGES[4] + "<text>stray", set()),
    ],
    ids=["unclosed title", "bare ampersand", "no page end", "no page start", "id no number", "stray text"],
)
def test_damaged_xml(tmp_path, broken, lost):
    path = write(tmp_path, (HEAD + "".join([*PAGES[:4], broken, PAGES[5]]) + "</mediawiki>").encode())
    with pytest.raises(dump_reader.DumpError, match=r"page [45] \('(Older|Béta)'\).*skip_bad"):
        read(path)
    found, stats = read(path, skip_bad=True)
    assert {a.title for a in found} == {"Alpha", "Béta", "Gamma"} - lost
    assert stats.bad == 1


@pytest.mark.parametrize(
    "broken",
    [
        PAGES[4].replace("<page>", '<page><!DOCTYPE page [<!ENTITY a "x"><!ENTITY b "&a;&a;">]>'),
        PAGES[4].replace("</title>", "&b;</title>"),
    ],
)
def test_a_page_declares_no_entities(tmp_path, broken):
    """Neither in itself nor in the head of the export, which is not read as XML: none can grow, or name a file."""
    head = f'<!DOCTYPE mediawiki [<!ENTITY b SYSTEM "file:///etc/hostname">]>{HEAD}'
    for one in (HEAD, head):
        path = write(tmp_path, (one + "".join([*PAGES[:4], broken, PAGES[5]]) + "</mediawiki>").encode())
        found, stats = read(path, skip_bad=True)
        assert stats.bad == 1 and len(found) == len(read(write(tmp_path, DUMP))[0]) - 1


def test_constant_memory(tmp_path):
    """Reading 20 MB of pages holds a few pieces of the file and one page, not the file."""
    with gzip.open(tmp_path / "big.xml.gz", "wt", compresslevel=1) as file:
        file.write(HEAD)
        for i in range(200):
            file.write(page(i, f"P{i}", "word " * 20_000))
        file.write("</mediawiki>")
    tracemalloc.start()
    count = sum(1 for _ in dump_reader.articles(tmp_path / "big.xml.gz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200 and peak < 8e6


def test_real_slice(data_dir):
    found, stats = read(data_dir / "enwiki-shortened.xml.bz2")
    assert (stats.pages, stats.articles, stats.bad) == (206, 106, 0)
    assert len(found) == 106 and {"Anarchism", "Algeria", "Abraham Lincoln"} <= {a.title for a in found}
