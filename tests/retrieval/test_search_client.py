"""The remote searcher against a server of Search-R1's kind that fails on demand, with a clock of the test's."""

import dataclasses
import json
import socket
import sys
import threading
import time

import pytest
import serving

from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.encoders import encoder
from masksearch_jax.retrieval.index import build
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.service import guarded_calls, search_client, transport, wire
from masksearch_jax.retrieval.service.remote_settings import Remote, RemoteSettings
from masksearch_jax.retrieval.service.transport import Transport, TransportError
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.text import shingles

SETTINGS = RemoteSettings(
    url="http://unused",
    timeout_s=15.0,
    deadline_s=20.0,
    retries=2,
    failures=4,
    cooldown_s=30.0,
    ready_s=0.0,
    fallback="empty",
)


class Clock:
    """Seconds pass only when somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def local(corpus, store, tmp_path_factory):
    directory = tmp_path_factory.mktemp("local") / "index"
    build.build_index(directory, corpus, {"index": "exact", "dims": 512})
    return SearchTool.load(directory, store, "passage")


@pytest.fixture(scope="module")
def find(local, corpus):
    """What the other server finds: its corpus is ours in pieces of 25 words, each beginning 10 after the last."""
    pieces = []
    for passage in corpus:
        words = passage.text.split()
        pieces += [(passage.title, " ".join(words[start : start + 25])) for start in (0, 10, 20)]
    vectors = local._encoder.encode_passages([encoder.passage_text(*piece) for piece in pieces])

    def found(text, k):
        scores = vectors @ local._encoder.encode_queries([text])[0]
        return [(*pieces[i], float(scores[i])) for i in (-scores).argsort(kind="stable")[:k]]

    return found


@pytest.fixture
def server(find):
    with serving.FaultyServer(find) as made:
        yield made


@pytest.fixture
def make(server, store, clock):
    def made(mode="passage", fallback=None, limits=None, keeps=False, **settings):
        remote = Remote(server.url, False, limits or wire.Limits())
        return search_client.RemoteSearcher(
            remote,
            Transport(server.url, keeps),
            dataclasses.replace(SETTINGS, **settings),
            exclusion.ExcludeByText(store, mode, 0.5),
            fallback or search_client.NoHits(),
            clock,
            clock.sleep,
        )

    return made


def query_for(corpus, about, **source):
    return Query(" ".join(corpus[about].text.split()[3:9]), **source)


def test_hits_are_what_the_server_found(make, server, corpus, find):
    query = query_for(corpus, 40)
    (hits,) = make().search([query], 3)
    assert [(hit.title, hit.text, hit.score) for hit in hits] == find(query.text, 3)
    assert {(hit.passage_id, hit.article_id) for hit in hits} == {(-1, -1)}  # ids of another corpus mean nothing
    assert server.asked == [{"queries": [query.text], "topk": 19, "return_scores": True}]


@pytest.mark.parametrize("fault", serving.FaultyServer.FAULTS)
def test_a_fault_is_retried_and_then_the_fallback_answers(make, server, corpus, local, clock, fault):
    searcher = make(fallback=local, timeout_s=1.0 if fault in ("silent", "drip") else 15.0)
    queries = [query_for(corpus, 40), query_for(corpus, 41)]
    server.faults = [fault]
    assert searcher.search(queries, 2)[0][0].title == corpus[40].title
    assert (searcher.stats["requests"], searcher.stats["retries"], searcher.stats["failures"]) == (2, 1, 1)
    server.faults = fault
    others = [query_for(corpus, 50), query_for(corpus, 40, passage_id=40, article_id=13), Query("  ")]
    hits = searcher.search(others, 2)
    expected = local.search(others, 2)
    assert hits[0] == expected[0] and hits[2] == []  # the second was cached
    assert hits[1] and all(hit.text not in corpus[40].text for hit in hits[1])
    stats = searcher.stats
    assert (stats["failures"], stats["fallbacks"], stats["breaker_openings"]) == (4, 1, 0)
    assert len(clock.slept) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_query_that_is_refused_goes_to_the_fallback(make, server, corpus, local, status):
    server.faults = f"status_{status}"
    searcher, query = make(fallback=local), query_for(corpus, 1)
    assert searcher.search([query], 2) == local.search([query], 2)
    assert [(asked["topk"], len(asked["queries"][0])) for asked in server.asked] == [
        (18, len(query.text)),
        (2, len(query.text)),
    ]
    assert (searcher.stats["failures"], searcher.stats["refusals"], searcher.stats["fallbacks"]) == (0, 2, 1)
    searcher._fallback = None
    with pytest.raises(search_client.SearchUnavailableError, match=f"last: status {status}"):
        searcher.search([query], 2)


@pytest.mark.parametrize("status", [307, 401, 404, 405, 409, 451, 501])
def test_a_server_that_takes_no_search_any_more_is_a_failure(make, server, corpus, status):
    server.faults = f"status_{status}"
    searcher = make(failures=3)
    assert searcher.search([query_for(corpus, i) for i in range(5)], 2) == [[]] * 5
    assert len(server.asked) == 3 and searcher.stats["failures"] == 3 and searcher.breaker.state == "open"


def test_without_a_fallback_the_search_ends(make, server, corpus):
    server.faults = "status_500"
    searcher = make()
    searcher._fallback = None
    with pytest.raises(
        search_client.SearchUnavailableError, match="does not answer .*last: status 500.*search.fallback"
    ):
        searcher.search([query_for(corpus, 1)], 2)


def test_the_breaker_spares_a_dead_server_and_finds_it_again(make, server, corpus, clock):
    searcher = make()
    server.faults = "status_503"
    for i in range(4):
        assert searcher.search([query_for(corpus, i)], 2) == [[]]
    assert len(server.asked) == 4  # three by the first search, one by the second: four failures opened it
    assert searcher.stats["breaker_openings"] == 1 and searcher.stats["fallbacks"] == 4
    server.faults = []
    assert searcher.search([query_for(corpus, 5)], 2) == [[]] and len(server.asked) == 4
    clock.now += 30
    assert searcher.search([query_for(corpus, 5)], 2)[0][0].title == corpus[5].title
    assert searcher.breaker.state == "closed"


def test_the_deadline_covers_all_retries(make, server, corpus, clock):
    server.faults = "status_500"
    searcher = make(retries=50, failures=100, deadline_s=3.0)
    assert searcher.search([query_for(corpus, 1)], 2) == [[]]
    assert 2 < len(server.asked) < 8 and clock.now <= 3.0


def test_waits_double_spread_and_repeat():
    waits = [[guarded_calls.backoff(bytes([body]), attempt) for attempt in range(1, 9)] for body in range(50)]
    assert waits == [[guarded_calls.backoff(bytes([body]), attempt) for attempt in range(1, 9)] for body in range(50)]
    for attempt in range(8):
        longest = min(0.1 * 2**attempt, 5.0)
        column = [one[attempt] for one in waits]
        assert longest / 2 <= min(column) < 0.6 * longest and 0.9 * longest < max(column) <= longest


def test_a_dripping_server_does_not_hold_a_thread(make, server, corpus):
    """Each byte comes well within the timeout, the answer as a whole does not."""
    server.faults = "drip"
    began = time.perf_counter()
    assert make(timeout_s=0.8, retries=0).search([query_for(corpus, 1)], 2) == [[]]
    assert 0.7 < time.perf_counter() - began < serving.DRIP_SECONDS - 0.5


def test_a_slow_name_server_does_not_hold_a_thread(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    began = time.perf_counter()
    with pytest.raises(TransportError, match="no whole answer to GET http://far:80/ready in time"):
        Transport("http://far:80").exchange("GET", "/ready", None, 0.3)
    assert time.perf_counter() - began < 2.5


def test_nothing_listens(corpus, store, clock):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    remote = Remote(url, False, wire.Limits())
    parts = Transport(url), SETTINGS, exclusion.ExcludeByText(store, "passage", 0.5), search_client.NoHits()
    searcher = search_client.RemoteSearcher(remote, *parts, clock, clock.sleep)
    assert searcher.search([query_for(corpus, 1)], 2) == [[]]
    assert searcher.stats["failures"] == 3 and "ConnectionRefused" in searcher._calls.last_error


def test_connections_are_kept_and_one_that_the_server_closed_is_no_failure(make, server, corpus):
    searcher = make(keeps=True)
    for i in range(3):
        assert searcher.search([query_for(corpus, i)], 2)[0]
    (kept,) = server.connections
    kept.shutdown(socket.SHUT_RDWR)
    time.sleep(0.1)
    assert searcher.search([query_for(corpus, 3)], 2)[0]
    assert searcher.stats["failures"] == 0 and searcher.stats["requests"] == 4
    assert len(server.connections) == 2


def test_an_answer_too_many_is_never_taken_for_the_answer_to_another_query(store):
    """A server that answers each request twice, with the text of the query."""

    def twice(asked):
        body = json.dumps({"result": [[{"contents": f"T\n{text}"}] for text in asked["queries"]]}).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body) * 2

    with serving.ScriptedServer(twice, keeps=True) as made:
        parts = exclusion.ExcludeByText(store, "none", 0.5), search_client.NoHits()
        remote = Remote(made.url, False, wire.Limits())
        searcher = search_client.RemoteSearcher(remote, Transport(made.url), SETTINGS, *parts)
        found = [searcher.search([Query(f"query {i}")], 1)[0][0].text for i in range(5)]
    assert found == [f"query {i}" for i in range(5)]


def test_threads_that_ask_first_share_one_loop():
    """Two loops would share no connection: 'bound to a different event loop'."""
    transport._started_loop.cache_clear()
    loops, gate = set(), threading.Barrier(16)

    def work():
        gate.wait()
        loops.add(transport._loop())

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loops) == 1


def test_repeated_queries_are_asked_once(make, server, corpus):
    searcher = make()
    queries = [query_for(corpus, 1), query_for(corpus, 2), query_for(corpus, 1, passage_id=7, article_id=2), Query("")]
    first = searcher.search(queries, 2)
    assert searcher.search(queries, 2) == first and first[3] == []
    assert [len(asked["queries"]) for asked in server.asked] == [2]
    stats = searcher.stats
    assert (stats["queries"], stats["cache_hits"], stats["empty"]) == (8, 4, 2)
    assert 0 < stats["latency_p50_ms"] <= stats["latency_p99_ms"]


def test_limits_of_the_server_are_kept(make, server, corpus):
    searcher = make(limits=wire.Limits(k=5, queries=2, query_chars=16))
    searcher.search([Query(f"{corpus[i].text}") for i in range(5)], 3)
    assert [len(asked["queries"]) for asked in server.asked] == [2, 2, 1]
    assert {len(text) for asked in server.asked for text in asked["queries"]} == {16}
    assert {asked["topk"] for asked in server.asked} == {5}
    with pytest.raises(ValueError, match="k is 6, must be 1 to 5, the limit of http"):
        searcher.search([query_for(corpus, 1)], 6)


def test_a_source_is_hidden_however_another_corpus_cuts_it(make, corpus, find):
    query = Query(" ".join(corpus[10].text.split()[8:32]), passage_id=10, article_id=3)
    pieces_of_10 = [text for _, text, _ in find(query.text, 12)]
    assert sum(text in corpus[10].text for text in pieces_of_10) >= 6  # 290 is a copy of 10
    (hits,) = make("passage").search([query], 5)
    assert len(hits) == 5
    for hit in hits:
        assert hit.text not in corpus[10].text and hit.text not in corpus[291].text[: len(hit.text)]
        assert shingles.share(*map(shingles.shingles_of, (hit.text, corpus[10].text))) < 0.5
    (seen,) = make("none").search([query], 5)
    assert any(hit.text in corpus[10].text for hit in seen)
    (article,) = make("article").search([Query(corpus[10].title, 10, 3)], 8)
    assert article and corpus[10].title not in {hit.title for hit in article}


def test_used_up_overfetch_is_asked_for_once_more(make, server, corpus, monkeypatch):
    monkeypatch.setattr(search_client, "_OVERFETCH", 0)
    searcher = make()
    (hits,) = searcher.search([query_for(corpus, 10, passage_id=10, article_id=3)], 4)
    assert [asked["topk"] for asked in server.asked] == [4, 16] and searcher.stats["refetches"] == 1
    assert len(hits) == 4


def test_threads_share_it(make, server, corpus):
    searcher, found = make(), {}
    alone = [make().search([query_for(corpus, i)], 2) for i in range(12)]

    def work(i):
        found[i] = searcher.search([query_for(corpus, i)], 2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(12)] == alone
    assert len(server.connections) <= 24 and searcher.stats["failures"] == 0


def settings(url, **other):
    return dataclasses.replace(SETTINGS, url=url, **other)


def connect(url, store, folder, **other):
    return search_client.connect(settings(url, **other), "all", folder, store, "passage", lambda: None)


def test_connecting_to_another_server(server, store, tmp_path, corpus):
    for url in (server.url, server.url + "/retrieve", server.url + "/"):
        searcher = connect(url, store, tmp_path)
        assert isinstance(searcher._excluded, exclusion.ExcludeByText)
        assert searcher.search([query_for(corpus, 3)], 2)[0][0].title == corpus[3].title
    assert connect(server.url, store, tmp_path).fingerprint == searcher.fingerprint


def test_a_url_that_is_no_search_server(server, store, tmp_path):
    server.faults = "no_result"
    with pytest.raises(ValueError, match="is no search server: POST /retrieve gave"):
        connect(server.url, store, tmp_path)
    server.faults = "status_404"
    with pytest.raises(ValueError, match="is no search server.*status 404"):
        connect(server.url, store, tmp_path)
    server.faults = "status_500"
    with pytest.raises(TransportError, match=r"was not ready within search\.ready_s=0 s.*masksearch_jax\.serve_search"):
        connect(server.url, store, tmp_path)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://host?x=1"])
def test_malformed_urls(url):
    with pytest.raises(ValueError, match="search.url=.* has to be http://host:port"):
        settings(url)


def test_without_httpx_a_url_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ValueError, match=r"search.url needs httpx2: pip install .*\[service\]"):
        settings("http://host:1")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("timeout_s", 0.0, "search.timeout_s is 0.0, must be above 0"),
        ("retries", -1, "search.retries is -1, must be at least 0"),
        ("failures", 0, "search.failures is 0, must be at least 1"),
        ("fallback", "google", "search.fallback is 'google', known are local, empty, none"),
    ],
)
def test_bad_settings(name, value, message):
    with pytest.raises(ValueError, match=message):
        settings("http://host:1", **{name: value})
