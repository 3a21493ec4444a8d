import json

import pytest

from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.retrieval.service import wire

LIMITS = wire.Limits(k=10, queries=3, query_chars=20, body_bytes=2048)


def test_what_is_asked_arrives():
    asked = wire.read_request(wire.request(["a", "ü\n"], 4), LIMITS, 3)
    assert asked == wire.Request(["a", "ü\n"], 4, True)
    # As Search-R1 has it: topk may be missing or null, scores are off unless asked for, more fields do no harm.
    assert wire.read_request(b'{"queries": []}', LIMITS, 3) == wire.Request([], 3, False)
    for topk in ("null", "0"):
        assert wire.read_request(b'{"queries": ["q"], "topk": %s, "user": 1}' % topk.encode(), LIMITS, 3).k == 3
    assert wire.read_request(b'{"queries": ["q"], "return_scores": null}', LIMITS, 3) == wire.Request(["q"], 3, False)
    # As SkyRL has it.
    one = b'{"query": "q", "topk": 2, "return_scores": true}'
    assert wire.read_request(one, LIMITS, 3) == wire.Request(["q"], 2, True)
    assert wire.read_request(b'{"query": ["q"], "queries": null}', LIMITS, 3).texts == ["q"]


def test_one_query_does_not_refuse_the_others():
    long = " 0123456789 12345678 0" + "x" * 5000
    body = json.dumps({"queries": ["a", long, "b\ud800"]}).encode()
    assert wire.read_request(body, LIMITS, 3).texts == ["a", "0123456789 12345678 ", "b\ufffd"]


def test_an_answer_has_a_limit():
    limits = wire.Limits()
    body = json.dumps({"queries": ["q"] * 2560, "topk": 25}).encode()
    assert len(wire.read_request(body, limits, 3).texts) == 2560
    with pytest.raises(wire.RequestError, match="2560 queries of topk 26 want over 65536 passages; ask for") as raised:
        wire.read_request(body.replace(b"25}", b"26}"), limits, 3)
    assert raised.value.status == 413


@pytest.mark.parametrize(
    "body, message, status",
    [
        (b"", "no JSON", 400),
        (b"\xff\xfe", "no JSON", 400),
        (b'{"queries": ["a"]', "no JSON", 400),
        (b"[" * 1000 * 1000, "no JSON", 400),
        (b'{"queries": ["a"], "topk": NaN}', "NaN is no number of JSON", 400),
        (b'{"queries": ["a"], "topk": -Infinity}', "-Infinity is no number", 400),
        (b'{"queries": ["a"], "topk": ' + b"9" * 5000 + b"}", "no JSON", 400),
        (b'["a"]', "the body is a list, must be an object", 400),
        (b"{}", "queries is missing or null, must be a list", 400),
        (b'{"queries": "a"}', "queries is string", 400),
        (b'{"queries": ["a", 3]}', r"queries\[1\] is number, must be a string", 400),
        (b'{"queries": ["a", "b", "c", "d"]}', "queries has 4 entries, the limit is 3", 413),
        (b'{"query": ["a", "b", "c", "d"]}', "query has 4 entries, the limit is 3", 413),
        (b'{"query": 3}', "query is number, must be a list", 400),
        (b'{"query": "a", "queries": "b"}', "queries is string", 400),
        (b'{"queries": ["a"], "topk": 11}', "topk is 11, must be a whole number from 1 to 10", 400),
        (b'{"queries": ["a"], "topk": false}', "topk is boolean, must be", 400),
        (b'{"queries": ["a"], "topk": 0.0}', "topk is number, must be", 400),
        (b'{"queries": ["a"], "topk": -1}', "topk is -1, must be", 400),
        (b'{"queries": ["a"], "topk": 1.5}', "topk is number, must be", 400),
        (b'{"queries": ["a"], "topk": true}', "topk is boolean, must be", 400),
        (b'{"queries": ["a"], "topk": "3"}', "topk is string, must be", 400),
        (b'{"queries": ["a"], "return_scores": 1}', "return_scores is number, must be true or false", 400),
    ],
)
def test_bad_requests_are_told_field_and_limit(body, message, status):
    with pytest.raises(wire.RequestError, match=message) as raised:
        wire.read_request(body, LIMITS, 3)
    assert raised.value.status == status


@pytest.mark.parametrize("title", ["Karn Velith", "", '"Heroes"', '"', "A: b, c"])
def test_hits_survive_the_way(title):
    hits = [[Hit(7, 2, title, 'line one\n"line" two\n', 0.12345678901234567)], []]
    sent = wire.response(hits, True, "f")
    assert set(sent["result"][0][0]) == {"document", "score"}  # what Search-R1's clients read
    found, fingerprint = wire.read_response(json.dumps(sent).encode(), 2, ours=True)
    assert fingerprint == "f" and found[1] == []
    assert found[0] == [wire.Document(title, 'line one\n"line" two\n', 0.12345678901234567, 7, 2)]


def test_documents_of_other_servers():
    def read(entry):
        return wire.read_response(json.dumps({"result": [[entry]]}).encode(), 1, ours=False)[0][0][0]

    # wiki-18 as Search-R1 serves it, without scores, and of corpora that keep title and text apart.
    assert read({"document": {"id": "5", "contents": '"A B"\nc d'}, "score": 2}) == wire.Document("A B", "c d", 2.0)
    assert read({"id": "5", "contents": "A B\nc d"}) == wire.Document("A B", "c d", 0.0)
    assert read({"document": {"title": "A", "text": "b"}, "score": "0.5"}) == wire.Document("A", "b", 0.5)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"result": null}',
        b'{"result": []}',
        b'{"result": [3]}',
        b'{"result": [["x"]]}',
        b'{"result": [[{"score": 1}]]}',
        b'{"result": [[{"contents": 3}]]}',
        b'{"result": [[{"document": {"contents": "a"}, "score": NaN}]]}',
        b'{"result": [[{"document": {"contents": "a"}, "score": null}]]}',
        b'{"result": [[], []]}',
        b"[" * 100_000,
    ],
)
def test_answers_that_are_none(body):
    with pytest.raises(wire.ResponseError):
        wire.read_response(body, 1, ours=False)


def test_limits_are_checked():
    with pytest.raises(ValueError, match=r"limits\.k is 0, must be at least 1"):
        wire.Limits(k=0)
