"""Guarded calls: retries within the deadline, refusals that are not repeated, and a breaker that hears of each call."""

from types import SimpleNamespace

import pytest

from masksearch_jax.retrieval.service.guarded_calls import GuardedCalls


class LateError(Exception):
    pass


class RefusedError(Exception):
    pass


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def calls(clock, **limits):
    found = {"timeout_s": 2.0, "deadline_s": 10.0, "retries": 2, "failures": 3, "cooldown_s": 30.0} | limits
    return GuardedCalls(SimpleNamespace(**found), (LateError,), (RefusedError,), clock, clock.sleep)


def test_a_call_is_retried_and_each_gets_its_timeout():
    clock, seconds = Clock(), []

    def call(left):
        seconds.append(left)
        if len(seconds) < 3:
            raise LateError("late")
        return "answer"

    guarded = calls(clock)
    assert guarded.ask(call, b"key", clock()) == "answer" and seconds == [2.0] * 3
    assert guarded.stats == {"requests": 3, "retries": 2, "failures": 2, "refusals": 0, "breaker_openings": 0}
    assert guarded.last_error == "late"


def test_no_call_is_made_after_the_deadline():
    clock = Clock()

    def call(left):
        clock.now += left
        raise LateError("late")

    guarded = calls(clock, deadline_s=3.0, retries=9, failures=99)
    assert guarded.ask(call, b"key", clock()) is None
    assert guarded.stats["requests"] == 2 and clock.now == pytest.approx(3.0)


def test_a_refusal_is_raised_at_once_and_does_not_open_the_breaker():
    clock = Clock()

    def call(left):
        raise RefusedError("too long")

    guarded = calls(clock, failures=1)
    for _ in range(3):
        with pytest.raises(RefusedError):
            guarded.ask(call, b"key", clock())
    assert guarded.stats["refusals"] == guarded.stats["requests"] == 3 and guarded.breaker.state == "closed"


def test_nothing_is_called_behind_the_open_breaker_until_it_has_cooled():
    clock, working = Clock(), []

    def call(left):
        if not working:
            raise LateError("late")
        return "answer"

    guarded = calls(clock)
    assert guarded.ask(call, b"key", clock()) is None and guarded.breaker.state == "open"
    assert guarded.ask(call, b"key", clock()) is None and guarded.stats["requests"] == 3
    clock.now += 30
    working.append(True)
    assert guarded.ask(call, b"key", clock()) == "answer" and guarded.breaker.state == "closed"
    assert guarded.stats["breaker_openings"] == 1


def test_an_error_of_another_kind_is_the_callers():
    clock = Clock()
    guarded = calls(clock)

    def call(left):
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        guarded.ask(call, b"key", clock())
