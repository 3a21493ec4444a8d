"""Whatever a search server answers: hits, or a failed search that the fallback answers. Nothing else ends a run."""

import dataclasses
import gzip
import json
import zlib

import pytest
import serving

from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.service import answer_documents, search_client, wire
from masksearch_jax.retrieval.service.remote_settings import Remote, RemoteSettings
from masksearch_jax.retrieval.service.transport import Transport

SETTINGS = RemoteSettings("http://unused", 5.0, 10.0, 0, 1000, 30.0, 0.0, "local")
GOOD = {"document": {"contents": '"Dorvan"\nA lighthouse on a cliff.'}, "score": 0.5}


class Local:
    """The fallback of these tests."""

    def search(self, queries, k):
        return [[Hit(7, 3, "Local", "fallback", 1.0)] for _ in queries]


@pytest.fixture(scope="module")
def answer():
    """Set answer.now to what the server says to every request, or to a function of the request."""

    class Answer:
        now = None

    return Answer


@pytest.fixture(scope="module")
def server(answer):
    with serving.ScriptedServer(lambda asked: answer.now(asked) if callable(answer.now) else answer.now) as made:
        yield made


@pytest.fixture
def searcher(server, store, answer):
    server.asked.clear()
    remote = Remote(server.url, False, wire.Limits())
    excluded = exclusion.ExcludeByText(store, "passage", 0.5)
    return search_client.RemoteSearcher(remote, Transport(server.url), SETTINGS, excluded, Local())


def shown(searcher, text="where is it", k=3):
    """Titles and texts of the hits; None if the fallback answered."""
    (hits,) = searcher.search([Query(text, 5, 1)], k)
    return None if hits and hits[0].title == "Local" else [(hit.title, hit.text) for hit in hits]


@pytest.mark.parametrize(
    "entry",
    [
        None, 3, "text", [], {}, {"document": None}, {"document": []}, {"document": {}}, {"score": 1},
        {"contents": 3}, {"contents": None}, {"title": "a"}, {"text": ["a"]},
        {"document": {"contents": "a\nb"}, "score": 10**400},
        {"document": {"contents": "a\nb"}, "score": -(10**400)},
        {"document": {"contents": "a\nb"}, "score": float("nan")},
        {"document": {"contents": "a\nb"}, "score": float("inf")},
        {"document": {"contents": "a\nb"}, "score": "high"},
        {"document": {"contents": "a\nb"}, "score": "1e999"},
        {"document": {"contents": "a\nb"}, "score": None},
        {"document": {"contents": "a\nb"}, "score": {}},
    ],
)  # fmt: skip
def test_a_document_that_cannot_be_read_is_left_out(searcher, answer, entry):
    answer.now = {"result": [[entry, GOOD]]}
    assert shown(searcher) == [("Dorvan", "A lighthouse on a cliff.")]
    answer.now = {"result": [[entry]]}
    assert shown(searcher, "another") is None and searcher.stats["failures"] == 1


@pytest.mark.parametrize(
    "sent, title, text",
    [
        ('"a\ud800"\nb\udfff c', "a\ufffd", "b\ufffd c"),
        ("a\nb\x00c\x1b[2J\x7f\td", "a", "b c [2J \td"),
        ("a\r\nb", "a", "b"),
        ("a\n" + "x" * 10_000_000, "a", "x" * (1 << 16)),
        ("a\nb" + "\u0301\u0323" * 40_000, "a", "b" + "\u0301\u0323" * 16),
        ("\nb", "", "b"),
        ("", "", ""),
    ],
)
def test_hostile_text_is_cleaned(searcher, answer, sent, title, text):
    answer.now = {"result": [[{"contents": sent}]]}
    assert shown(searcher) == [(title, text)]
    title.encode(), text.encode()


@pytest.mark.parametrize(
    "said",
    [
        b"", b"\x00" * 500, b"HTTP/1.1", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"result\": [[",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"resu",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
        (200, {}, b"\xff\xfe{}"), (200, {}, b"<html>"), (200, {}, b"[" * 100_000),
        (200, {}, b'{"result": ' + b"9" * 5000 + b"}"),
        (200, {}, b'{"result": [[{"contents": "\xe9"}]]}'),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(json.dumps({"result": [[GOOD]]}).encode())[:-9]),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * (65 << 20), 1)),
        (307, {"Location": "/retrieve/"}, b""), (301, {"Location": "http://127.0.0.1:9/"}, b""), 403, 500,
        {}, [], None, 3, {"result": None}, {"result": {}}, {"result": "x"}, {"result": []}, {"result": [None]},
        {"result": [{"0": GOOD}]}, {"result": ["text"]}, {"result": [[], []]}, {"result": [[GOOD], [GOOD]]},
    ],
    ids=lambda said: repr(said)[:40],
)  # fmt: skip
def test_what_is_no_answer_goes_to_the_fallback(searcher, answer, said):
    answer.now = said
    assert shown(searcher) is None
    assert searcher.stats["failures"] == 1 and searcher.stats["fallbacks"] == 1


def test_answers_in_other_encodings(searcher, answer):
    body = json.dumps({"result": [[GOOD]]}).encode()
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
    for i, said in enumerate((
        (200, {"Content-Encoding": "gzip"}, gzip.compress(body)),
        (200, {"Content-Encoding": "deflate"}, zlib.compress(body)),
        (200, {"Transfer-Encoding": "chunked", "Content-Length": None}, chunked),
        (200, {}, b"\xef\xbb\xbf" + body),
    )):  # fmt: skip
        answer.now = said
        assert shown(searcher, f"query {i}") == [("Dorvan", "A lighthouse on a cliff.")]


