"""The search service over real loopback sockets: what it answers, what it refuses, and that it lives on."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import re
import socket
import time

import pytest
import serving

from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.index import build
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.service import search_client, wire
from masksearch_jax.retrieval.service.query_batching import Batcher, FullError
from masksearch_jax.retrieval.service.remote_settings import RemoteSettings
from masksearch_jax.retrieval.service.transport import Transport
from masksearch_jax.retrieval.tool import SearchTool

LIMITS = {"k": 50, "queries": 8, "query_chars": 200, "body_bytes": 4096}


@pytest.fixture(scope="module")
def workdir(corpus, tmp_path_factory):
    folder = serving.workdir_of(tmp_path_factory.mktemp("served"), corpus)
    build.build_index(folder / "data" / "index" / "train", corpus[:200], {"index": "exact", "dims": 512})
    return folder


@pytest.fixture(scope="module")
def service(workdir):
    limits = {"read_s": 1.0, "idle_s": 20.0, "connections": 20}
    with serving.serving(workdir, ("all", "train"), limits=LIMITS, server=limits) as made:
        yield made


@pytest.fixture(scope="module")
def url(service):
    return service[0]


def connect(url, store, workdir, mode="passage", index="all", **other):
    fields = {"timeout_s": 20.0, "deadline_s": 60.0, "retries": 1, "failures": 3, "cooldown_s": 1.0, "ready_s": 0.0}
    settings = RemoteSettings(url=url, **(fields | {"fallback": "none"} | other))
    return search_client.connect(settings, index, workdir / "data" / "index" / index, store, mode, lambda: None)


def raw(url, data, half_close=False, wait=10.0):
    """Sends bytes and returns (status, JSON content, headers as text, seconds) of the answer, read to its end."""
    host, port = url.removeprefix("http://").split(":")
    began = time.perf_counter()
    with socket.create_connection((host, int(port)), timeout=wait) as sock:
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        found = b""
        while b"\r\n\r\n" not in found and (read := sock.recv(65536)):
            found += read
        head, _, body = found.partition(b"\r\n\r\n")
        if not head:
            return 0, None, "", time.perf_counter() - began
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < size and (read := sock.recv(65536)):
            body += read
    text = head.decode()
    return int(text.split()[1]), json.loads(body), text, time.perf_counter() - began


def whole(url, data):
    """Sends bytes and returns what comes until the server closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def post(url, body, path="/retrieve"):
    return raw(url, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def alive(url):
    status, found, _, _ = post(url, wire.request(["kalo"], 1))
    return status == 200 and len(found["result"]) == 1


def test_answers_as_search_r1_does(url, workdir, store, corpus):
    texts = [corpus[40].text[:150], "", corpus[10].text[:150]]
    status, found, head, _ = post(url, wire.request(texts, 2))
    assert status == 200 and "application/json" in head
    local = SearchTool.load(workdir / "data" / "index" / "all", store, "none").search([Query(t) for t in texts], 2)
    expected = [
        [
            {
                "document": {
                    "id": str(hit.passage_id),
                    "article_id": hit.article_id,
                    "contents": f'"{hit.title}"\n{hit.text}',
                },
                "score": hit.score,
            }
            for hit in hits
        ]
        for hits in local
    ]
    assert found["result"] == expected and [len(one) for one in expected] == [2, 0, 2]
    _, bare, _, _ = post(url, json.dumps({"queries": texts}).encode())
    assert bare["result"][0][:2] == [one["document"] for one in expected[0]] and len(bare["result"][0]) == 3


@pytest.mark.parametrize("mode", ["none", "passage", "article"])
def test_a_remote_search_equals_the_local_one(url, workdir, store, corpus, mode):
    remote = connect(url, store, workdir, mode)
    assert isinstance(remote._excluded, exclusion.ExcludeById)
    local = SearchTool.load(workdir / "data" / "index" / "all", store, mode)
    queries = [
        Query(" ".join(corpus[i].text.split()[3:20]), source, source // 3 if source >= 0 else -1)
        for i in range(0, 300, 7)
        for source in (i, (i + 5) % 300, -1)
    ] + [
        Query("", 3, 1),
        Query("zzzz", 3, 1),
        Query(corpus[10].text[:150], 10, 3),
        Query(corpus[290].text[:150], 10, 3),
    ]
    assert remote.search(queries, 5) == local.search(queries, 5)
    assert remote.stats["fallbacks"] == 0 and remote.stats["cache_hits"] > 0


def test_used_up_overfetch_is_asked_for_once_more(url, workdir, store, corpus, monkeypatch):
    monkeypatch.setattr(search_client, "_OVERFETCH", 0)
    monkeypatch.setattr(search_client, "_WIDER", 1)
    query = Query(corpus[10].text[:150], 10, 3)
    for mode in ("passage", "article"):  # three and five excluded, all found before any other
        remote, local = connect(url, store, workdir, mode), SearchTool.load(workdir / "data/index/all", store, mode)
        assert remote.search([query], 2) == local.search([query], 2)
        assert remote.stats["refetches"] == 1 and remote.stats["requests"] == 2


def test_each_index_has_its_path_and_its_fingerprint(url, workdir, store, corpus):
    train = connect(url + "/{index}", store, workdir, index="train")
    found = train.search([Query(corpus[250].text[:150])], 40)
    assert max(hit.passage_id for hit in found[0]) < 200
    assert train.fingerprint != connect(url + "/{index}", store, workdir).fingerprint
    with pytest.raises(ValueError, match=r"serves the index 'all', this needs 'train'; write \{index\} in search\.url"):
        connect(url, store, workdir, index="train")


def test_a_server_of_other_passages_excludes_by_text(url, store, workdir, corpus, tmp_path):
    """Here an index over one part, there over all: ids could be told apart, but nobody promises it."""
    build.build_index(tmp_path / "data" / "index" / "all", corpus[:280], {"index": "exact", "dims": 512})
    remote = connect(url, store, tmp_path)
    assert isinstance(remote._excluded, exclusion.ExcludeByText)
    (hits,) = remote.search([Query(corpus[10].text[:150], 10, 3)], 5)
    assert len(hits) == 5 and {hit.passage_id for hit in hits} == {-1}
    assert not {corpus[i].text for i in (10, 290, 291)} & {hit.text for hit in hits}


def test_an_index_that_changes_under_a_run_answers_nothing(url, workdir, store, corpus):
    """Its results are not those of the run: the fallback answers, and without one the run ends."""
    remote = connect(url, store, workdir, fallback="empty", retries=0)
    remote._remote = type(remote._remote)(**{**vars(remote._remote), "fingerprint": "another"})
    assert remote.search([Query("kalo miren")], 2) == [[]] and remote.stats["fallbacks"] == 1
    remote._fallback = None
    with pytest.raises(search_client.SearchUnavailableError, match="has another index than when this run began"):
        remote.search([Query("kalo miren")], 2)


def test_ready_tells_when_it_is_and_what_it_has(url, workdir, store):
    status, said, _, _ = raw(url, b"GET /ready HTTP/1.1\r\n\r\n")
    contents = json.loads((workdir / "data" / "index" / "all" / "index.json").read_text())
    assert status == 200 and said["passages"] == 300 and said["limits"] == LIMITS
    assert said["fingerprint"] == contents["fingerprint"] and said["passages_sha256"] == contents["passages_sha256"]
    with serving.serving(workdir, loaded=False) as (cold, made, _):
        assert raw(cold, b"GET /health HTTP/1.1\r\n\r\n")[:2] == (200, {"status": "alive"})
        for status, _, head, _ in (raw(cold, b"GET /ready HTTP/1.1\r\n\r\n"), post(cold, wire.request(["a"], 1))):
            assert status == 503 and "retry-after: 1" in head.lower()
        with pytest.raises(ConnectionError, match=r"was not ready within search\.ready_s"):
            connect(cold, store, workdir)


def request(line="POST /retrieve HTTP/1.1", headers="Content-Length: 2\r\n", body=b"{}"):
    return f"{line}\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    "data, status, message",
    [
        (request(), 400, "queries is missing"),
        (request(body=b"[]"), 400, "the body is a list"),
        (request(headers=""), 411, "Content-Length is missing"),
        (request(headers="Transfer-Encoding: chunked\r\n", body=b"2\r\n{}\r\n0\r\n\r\n"), 411, "Transfer-Encoding"),
        (request(headers="Content-Length: 99999999999\r\n"), 413, "is 99999999999, the limit is 4096 bytes"),
        (request(headers="Content-Length: 5000\r\n", body=b" " * 5000), 413, "the limit is 4096 bytes"),
        (request(headers="Content-Length: -1\r\n"), 400, "Invalid character in Content-Length"),
        (request(headers="Content-Length: 1e3\r\n"), 400, "Invalid character in Content-Length"),
        (request(headers="Content-Length: " + "9" * 400 + "\r\n"), 400, "Content-Length overflow"),
        (request(headers="Content-Length: 2\r\nContent-Length: 3\r\n"), 400, "Duplicate Content-Length"),
        (request(headers="Content-Length : 2\r\n"), 400, "Invalid header field char"),
        (request(headers="Content-Length: 2\r\n folded: x\r\n"), 400, "Unexpected whitespace after header value"),
        (request(headers=f"X: {'y' * 20000}\r\n"), 431, "longer than 16384 bytes"),
        (request(line="POST /retrieve HTTP/2.0"), 505, "HTTP/2.0 is not spoken"),
        (request(line="nonsense"), 400, "is no HTTP/1.1: Invalid method"),
        (request(line="\x16\x03\x01\x02 TLS"), 400, "is no HTTP/1.1: Invalid method"),
        (request(line="GET /retrieve HTTP/1.1"), 405, "/retrieve takes POST, not GET"),
        (request(line="DELETE /ready HTTP/1.1"), 405, "/ready takes GET, not DELETE"),
        (request(line="POST /search HTTP/1.1"), 404, "/search is not served"),
        (request(line="GET /../../etc/passwd HTTP/1.1"), 404, "is not served"),
        (request(headers="Content-Length: 9\r\n"), 408, "was not here within 1 s"),
        (b"POST /retrieve HT", 408, "was not here within 1 s"),
    ],
)
def test_hostile_requests_get_an_answer_and_the_service_lives(url, data, status, message):
    got, content, _, seconds = raw(url, data)
    assert (got, list(content)) == (status, ["error"]) and message in content["error"]
    assert seconds < 8
    assert alive(url)


def test_cut_off_and_silent_clients_do_no_harm(url, service):
    assert raw(url, b"POST /retrieve HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", half_close=True)[0] == 0
    host, port = url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(10)]
    assert alive(url)
    for sock in silent:
        sock.close()


