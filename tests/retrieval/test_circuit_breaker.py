import pytest

from masksearch_jax.retrieval.service.circuit_breaker import CLOSED, HALF_OPEN, OPEN, CircuitBreaker


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def breaker(now):
    return CircuitBreaker(failures=3, cooldown=30.0, clock=lambda: now[0])


def ask(breaker, success):
    ticket = breaker.admit()
    assert ticket is not None
    breaker.report(ticket, success)


def opened(breaker):
    for _ in range(3):
        ask(breaker, False)
    assert breaker.state == OPEN


def test_opens_after_failures_in_a_row_only(breaker):
    for success in (False, False, True, False, False):
        ask(breaker, success)
        assert breaker.state == CLOSED
    ask(breaker, False)
    assert breaker.state == OPEN and breaker.openings == 1
    assert breaker.admit() is None


def test_half_open_lets_one_try_after_the_cooldown(breaker, now):
    opened(breaker)
    now[0] += 29.9
    assert breaker.admit() is None
    now[0] += 0.1
    ticket = breaker.admit()
    assert ticket is not None and breaker.state == HALF_OPEN
    assert breaker.admit() is None  # until that one is back
    breaker.report(ticket, True)
    assert breaker.state == CLOSED
    for _ in range(2):  # its count began anew
        ask(breaker, False)
    assert breaker.state == CLOSED


def test_a_failed_try_opens_it_again_for_a_whole_cooldown(breaker, now):
    opened(breaker)
    now[0] += 30
    ask(breaker, False)
    assert breaker.state == OPEN and breaker.openings == 2
    now[0] += 29
    assert breaker.admit() is None
    now[0] += 1
    ask(breaker, True)
    assert breaker.state == CLOSED


def test_late_outcomes_of_an_earlier_state_count_for_nothing(breaker, now):
    late = [breaker.admit() for _ in range(6)]
    for ticket in late[:3]:
        breaker.report(ticket, False)
    assert breaker.state == OPEN
    breaker.report(late[3], True)  # asked before it opened
    assert breaker.state == OPEN
    now[0] += 30
    ticket = breaker.admit()
    breaker.report(late[4], True)
    breaker.report(late[5], False)
    assert breaker.state == HALF_OPEN and breaker.openings == 1
    breaker.report(ticket, True)
    assert breaker.state == CLOSED
