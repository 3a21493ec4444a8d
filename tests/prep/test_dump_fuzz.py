"""Exports of any shape: articles or a DumpError, whatever is damaged, and cost grows at most like n log n."""

import bz2
import gzip

import pytest
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st

from masksearch_jax.prep.wiki import dump_reader

HEAD = b'<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname></siteinfo>'
PIECES = [
    HEAD, b"<mediawiki>", b"</mediawiki>", b"<siteinfo>", b"</siteinfo>", b"<page>", b"</page>", b"<title>",
    b"</title>", b"A", b"<ns>0</ns>", b"<ns>x</ns>", b"<id>1</id>", b"<id>-5</id>", b"<id>" + b"9" * 40 + b"</id>",
    b"<revision><text>b</text></revision>", b"<revision>", b"<text>", b"</text>", b"<!--", b"-->", b"<logitem>",
    b"</logitem>", b"<!-- <page></page> -->", b"\n", b" ", b"\0", b"&amp;", b"&lt;", b"&", b"<", b"]]>", b"<![CDATA[",
    b"\xff", b"\xe5\xad\x97", b"<?xml version='1.0'?>", b"<a>", b"<redirect/>",
    b"<page><title>B</title><ns>0</ns><id>2</id><revision><text>c</text></revision></page>", b"#REDIRECT [[A]]",
]  # fmt: skip
PACKS = [bytes, bz2.compress, gzip.compress]
bodies = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=25).map(b"".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dumps")


@fuzz(
    st.lists(st.tuples(bodies, st.sampled_from(PACKS)), min_size=1, max_size=3),
    st.integers(0, 1 << 16),
    st.sampled_from(["whole", "cut", "flipped", "padded"]),
    st.booleans(),
    examples=150,
)
def test_any_file_gives_articles_or_a_dump_error(folder, parts, place, damage, with_head):
    data = b"".join(pack(HEAD * with_head + body + b"</mediawiki>" * (place % 2)) for body, pack in parts)
    place %= len(data) + 1
    if damage == "cut":
        data = data[:place]
    elif damage == "flipped" and data:
        data = bytes([*data[: place - 1], data[place - 1] ^ (1 << place % 8), *data[place:]])
    elif damage == "padded":
        data += bytes(512)
    path = folder / "dump.xml"
    path.write_bytes(data)
    for skip_bad in (False, True):
        stats = dump_reader.DumpStats()
        found = []
        try:
            found += dump_reader.articles(path, skip_bad, stats)
        except dump_reader.DumpError as error:
            assert str(path) in str(error)
        assert len({a.id for a in found}) == len({a.title for a in found}) == len(found) == stats.articles
        assert stats.pages == stats.articles + stats.redirects + stats.non_articles


def grows(folder, beginning, piece, end, largest):
    path = folder / "growing.xml"

    def make(size):
        return HEAD + beginning + piece * (size // len(piece) + 1) + end

    def read(data):
        path.write_bytes(data)
        list(dump_reader.articles(path, skip_bad=True))

    assert_grows_like_n_log_n(read, make, largest)


@fuzz(
    st.lists(st.sampled_from(PIECES), max_size=2).map(b"".join),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(b"".join),
    st.lists(st.sampled_from(PIECES), max_size=2).map(b"".join),
    examples=5,
)
def test_cost_grows_like_n_log_n(folder, beginning, piece, end):
    grows(folder, beginning, piece, end, largest=100_000)


@pytest.mark.parametrize(
    "piece", [b"<page>", b"</page>", b"<!--", b"<!-- a -->", b"<mediawiki>", b"<siteinfo>", b"<page></page>"]
)
def test_pages_that_never_end_are_read_in_linear_time(folder, piece):
    grows(folder, b"", piece, b"</page>", largest=200_000)
