"""Clients of Search-R1 and SkyRL as they are, over a socket: whole rollouts in a request, long queries, odd fields."""

import http.client
import json
import threading
import time
import urllib.parse

import pytest
import serving

from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.tool import SearchTool


@pytest.fixture(scope="module")
def workdir(corpus, tmp_path_factory):
    return serving.workdir_of(tmp_path_factory.mktemp("clients"), corpus)


@pytest.fixture(scope="module")
def url(workdir):
    with serving.serving(workdir) as (url, _, _):
        yield url


@pytest.fixture(scope="module")
def local(workdir):
    return SearchTool.load(workdir / "data/index/all", PassageStore(workdir / "data/passages.array_record"), "none")


def post(url, content, path="/retrieve"):
    """Returns (status, JSON content)."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
    try:
        connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def passages_to_string(result):
    """What Search-R1's generation and SkyRL's search tool read of the documents of one query."""
    shown = ""
    for i, item in enumerate(result):
        content = item["document"]["contents"]
        title, text = content.split("\n")[0], "\n".join(content.split("\n")[1:])
        shown += f"Doc {i + 1}(Title: {title}) {text}\n"
    return shown


def expected(local, text, k):
    (hits,) = local.search([Query(text)], k)
    return "".join(f'Doc {i + 1}(Title: "{hit.title}") {hit.text}\n' for i, hit in enumerate(hits))


def test_a_whole_rollout_in_one_request(url, local, corpus):
    texts = [f"{' '.join(corpus[i % 300].text.split()[i % 7 : i % 7 + 20])}" for i in range(512 * 5)]
    status, said = post(url, {"queries": texts, "topk": 3, "return_scores": True})
    assert status == 200 and len(said["result"]) == len(texts)
    for i in range(0, len(texts), 97):
        assert passages_to_string(said["result"][i]) == expected(local, texts[i], 3)


def test_skyrls_single_query(url, local, corpus):
    text = corpus[40].text[:90]
    status, said = post(url, {"query": text, "topk": 2, "return_scores": True})
    assert status == 200 and len(said["result"]) == 1
    assert passages_to_string(said["result"][0]) == expected(local, text, 2)


def test_one_long_query_among_ten_is_cut(url, local, corpus):
    texts = [passage.text[:80] for passage in corpus[:10]]
    texts[4] = f"  {corpus[4].text} " * 100
    status, said = post(url, {"queries": texts, "topk": 3, "return_scores": True})
    assert status == 200
    for text, result in zip(texts, said["result"], strict=True):
        assert passages_to_string(result) == expected(local, text.strip()[:4096], 3)


def test_half_a_character_refuses_nothing(url):
    status, said = post(url, {"queries": ["kalo", "miren \ud800"], "topk": 1})
    assert status == 200 and len(said["result"]) == 2


@pytest.mark.parametrize("topk", [{}, {"topk": None}, {"topk": 0}])
@pytest.mark.parametrize("scores", [{}, {"return_scores": None}, {"return_scores": False}, {"return_scores": True}])
@pytest.mark.parametrize("path", ["/retrieve", "/retrieve/", "//retrieve", "/all/retrieve/"])
def test_fields_left_out_and_slashes(url, corpus, topk, scores, path):
    status, said = post(url, {"queries": [corpus[7].text[:60]]} | topk | scores, path)
    assert status == 200 and len(said["result"][0]) == 3
    for item in said["result"][0]:
        assert set(item) == ({"document", "score"} if scores.get("return_scores") else {"id", "article_id", "contents"})


def test_what_is_too_much_is_refused_and_named(url):
    for content, message in [
        ({"queries": ["q"] * 4097}, "queries has 4097 entries, the limit is 4096"),
        ({"queries": ["q"] * 4096, "topk": 100}, "4096 queries of topk 100 want over 65536 passages"),
        ({"queries": ["q" * (4 << 20)]}, "the limit is 4194304 bytes"),
    ]:
        status, said = post(url, content)
        assert status == 413 and message in said["error"]


class Slow:
    def __init__(self):
        self.calls = []

    def search(self, queries, k):
        self.calls.append([query.text for query in queries])
        time.sleep(0.03)
        return [[Hit(0, 0, query.text, "", 1.0)] for query in queries]


def test_a_large_request_lets_others_through(workdir):
    with serving.serving(workdir, threads=1, batch=8) as (url, made, _):
        slow = Slow()
        made._served["all"].batcher._searcher = slow
        texts, large = [f"query {i}" for i in range(200)], []
        asking = threading.Thread(target=lambda: large.extend(post(url, {"queries": texts})))
        asking.start()
        while len(slow.calls) < 3:
            time.sleep(0.005)
        assert post(url, {"query": "other"})[0] == 200
        assert len(slow.calls) < 12  # of 25
        asking.join(60)
        status, said = large
        assert status == 200 and [one[0]["contents"] for one in said["result"]] == [f'"{text}"\n' for text in texts]
    assert max(map(len, slow.calls)) <= 16


def test_our_own_limits_admit_it():
    limits = wire.Limits()
    assert len(wire.request(["x" * 600] * 2560, 3)) < limits.body_bytes and limits.queries >= 2560