def test_more_hits_than_asked_for_and_repeated_ones(searcher, answer):
    many = [{"contents": f'"{i // 2}"\ntext {i // 2}'} for i in range(5000)]
    answer.now = {"result": [many]}
    assert shown(searcher, k=4) == [(str(i), f"text {i}") for i in range(4)]


def test_another_servers_own_fingerprint_is_none_of_ours(searcher, answer):
    for i, said in enumerate(("abc", "def", 3, None, ["x"])):
        answer.now = {"result": [[GOOD]], "fingerprint": said}
        assert shown(searcher, f"query {i}")


def limited(queries=1000, chars=1000, topk=1000, bad=None, status=413):
    """A server that refuses what is over its limits, of which it says nothing beforehand."""

    def reply(asked):
        texts = asked["queries"]
        if len(texts) > queries or max(map(len, texts)) > chars or asked["topk"] > topk or bad in texts:
            return status
        return {"result": [[{"contents": f'"T"\n{text}'}] for text in texts]}

    return reply


@pytest.mark.parametrize("status", [400, 413, 414, 422])
@pytest.mark.parametrize("limit", [{"queries": 5}, {"topk": 4}, {"queries": 3, "topk": 3}, {"chars": 100}])
def test_what_is_too_much_is_asked_in_smaller_requests(searcher, server, answer, limit, status):
    answer.now = limited(**limit, status=status)
    texts = [f"query {i} " + "x" * (500 if i == 7 else 0) for i in range(32)]
    found = searcher.search([Query(text) for text in texts], 3)
    whole = [hits[0].text == text.strip() for hits, text in zip(found, texts, strict=True)]
    assert whole == [i != 7 or "chars" not in limit for i in range(32)]
    assert found[7][0].text.startswith("query 7 xxx") and searcher.stats["fallbacks"] == 0
    assert len(server.asked) < 40


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_query_that_is_refused_takes_no_other_along(searcher, answer, status):
    answer.now = limited(bad="query 3", status=status)
    found = searcher.search([Query(f"query {i}") for i in range(10)], 2)
    assert [hits[0].title for hits in found] == ["Local" if i == 3 else "T" for i in range(10)]
    assert searcher.stats["fallbacks"] == 1


def test_a_server_that_refuses_everything_is_not_asked_for_each_query(searcher, server, answer):
    answer.now = 422
    found = searcher.search([Query(f"query {i}") for i in range(64)], 2)
    assert {hits[0].title for hits in found} == {"Local"} and searcher.stats["fallbacks"] == 64
    assert len(server.asked) < 20


def test_without_a_fallback_the_run_ends_and_says_why(searcher, answer):
    searcher._fallback = None
    for i, (said, why) in enumerate([(422, "status 422"), ({"result": [["x"]]}, "no document"), (500, "status 500")]):
        answer.now = said
        with pytest.raises(search_client.SearchUnavailableError, match=f"last: .*{why}.*search.fallback"):
            shown(searcher, f"query {i}")
    answer.now = {"result": [["x", GOOD]]}  # one bad document is no reason
    assert shown(searcher) == [("Dorvan", "A lighthouse on a cliff.")]


def test_requests_keep_to_the_bytes_and_characters_of_the_server(store, server, answer):
    answer.now = limited()
    remote = Remote(server.url, False, wire.Limits(k=50, queries=100, query_chars=200, body_bytes=2000))
    parts = exclusion.ExcludeByText(store, "none", 0.5), Local()
    searcher = search_client.RemoteSearcher(remote, Transport(server.url), SETTINGS, *parts)
    server.asked.clear()
    texts = [f"{i} " + "日本" * 200 + "\ud800" for i in range(5)]  # six bytes a character in JSON
    found = searcher.search([Query(text) for text in texts] + [Query("\ud800 half")], 2)
    assert [hits[0].text for hits in found] == [text[:200] for text in texts] + ["\ufffd half"]
    assert max(len(wire.request(asked["queries"], asked["topk"])) for asked in server.asked) <= 2000


@pytest.mark.parametrize(
    "said, message",
    [
        ({"limits": {}}, "no right 'limits'"),
        ({"limits": {"k": "3"}}, "no right 'limits'"),
        ({"limits": None}, "no right 'limits'"),
        ({"fingerprint": ""}, "no right 'fingerprint'"),
        ({"passages_sha256": None}, "no right 'passages_sha256'"),
        ({"index": None}, "serves the index None, this needs 'all'"),
    ],
)
def test_a_server_of_ours_that_says_nonsense_is_named(said, message):
    ready = {"index": "all", "fingerprint": "f", "passages_sha256": "s", "limits": dataclasses.asdict(wire.Limits())}

    class Said:
        def exchange(self, method, path, body, seconds):
            return type("Reply", (), {"status": 200, "body": json.dumps(self.content).encode()})

    transport = Said()
    transport.content = ready | {"limits": ready["limits"] | {"a_new_one": 3}}
    assert Remote.find("http://h", "all", transport, 0).limits == wire.Limits()
    transport.content = ready | said
    with pytest.raises(ValueError, match=message):
        Remote.find("http://h", "all", transport, 0)


@pytest.mark.parametrize("number", [None, "x", "9" * 5000, 10**30, -1, 1.5, []])
def test_numbers_of_ours_are_checked(number):
    entry = {"document": {"id": number, "article_id": 1, "contents": "a\nb"}}
    assert answer_documents.read_document(entry, ours=True) is None
    assert answer_documents.read_document(entry, ours=False).passage_id == -1
