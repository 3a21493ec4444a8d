import json
import threading
import time

import chat_server
import pytest

from masksearch_jax.agents.span_finder import SpanFinder
from masksearch_jax.llm.chat_types import (
    AccessError,
    Completion,
    RequestError,
    Sampling,
    TransientError,
    UnavailableError,
    Usage,
)
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.llm.endpoint import Endpoint
from masksearch_jax.prep.spans import candidates

TEXT = "Karn Velith (born 3 May 1500) was a smith of Tolm; Tolmar made Karn Velith known in 1523."


class Marker:
    name = "marker"

    def __init__(self, *replies, seconds=0.0):
        self.replies, self.seconds, self.asked, self.now, self.most = list(replies), seconds, [], 0, 0
        self._lock = threading.Lock()

    def complete(self, messages, sampling, timeout_s):
        with self._lock:
            self.asked.append(messages[-1].content)
            self.now += 1
            self.most = max(self.most, self.now)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        time.sleep(self.seconds)
        with self._lock:
            self.now -= 1
        if isinstance(reply, Exception):
            raise reply
        return Completion(reply if isinstance(reply, str) else json.dumps({"spans": reply}), Usage(1, 1))

    def close(self):
        pass


def finder(tmp_path, backend, **settings):
    return SpanFinder(Client(backend, ClientSettings(**settings), tmp_path / "c", sleep=lambda s: None), Sampling())


def mark(*pairs):
    return [{"text": text, "kind": kind} for text, kind in pairs]


def test_spans_stand_in_the_passage_and_what_does_not_is_counted(tmp_path):
    reply = mark(
        ("Karn Velith", "name"), ("3 May 1500", "date"), ("Tolm", "name"), ("Tolm", "name"), ("Karn Velith", "name"),
        ("a smith from Tolm", "name"), ("", "rare"), ("karn velith", "name"),
    )  # fmt: skip
    found = finder(tmp_path, Marker(reply))
    places = found(TEXT, "Karn Velith")
    assert [(TEXT[s:e], kind) for s, e, kind in places] == [
        ("Karn Velith", "name"), ("3 May 1500", "date"), ("Tolm", "name"), ("Karn Velith", "name"),
    ]  # fmt: skip
    # 'Tolm' in 'Tolmar' is no word; the name that stands twice is found twice, at its two places.
    assert [s for s, _, _ in places] == [0, 18, 45, TEXT.rindex("Karn")]
    assert {name: found.stats[name] for name in ("found", "not_verbatim", "failed")} == {
        "found": 4, "not_verbatim": 4, "failed": 0,
    }  # fmt: skip
    # Behind the interface of the rules: what the passage says twice, and what overlaps, is no candidate.
    chosen = candidates.select(TEXT, "Karn Velith", [candidates.Span(*place) for place in places])
    assert [TEXT[s.start : s.end] for s in chosen] == ["3 May 1500", "Tolm"]


@pytest.mark.parametrize("reply", ["not json", RequestError("too long"), mark(("Tolm", "link"))])
def test_a_passage_without_a_usable_reply_has_no_spans(tmp_path, reply):
    found = finder(tmp_path, Marker(reply))
    assert found(TEXT, "Karn") == [] and found.stats["failed"] == 1


def test_a_refusal_of_every_request_ends_the_work_and_counts_no_passage(tmp_path):
    pytest.importorskip("openai")
    with chat_server.ChatServer(lambda messages: json.dumps({"spans": mark(("Tolm", "name"))})) as server:
        found = SpanFinder(Client(Endpoint(server.url, "m"), ClientSettings(), tmp_path / "c"), Sampling())
        server.refuse = lambda asked: (400, {"message": "bad temperature"}) if len(server.asked) > 4 else None
        seen = []
        with pytest.raises(AccessError, match="status 400: bad temperature.*llm.omit"):
            for text in found.ahead((f"Passage {i} of Tolm." for i in range(20)), lambda text: (text, "T")):
                seen.append(found(text, "T"))
        assert all(seen) and len(seen) <= 4 and found.stats["failed"] == 0
        server.refuse = lambda asked: (400, {"message": "flagged", "code": "content_filter"})
        assert found("Another passage.", "T") == [] and found.stats["failed"] == 1


def test_no_server_ends_the_work(tmp_path):
    with pytest.raises(UnavailableError):
        finder(tmp_path, Marker(TransientError("down")), retries=1)(TEXT, "Karn")


def test_passages_are_asked_ahead_in_order_and_once(tmp_path):
    backend = Marker(mark(("Tolm", "name")), seconds=0.02)
    found, passages = finder(tmp_path, backend, concurrency=3), [f"Passage {i} of Tolm." for i in range(10)]
    seen = []
    for passage in found.ahead(iter(passages), lambda text: (text, "T")):
        seen.append(passage)
        assert found(passage, "T") and len(backend.asked) <= len(seen) + 7
    assert seen == passages and len(backend.asked) == 10 and backend.most == 3
    with pytest.raises(UnavailableError):
        list(finder(tmp_path / "x", Marker(TransientError("no")), retries=0).ahead(["a"], lambda text: (text, "T")))
