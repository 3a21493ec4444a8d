"""Whatever a search server answers: hits that any task may see, or a failed search; in time n log n.

MASKSEARCH_FUZZ_SECONDS=600 bash launch/test.sh -m fuzz -s -k search_replies
"""

import json

import pytest
import serving
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st

from masksearch_jax.data import records
from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import answer_documents, search_client, wire
from masksearch_jax.retrieval.service.remote_settings import Remote, RemoteSettings
from masksearch_jax.retrieval.service.transport import Reply, Transport, TransportError
from masksearch_jax.text import prompt, tags

TITLE = "Karn Velith"
TEXT = (
    "Karn Velith was born in Tolmar in May 1850 and studied with Orla Denn, whose school he left for Keshan by the sea."
)
WORDS = TEXT.split()
SETTINGS = RemoteSettings("http://unused", 5.0, 10.0, 0, 1 << 30, 30.0, 0.0, "local")
FALLBACK = [Hit(7, 3, "Local", "fallback", 1.0)]
QUERIES = [Query("first", 1, 1), Query("second", 1, 1)]

_PIECES = [*tags.ALL, "\ud800", "\udfff", "\x00", "\n", '"', "\u200b", "\u0301", "&#", "&amp;", "<b>", "](", "[[", "|"]
_text = st.lists(st.sampled_from([*_PIECES, *WORDS, TITLE, TEXT, " "]) | st.text(max_size=4), max_size=15).map("".join)
_number = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1 << 63, True])
_any = st.recursive(
    st.none() | st.booleans() | _number | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_fields = {"contents": _text | _any, "title": _text | _any, "text": _text | _any, "id": _any, "article_id": _any}
_inner = st.fixed_dictionaries({}, optional=_fields)
_entry = _any | _inner | st.fixed_dictionaries({"document": _inner | _any}, optional={"score": _number | _any})
_good = st.builds(
    lambda text, score: {"document": {"id": "3", "article_id": 1, "contents": text}, "score": score},
    _text,
    st.floats(0, 1),
)
_mostly_good = st.lists(st.lists(_good | _good | _entry, max_size=4), min_size=2, max_size=2)
_results = (
    _mostly_good
    | _mostly_good
    | st.lists(st.lists(_entry, max_size=4) | _any, min_size=2, max_size=2)
    | st.lists(_any, max_size=3)
)
_reply = st.fixed_dictionaries({"result": _results}, optional={"fingerprint": _any})
_reply = _reply | _reply | _reply | _any
_separators = ["\n", " ", "", ": ", "\r\n", '"\n', "\ud800", "\x00", "\u200b", "<br>", " [1] ", "&nbsp;", "\t\t", "**"]


class Local:
    def search(self, queries, k):
        return [FALLBACK for _ in queries]


class Said:
    """A transport that answers every request alike."""

    def __init__(self, status, body):
        self.reply = Reply(status, body)

    def exchange(self, method, path, body, seconds):
        return self.reply


class Letters:
    """The part of a tokenizer that an observation needs: a token for each byte."""

    token_bytes = [bytes([i]) for i in range(256)]

    def encode(self, text):
        return list(text.encode())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzzed") / "passages.array_record"
    passages = [("Dorvan", "A lighthouse on a cliff above the strait."), (TITLE, TEXT)]
    records.write(path, [records.Passage(i, i, *one, "train") for i, one in enumerate(passages)])
    return PassageStore(path)


@pytest.fixture(scope="module")
def excluded(stored):
    return {mode: exclusion.ExcludeByText(stored, mode, 0.5) for mode in ("none", "passage", "article")}


def searcher_over(transport, excluded, mode="passage", ours=False):
    return search_client.RemoteSearcher(
        Remote("http://h", ours, wire.Limits()), transport, SETTINGS, excluded[mode], Local()
    )


def check(found, k):
    assert len(found) == len(QUERIES)
    for hits in found:
        assert len(hits) <= k
        json.dumps([[hit.title, hit.text, hit.score] for hit in hits], allow_nan=False).encode()
        ids = prompt.observation(hits, Letters(), 300)
        shown = bytes(ids).decode()
        assert shown.endswith(tags.INFORMATION[1]) and sum(shown.count(tag) for tag in tags.ALL) == 2
        for hit in hits:
            assert -(1 << 63) <= hit.passage_id < 1 << 63 and -(1 << 63) <= hit.article_id < 1 << 63


@fuzz(examples=150, reply=_reply, status=st.sampled_from([200] * 9 + [400, 413, 429, 500]), ours=st.booleans(),
      mode=st.sampled_from(["none", "passage", "article"]))  # fmt: skip
def test_fuzz_search_replies(excluded, reply, status, ours, mode):
    searcher = searcher_over(Said(status, json.dumps(reply).encode()), excluded, mode, ours)
    found = searcher.search(QUERIES, 3)
    check(found, 3)
    answered = [hits is not FALLBACK for hits in found]
    assert answered == ([True] * 2 if searcher.stats["fallbacks"] == 0 else [False] * 2)


@fuzz(examples=40, body=st.binary(max_size=200) | st.text(max_size=60).map(lambda text: text.encode(errors="replace")))
def test_fuzz_search_replies_that_are_no_json(excluded, body):
    check(searcher_over(Said(200, body), excluded).search(QUERIES, 3), 3)


@fuzz(
    examples=80,
    parts=st.lists(st.integers(0, len(WORDS) - 6).map(lambda i: " ".join(WORDS[i : i + 6])) | _text, max_size=3),
    place=st.integers(0, 3),
    between=st.sampled_from(_separators),
    shape=st.sampled_from(["contents", "title and text", "title and contents", "title"]),
    joint=st.sampled_from([" ", "\n", "\t", "\u00a0", "  "]),
)
def test_fuzz_search_replies_that_hold_the_source(excluded, parts, place, between, shape, joint):
    """The whole source stands somewhere in the document: it is never shown."""
    parts[place:place] = [joint.join(WORDS)]
    text = between.join(parts)
    title = between.join(["x", *parts])
    document = {
        "contents": {"contents": f'"{TITLE}"{between}{text}'},
        "title and text": {"title": "other", "text": text},
        "title and contents": {"title": TITLE, "contents": text},
        "title": {"title": title, "text": "more"},
    }[shape]
    reply = {"result": [[{"document": document, "score": 1}], []]}
    searcher = searcher_over(Said(200, json.dumps(reply).encode()), excluded)
    assert searcher.search(QUERIES, 3) == [[], []]


@pytest.fixture(scope="module")
def server():
    class Answer:
        now = b""

    with serving.ScriptedServer(lambda asked: Answer.now) as made:
        made.answer = Answer
        yield made


_line = st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 \xff\r\n", b"\r\n", b""])
_header = st.sampled_from([
    b"Content-Length: 5\r\n", b"Content-Length: 99\r\n", b"Content-Length: -3\r\n", b"Content-Length: 9e9\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: \xff\r\n", b": \r\n",
    b"Connection: keep-alive\r\n", b"Location: /\r\n", b"\x00\r\n", b" folded\r\n",
])  # fmt: skip
_raw = st.builds(
    lambda line, headers, body: line + b"".join(headers) + b"\r\n" + body,
    _line, st.lists(_header, max_size=4),
    st.binary(max_size=40) | st.sampled_from([b'{"result": [[], []]}', b"5\r\n{res\r\n", b"-1\r\n", b"fffffffff\r\n"]),
)  # fmt: skip


@fuzz(examples=60, raw=_raw | st.binary(max_size=80))
def test_fuzz_search_replies_over_a_socket(server, excluded, raw):
    server.answer.now = raw
    transport = Transport(server.url)
    try:
        reply = transport.exchange("POST", wire.PATH, wire.request(["q"], 1), 5.0)
        assert isinstance(reply.body, bytes)
    except TransportError:
        pass
    check(searcher_over(transport, excluded).search(QUERIES, 3), 3)
    transport.close()


_GROWING = [
    "a ", "a", "<", "<a", "<a ", "[", "[[", "[[a|", "](", "](a", "&", "&#9", "&amp;", "&#x", "\u0301\u0323", "\n", '"',
    "Aa", "1a", "\ud800", "\x00", "日", "[1]", f"{TITLE} ", f"{TEXT} ", "born in Tolmar ", "".join(WORDS[:-1]),
]  # fmt: skip


@pytest.mark.parametrize("piece", _GROWING, ids=range(len(_GROWING)))
def test_search_replies_take_time_n_log_n(stored, monkeypatch, piece):
    monkeypatch.setattr(answer_documents, "_MOST_CHARS", 1 << 40)  # it is the reading that is measured, not the cut
    monkeypatch.setattr(exclusion, "_KEPT_BYTES", 0)  # nor what is remembered
    one = exclusion.ExcludeByText(stored, "article", 0.5)

    def allows(text):
        document = answer_documents.read_document({"contents": text}, ours=False)
        one.allows(QUERIES[0], document.title, document.text, document.titled)

    assert_grows_like_n_log_n(allows, lambda n: piece * (n // len(piece)))


def test_large_search_replies_take_time_n_log_n():
    def read(body):
        wire.read_response(body, 1, ours=False)

    entry = b'{"document": {"contents": "\\"a\\"\\nb"}, "score": 1},'
    assert_grows_like_n_log_n(read, lambda n: b'{"result": [[' + entry * (n // 50) + entry[:-1] + b"]]}")


def test_observations_of_documents_without_a_title():
    def shown(*hits):
        return bytes(prompt.observation(hits, Letters(), 300)).decode()

    whole = shown(Hit(0, 0, "", "a text", 1.0), Hit(0, 0, "T", "b", 1.0), Hit(0, 0, " ", "c", 1.0))
    assert whole == "<information> a text T: b c</information>"
