"""Fields of a 200 reply in the forms that servers give them, over a socket."""

import chat_server
import pytest

from masksearch_jax.llm.chat_types import Completion, Message, RequestError, Sampling, TransientError, Usage
from masksearch_jax.llm.completion_body import read_completion
from masksearch_jax.llm.endpoint import Endpoint

pytest.importorskip("openai")
MESSAGES = [Message("user", "größer")]  # 8 bytes
COUNTED = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
BY_BYTES = Usage(8, 4)


def body(message=None, usage=COUNTED, finish="stop", **other):
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"} | (message or {"content": "text"})}
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage} | other


def part(text, **other):
    return {"type": "text", "text": text} | other


READ = {
    "whole": (body(), Completion("text", Usage(3, 2))),
    "usage null": (body(usage=None), Completion("text", BY_BYTES)),
    "usage missing": ({k: v for k, v in body().items() if k != "usage"}, Completion("text", BY_BYTES)),
    "usage empty": (body(usage={}), Completion("text", BY_BYTES)),
    "usage strings": (body(usage={"prompt_tokens": "3", "completion_tokens": "2"}), Completion("text", BY_BYTES)),
    "usage a list": (body(usage=[1, 2]), Completion("text", BY_BYTES)),
    "usage negative": (body(usage={"prompt_tokens": -1, "completion_tokens": True}), Completion("text", BY_BYTES)),
    "usage huge": (body(usage={"prompt_tokens": 10**30, "completion_tokens": 1e300}), Completion("text", BY_BYTES)),
    "usage floats": (body(usage={"prompt_tokens": 3.0, "completion_tokens": 2.5}), Completion("text", Usage(3, 4))),
    "usage half": (body(usage={"prompt_tokens": 3}), Completion("text", Usage(3, 4))),
    "parts": (body({"content": [part("te"), part("xt")]}), Completion("text", Usage(3, 2))),
    "parts of strings": (body({"content": ["te", "xt"]}), Completion("text", Usage(3, 2))),
    "parts with values": (body({"content": [part({"value": "text"})]}), Completion("text", Usage(3, 2))),
    "parts with a thought": (
        body({"content": [{"type": "thinking", "thinking": [part("hm")]}, part("text")]}),
        Completion("text", Usage(3, 2)),
    ),
    "no parts": (body({"content": []}), Completion("", Usage(3, 2))),
    "refusal": (body({"content": None, "refusal": "I will not"}), Completion("I will not", Usage(3, 2))),
    "content null": (body({"content": None}), Completion("", Usage(3, 2))),
    "content missing": (body({"tool_calls": []}), Completion("", Usage(3, 2))),
    "a thought in its own field": (
        body({"content": "text", "reasoning_content": "hm hm"}, usage=None), Completion("text", Usage(8, 9))
    ),
    "half a surrogate": (body({"content": "te\ud800xt"}), Completion("te?xt", Usage(3, 2))),
    "length": (body(finish="length"), Completion("text", Usage(3, 2), "length")),
    "length, as Gemini says it": (body(finish="MAX_TOKENS"), Completion("text", Usage(3, 2), "length")),
    "finish missing": (body(finish=None), Completion("text", Usage(3, 2))),
    "finish a number": (body(finish=7), Completion("text", Usage(3, 2))),
    "two choices": (body() | {"choices": body()["choices"] * 2}, Completion("text", Usage(3, 2))),
}  # fmt: skip
NO_COMPLETION = {
    "no choices": body(choices=[]),
    "choices null": body(choices=None),
    "choices an object": body(choices={"0": {}}),
    "a choice of null": body(choices=[None]),
    "no message": body(choices=[{"text": "old"}]),
    "content a number": body({"content": 7}),
    "content an object": body({"content": {"text": "x"}}),
    "a list": [body()],
    "a string": ["text"],
    "null": None,
}


@pytest.fixture(scope="module")
def server():
    with chat_server.ChatServer(None) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(server):
    made = Endpoint(server.url, "tiny")
    yield made
    made.close()


@pytest.mark.parametrize("sent, expected", READ.values(), ids=READ)
def test_fields_are_read_in_every_form(server, endpoint, sent, expected):
    server.write = lambda messages: sent
    assert endpoint.complete(MESSAGES, Sampling(), 5.0) == expected


@pytest.mark.parametrize("sent", NO_COMPLETION.values(), ids=NO_COMPLETION)
def test_what_is_no_completion_is_tried_again(server, endpoint, sent):
    server.write = lambda messages: sent
    with pytest.raises(TransientError, match=rf"{server.url} \(tiny\): the reply is no chat completion"):
        endpoint.complete(MESSAGES, Sampling(), 5.0)


def test_a_reply_that_a_filter_cut_is_a_refusal_of_one_request(server, endpoint):
    server.write = lambda messages: body({"content": ""}, finish="content_filter")
    with pytest.raises(RequestError, match="content filter"):
        endpoint.complete(MESSAGES, Sampling(), 5.0)


@pytest.mark.parametrize("data", [b"", b"<html>", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_bytes_that_are_no_json_are_tried_again(data):
    with pytest.raises(TransientError, match="cannot be read"):
        read_completion(data, MESSAGES)


def test_a_byte_order_mark_before_the_body_is_no_fault():
    assert read_completion(b'\xef\xbb\xbf{"choices": [{"message": {"content": "x"}}]}', MESSAGES).text == "x"
