"""One address cannot hold all connections: the oldest of its idle ones, and of its slow ones, goes."""

import contextlib
import socket
import time

import pytest
import serving

from masksearch_jax.data import records
from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.service.address_limits import AddressLimits, Holding, address_of

IDLE, SLOW = Holding.IDLE, Holding.SLOW
HEALTH = b"GET /health HTTP/1.1\r\n\r\n"


def test_the_one_that_holds_longest_goes():
    limits = AddressLimits(idle=2, slow=1)
    assert [limits.note(i, "a", IDLE) for i in (1, 2)] == [None, None]
    assert limits.note(1, "a", IDLE) is None  # nothing new
    assert limits.note(3, "a", IDLE) == 1
    limits.note(1, "a", None)
    assert limits.note(2, "a", SLOW) is None and limits.note(4, "a", IDLE) is None
    assert limits.note(5, "b", IDLE) is None  # another address
    assert limits.note(3, "a", SLOW) == 2
    for i in (1, 2, 3, 4, 5):
        limits.note(i, "a", None)
    assert len(limits) == 0 and not limits._held


@pytest.mark.parametrize(
    "host, counted",
    [
        ("10.0.0.3", "10.0.0.3"), ("::ffff:10.0.0.3", "10.0.0.3"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"), ("", ""), (None, ""), ("a.sock", "a.sock"),
    ],
)  # fmt: skip
def test_what_counts_as_one_address(host, counted):
    assert address_of(host) == counted


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    passages = [records.Passage(i, i, f"Karn {i}", f"{i} " + "the river city " * 40, "train") for i in range(100)]
    return serving.workdir_of(tmp_path_factory.mktemp("served"), passages)


def opened(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def until(condition, seconds=10.0):
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.01)
    assert condition()


def closed(sock):
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(4096) == b""
    return True


def asked(sock):
    sock.sendall(HEALTH)
    return sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_silent_connections_of_an_address(workdir):
    with serving.serving(workdir, loaded=False, server={"idle_per_address": 3}) as (url, _, http):
        held = [opened(url) for _ in range(3)]
        assert asked(held[0])  # now the second is silent for longest
        held.append(opened(url))
        until(lambda: http.stats["ended_idle"] == 1)
        assert closed(held[1]) and all(map(asked, (held[0], held[2], held[3])))
        for _ in range(10):  # a client that asks and goes is not counted
            with opened(url) as one:
                one.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert one.recv(4096).startswith(b"HTTP/1.1 200")
        for one in held:
            one.close()


def test_half_requests_of_an_address(workdir):
    with serving.serving(workdir, server={"slow_per_address": 2}) as (url, _, http):
        held = [opened(url) for _ in range(3)]
        for number, one in enumerate(held):
            one.sendall(b"POST /retrieve HTTP/1.1\r\nContent-Length: 90\r\n\r\n{")
            until(lambda wanted=number + 1: len(http._addresses) >= min(wanted, 2))
        until(lambda: http.stats["ended_slow"] == 1)
        answer = held[0].recv(4096)
        assert answer.startswith(b"HTTP/1.1 408") and b"2 requests of this address are incomplete" in answer
        with opened(url) as other:
            assert asked(other)
        held[2].sendall(b" " * 89)  # arrives whole at last
        assert held[2].recv(4096).startswith(b"HTTP/1.1 400")
        for one in held:
            one.close()


def test_answers_that_an_address_does_not_take(workdir):
    limits = {"slow_per_address": 2, "read_s": 30.0}
    with serving.serving(workdir, server=limits) as (url, _, http):
        body = wire.request([f"the river city {i}" for i in range(200)], 100)
        held = []
        for _ in range(3):
            one = opened(url)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(3):
                one.sendall(b"POST /retrieve HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            held.append(one)
        until(lambda: http.stats["ended_slow"] >= 1, 30)
        until(lambda: len(http._uvicorn.server_state.connections) == 2)
        with opened(url) as other:
            assert asked(other)
        for one in held:
            one.close()
        until(lambda: len(http._addresses) == 0)
