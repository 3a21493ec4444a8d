"""The openai package against a real server on loopback."""

import contextlib
import gzip
import socket
import threading
import time

import chat_server
import pytest

from masksearch_jax.llm.chat_types import AccessError, DoubtfulError, Message, Sampling, TransientError, Usage
from masksearch_jax.llm.endpoint import Endpoint
from masksearch_jax.workflows import llm_connection

pytest.importorskip("openai")
MESSAGES = [Message("system", "be brief"), Message("user", "hello there")]


@pytest.fixture
def server():
    with chat_server.ChatServer(lambda messages: messages[-1]["content"].upper()) as made:
        yield made


def test_a_conversation_goes_out_whole_and_its_price_comes_back(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-1")
    endpoint = Endpoint(server.url, "tiny", "SOME_KEY", json_mode=True)
    reply = endpoint.complete(MESSAGES, Sampling(0.5, 33, 7), 5.0)
    assert reply.text == "HELLO THERE" and reply.usage == Usage(4, 2) and reply.finish == "stop"
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions" and asked["key"] == "Bearer secret-1" and asked["model"] == "tiny"
    assert asked["messages"] == [{"role": m.role, "content": m.content} for m in MESSAGES]
    assert (asked["temperature"], asked["max_tokens"], asked["seed"]) == (0.5, 33, 7)
    assert asked["response_format"] == {"type": "json_object"}
    endpoint.close()
    Endpoint(server.url, "tiny", limit_field="max_completion_tokens").complete(MESSAGES, Sampling(max_tokens=9), 5.0)
    assert server.asked[-1]["max_completion_tokens"] == 9
    assert not {"response_format", "max_tokens"} & server.asked[-1].keys()


@pytest.mark.parametrize(
    "fault, error",
    [
        (500, TransientError), (503, TransientError), (429, TransientError), (408, TransientError),
        (400, DoubtfulError), (413, DoubtfulError), (401, AccessError), (404, AccessError),
        ("garbage", TransientError), ("silent", TransientError),
    ],
)  # fmt: skip
def test_failures_say_whether_to_try_again(server, fault, error):
    server.faults, server.retry_after = [fault], "3"
    with pytest.raises(error) as found:
        Endpoint(server.url, "tiny").complete(MESSAGES, Sampling(), 0.3)
    assert len(server.asked) == 1  # the package's own retries are off
    if isinstance(fault, int) and error is TransientError:
        assert found.value.wait_s == 3.0


def test_no_server_is_a_transient_failure():
    with pytest.raises(TransientError, match="127.0.0.1:9"):
        Endpoint("http://127.0.0.1:9/v1", "tiny").complete(MESSAGES, Sampling(), 1.0)


@contextlib.contextmanager
def serving(head, parts):
    """A server that answers one request with a head and then with parts, for as long as they are taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(head)
                for part in parts:
                    connection.sendall(part)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join()


def dripping():
    while True:
        time.sleep(0.05)
        yield b" "


ENDLESS = b"Content-Length: 99999999999\r\n\r\n"


@pytest.mark.parametrize("status", [b"200 OK", b"500 Oops"])
@pytest.mark.parametrize(
    "head, parts, says",
    [
        (ENDLESS, None, "ReadTimeout|not whole in time|Timeout"),
        (ENDLESS, iter(lambda: b" " * (1 << 20), None), "over 67108864 bytes"),
        (b"Content-Encoding: gzip\r\n" + ENDLESS, [gzip.compress(b" " * (80 << 20), 1)] * 2, "over 65536 bytes"),
    ],
    ids=["dripping", "endless", "packed"],
)
def test_a_reply_has_an_end(status, head, parts, says):
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n" + head
    with serving(head, dripping() if parts is None else parts) as url:
        with contextlib.closing(Endpoint(url, "tiny")) as endpoint, pytest.raises(TransientError, match=says):
            endpoint.complete(MESSAGES, Sampling(), 0.5 if parts is None else 60.0)


def test_settings_that_cannot_work_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ValueError, match="llm.key_variable names no environment variable"):
        Endpoint("http://h/v1", "m", "SOME_KEY")
    with pytest.raises(ValueError, match="llm.model is empty"):
        Endpoint("http://h/v1", "")
    with pytest.raises(ValueError, match="limit_field='n'"):
        Endpoint("http://h/v1", "m", limit_field="n")
    with pytest.raises(ValueError, match="llm.omit=.* names 'top_p'"):
        Endpoint("http://h/v1", "m", omit=("temperature", "top_p"))
    with pytest.raises(ValueError, match="llm.url='h'"):
        Endpoint("h", "m")
    from configs import prepare

    with pytest.raises(FileNotFoundError, match="llm.model=''"):
        llm_connection.connect(prepare.llm(), tmp_path / "cache")