def test_connections_over_the_limit_are_told_so(url):
    host, port = url.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(20)]
    time.sleep(0.3)
    status, content, head, _ = raw(url, b"GET /health HTTP/1.1\r\n\r\n")
    assert status == 503 and "20 connections are open" in content["error"] and "retry-after: 1" in head.lower()
    for sock in held:
        sock.close()
    time.sleep(0.3)
    assert alive(url)


def test_connections_are_kept_as_the_client_wishes(url):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.connect()
    first = connection.sock
    asked = ("GET", "/health", b"", 200), ("POST", "/nowhere", b" " * 4000, 404), ("POST", "/health", b"{}", 405)
    for method, path, body, status in asked * 2:
        connection.request(method, path, body)
        answer = connection.getresponse()
        assert answer.status == status and answer.read() and connection.sock is first
    connection.request("GET", "/health", headers={"Connection": "close"})
    answer = connection.getresponse()
    assert answer.headers["connection"] == "close" and answer.read() and connection.sock is None
    assert "connection: close" in raw(url, b"GET /health HTTP/1.0\r\n\r\n")[2]


def test_requests_sent_ahead_are_answered_in_order(url):
    paths = ("/health", "/nowhere", "/ready", "/health") * 5
    ahead = b"".join(b"GET %s HTTP/1.1\r\n\r\n" % path.encode() for path in paths[:-1])
    last = b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
    answers = whole(url, ahead + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"404" if path == "/nowhere" else b"200" for path in paths]


