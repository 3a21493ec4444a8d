"""Retries, cache, limits and budget of the client, over a backend that a test scripts."""

import threading
import time

import pytest

from masksearch_jax.llm import completion_cache, limits
from masksearch_jax.llm.chat_types import (
    AccessError,
    BudgetSpentError,
    Completion,
    Message,
    RequestError,
    Sampling,
    TransientError,
    UnavailableError,
    Usage,
)
from masksearch_jax.llm.client import Client, ClientSettings, backoff

GREEDY = Sampling(max_tokens=10)


class Scripted:
    """Replies with the text in capitals, after the errors that are due."""

    name = "scripted"

    def __init__(self, *errors, seconds=0.0):
        self.errors, self.seconds, self.asked = list(errors), seconds, []
        self.now = self.most = 0
        self._lock = threading.Lock()

    def complete(self, messages, sampling, timeout_s):
        with self._lock:
            self.asked.append((messages, sampling, timeout_s))
            error = self.errors.pop(0) if self.errors else None
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self._lock:
            self.now -= 1
        if error:
            raise error
        return Completion(messages[-1].content.upper(), Usage(100, 10))

    def close(self):
        pass


def say(text):
    return [Message("user", text)]


def make(tmp_path, backend, waits=None, **settings):
    return Client(backend, ClientSettings(**settings), tmp_path / "cache.sqlite", sleep=(waits or []).append)


def test_a_transient_failure_is_tried_again_after_growing_waits(tmp_path):
    waits, backend = [], Scripted(TransientError("busy"), TransientError("busy", wait_s=7.0))
    client = Client(backend, ClientSettings(retries=2), tmp_path / "c", sleep=waits.append)
    assert client.complete(say("hi"), GREEDY).text == "HI"
    assert 0.25 <= waits[0] <= 0.5 and waits[1] == 7.0  # what the server asked for, where that is longer
    assert client.stats["retries"] == 2 and client.stats["failures"] == 2 and client.stats["requests"] == 3
    assert [backoff("k", n) for n in (1, 2, 3)] == sorted(backoff("k", n) for n in (1, 2, 3))


def test_after_the_last_retry_there_is_an_error_and_nothing_is_kept(tmp_path):
    backend = Scripted(*[TransientError("down")] * 3)
    client = make(tmp_path, backend, retries=2)
    with pytest.raises(UnavailableError, match="after 3 tries; the last: down"):
        client.complete(say("hi"), GREEDY)
    assert client.complete(say("hi"), GREEDY).text == "HI" and len(backend.asked) == 4


@pytest.mark.parametrize("error", [RequestError("too long"), AccessError("wrong key")])
def test_a_refusal_is_not_tried_again(tmp_path, error):
    backend = Scripted(error)
    with pytest.raises(type(error)):
        make(tmp_path, backend).complete(say("hi"), GREEDY)
    assert len(backend.asked) == 1


def test_the_cache_outlives_the_client_and_tells_requests_apart(tmp_path):
    backend = Scripted()
    first = make(tmp_path, backend)
    first.complete(say("hi"), GREEDY)  # and is never closed, as after a kill
    second = make(tmp_path, backend)
    assert second.complete(say("hi"), GREEDY).text == "HI" and len(backend.asked) == 1
    assert second.stats["cache_hits"] == 1 and second.stats["requests"] == 0
    for messages, sampling in [
        (say("ho"), GREEDY), (say("hi"), Sampling(max_tokens=11)), (say("hi"), Sampling(0.5, 10)),
        (say("hi"), Sampling(max_tokens=10, seed=1)), ([Message("system", "hi")], GREEDY),
    ]:  # fmt: skip
        second.complete(messages, sampling)
    assert len(backend.asked) == 6
    backend.name = "another"
    make(tmp_path, backend).complete(say("hi"), GREEDY)
    assert len(backend.asked) == 7


def test_a_file_that_is_no_cache_is_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(ValueError, match="notes.txt is no cache"):
        completion_cache.Cache(tmp_path / "notes.txt")


def test_threads_that_ask_the_same_pay_once_and_concurrency_is_bounded(tmp_path):
    backend = Scripted(seconds=0.05)
    client = make(tmp_path, backend, concurrency=2)
    texts = ["same"] * 4 + [f"other {i}" for i in range(6)]
    threads = [threading.Thread(target=client.complete, args=(say(text), GREEDY)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(backend.asked) == 7 and backend.most == 2


def test_the_budget_stops_before_it_is_overdrawn_and_counts_earlier_runs(tmp_path):
    prices = {"prompt_price": 1000.0, "completion_price": 10_000.0}  # a request costs 0.1 + 0.1
    backend = Scripted()
    client = make(tmp_path, backend, budget=0.5, **prices)
    client.complete(say("one"), GREEDY)
    assert client.stats["cost"] == pytest.approx(0.2)
    client.complete(say("two"), GREEDY)
    with pytest.raises(BudgetSpentError, match=r"0.4000 of llm.budget=0.5 is spent"):
        client.complete(say("three"), GREEDY)
    again = make(tmp_path, backend, budget=0.5, **prices)
    assert again.complete(say("two"), GREEDY).text == "TWO"  # what is cached costs nothing
    with pytest.raises(BudgetSpentError):
        again.complete(say("three"), GREEDY)
    assert len(backend.asked) == 2
    make(tmp_path, backend, budget=1.0, **prices).complete(say("three"), GREEDY)
    with pytest.raises(ValueError, match="limits nothing"):
        make(tmp_path, backend, budget=1.0)


def test_the_budget_holds_with_many_threads(tmp_path):
    backend, refused = Scripted(seconds=0.01), []
    client = make(tmp_path, backend, concurrency=8, budget=1.0, prompt_price=1000.0, completion_price=10_000.0)

    def ask(i):
        try:
            client.complete(say(f"{'long ' * 50}{i}"), GREEDY)
        except BudgetSpentError:
            refused.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.stats["cost"] <= 1.0 and 4 <= len(backend.asked) <= 5  # those under way were waited for
    assert len(refused) == 12 - len(backend.asked)


def test_no_minute_holds_more_requests_or_tokens_than_allowed():
    now, sent = [0.0], []

    def sleep(seconds):
        now[0] += seconds

    limiter = limits.RateLimiter(5, 100, clock=lambda: now[0], sleep=sleep)
    for tokens in [10] * 12 + [60, 60, 300, 10]:
        limiter.wait(tokens)
        sent.append((now[0], tokens))
        now[0] += 1.0
    for start, _ in sent:
        window = [tokens for at, tokens in sent if start <= at < start + 60]
        assert len(window) <= 5 and (sum(window) <= 100 or len(window) == 1)
    assert sent[4][0] < 60 <= sent[5][0] <= 61  # and no later than needed


def test_what_a_request_took_replaces_what_was_reserved():
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    limiter = limits.RateLimiter(0, 100, clock=lambda: now[0], sleep=sleep)
    limiter.wait(90).tokens = 20
    limiter.wait(70)
    assert not waits
    limiter.wait(70)
    assert waits == [60.0]


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"concurrency": 0}, {"timeout_s": 0}, {"budget": -1.0}])
def test_settings_that_cannot_work_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"llm.{next(iter(wrong))}"):
        make(tmp_path, Scripted(), **wrong)
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=float("nan"))