@pytest.mark.parametrize(
    "refused, status",
    [
        (request(headers=""), 411),
        (request(headers="Content-Length: 99999999999\r\n"), 413),
        (request(line="nonsense"), 400),
        (request(line="GET http://[ HTTP/1.1"), 400),
        (b"GET /health HTTP/1.1\r\nX: " + b"y" * 40000, 431),
        (request(headers="Content-Length: 9\r\n"), 408),
        (b"POST /retrieve HT", 408),
    ],
)
@pytest.mark.parametrize("before", [1, 3])
def test_a_refused_request_leaves_earlier_ones_their_answers(url, refused, status, before):
    """The answers that a client has not read yet come first, in order, and the refusal last."""
    body = wire.request(["kalo"], 1)
    ahead = (b"POST /retrieve HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) * before
    answers = whole(url, ahead + refused)
    statuses = [int(found) for found in re.findall(rb"HTTP/1.1 (\d+)", answers)]
    assert statuses == [200] * before + [status] and answers.count(b'"error"') == 1
    assert alive(url)


def test_a_client_that_has_sent_its_last_is_answered(url):
    body = wire.request(["kalo"], 1)
    sent = b"POST /retrieve HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert raw(url, sent, half_close=True)[0] == 200
    # An answer that is out at once, in the very step of the loop in which the end of the stream is seen.
    assert [raw(url, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", half_close=True)[0] for _ in range(20)] == [200] * 20


def test_silent_connections_and_untaken_answers_end(workdir, corpus):
    """One client says nothing, one drips its headers, one sends empty lines, one asks and does not read."""
    limits = {"read_s": 0.5, "idle_s": 0.5}
    with serving.serving(workdir, server=limits) as (url, _, made):
        host, port = url.removeprefix("http://").split(":")
        silent, dripping, empty, deaf = (socket.create_connection((host, int(port)), timeout=10) for _ in range(4))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = wire.request([passage.text[:80] for passage in corpus] * 2, 100)
        for _ in range(4):
            deaf.sendall(b"POST /retrieve HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert silent.recv(1) == b""
        empty.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        dripping.sendall(b"GET /health HTTP/1.1\r\nX: ")
        for sock, byte in ((dripping, b"y"), (empty, b"\n")):
            began = time.perf_counter()
            with contextlib.suppress(OSError):
                while time.perf_counter() - began < 20:
                    sock.sendall(byte)
                    time.sleep(0.05)
            assert time.perf_counter() - began < 15  # it was cut off, although no pause was long
        while made._uvicorn.server_state.connections and time.perf_counter() - began < 40:
            time.sleep(0.05)
        assert not made._uvicorn.server_state.connections
        for sock in (silent, dripping, empty, deaf):
            sock.close()
        assert alive(url)


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(url):
    body = wire.request(["kalo"], 1)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        head = f"POST /retrieve HTTP/1.1\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_concurrent_requests_share_searches_and_get_their_own_answers(workdir, store, corpus):
    local = SearchTool.load(workdir / "data" / "index" / "all", store, "none")
    asked = [([corpus[i].text[:60], corpus[i + 1].text[:60]], 1 + i % 2) for i in range(0, 48, 2)]
    with serving.serving(workdir, wait_ms=300.0, threads=1) as (url, _, http):

        def ask(one):
            texts, k = one
            reply = Transport(url).exchange("POST", "/retrieve", wire.request(texts, k), 60)
            return wire.read_response(reply.body, len(texts), ours=True)[0]

        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            found = list(pool.map(ask, asked))
        stats = raw(url, b"GET /stats HTTP/1.1\r\n\r\n")[1]
    for (texts, k), documents in zip(asked, found, strict=True):
        hits = local.search([Query(text) for text in texts], k)
        assert [[one.passage_id for one in ones] for ones in documents] == [[h.passage_id for h in one] for one in hits]
    assert stats["batching"]["requests"] == 24 and stats["batching"]["queries"] == 48
    assert stats["batching"]["calls"] < 24  # two a gathering, for the two k
    assert stats["search"]["queries"] == 48 and stats["retrieve"]["latency_p99_ms"] > 0
    assert stats["server"]["status_200"] == 24


class Slow:
    """Answers each query with its own text, fails on 'bad', and counts its calls."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, []

    def search(self, queries, k):
        self.calls.append((len(queries), k))
        time.sleep(self.seconds)
        if any(query.text == "bad" for query in queries):
            raise RuntimeError("broken index")
        return [[Hit(0, 0, query.text, "", float(k))] for query in queries]


def batcher_run(searcher, asked, **settings):
    """Outcomes of requests (texts, k) that come at once."""
    settings = {"threads": 1, "batch": 4, "wait": 0.05, "pending": 10} | settings

    async def main():
        with concurrent.futures.ThreadPoolExecutor(settings["threads"]) as pool:
            batcher = Batcher(searcher, pool, **settings)
            gatherer = asyncio.create_task(batcher.run())
            found = await asyncio.gather(*(batcher.search(*one) for one in asked), return_exceptions=True)
            gatherer.cancel()
            return found, batcher

    return asyncio.run(main())


def test_batches_grow_while_the_thread_is_busy():
    searcher = Slow(0.2)
    found, _ = batcher_run(searcher, [([str(i)], 2) for i in range(9)])
    assert [one[0][0].title for one in found] == [str(i) for i in range(9)]
    assert searcher.calls == [(4, 2), (4, 2), (1, 2)]


def test_too_many_waiting_queries_are_refused():
    found, batcher = batcher_run(Slow(0.1), [(["a"] * 6, 1), (["b"] * 5, 1), ([], 1), (["c"], 1)])
    assert len(found[0]) == 6 and isinstance(found[1], FullError) and found[2] == [] and len(found[3]) == 1
    assert batcher._pending == 0


def test_a_failed_search_fails_those_who_asked_and_no_other():
    searcher = Slow(0.0)
    found, _ = batcher_run(searcher, [(["a"], 1), (["bad"], 2), (["c"], 1)])
    assert found[0][0][0].title == "a" and found[2][0][0].title == "c"
    assert isinstance(found[1], RuntimeError)


def test_a_failed_search_is_a_500_and_the_service_lives(workdir, store, caplog):
    with serving.serving(workdir) as (url, made, _):
        tool, made._served["all"].batcher._searcher = made._served["all"].batcher._searcher, Slow(0.0)
        assert post(url, wire.request(["bad"], 1))[0] == 500
        made._served["all"].batcher._searcher = tool
        assert alive(url)
    assert "broken index" in caplog.text
