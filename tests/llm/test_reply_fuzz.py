"""Replies of any text and bodies of any JSON: a value or the error that is documented, in time that grows with size."""

import json

import pytest
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st

from masksearch_jax.agents.observer import Verdict
from masksearch_jax.agents.planner import Plan
from masksearch_jax.agents.rewriter import Rewrites
from masksearch_jax.agents.span_finder import Reply as Spans
from masksearch_jax.agents.trajectory_judge import Judgement
from masksearch_jax.llm import structured
from masksearch_jax.llm.chat_types import Completion, Message, RequestError, TransientError
from masksearch_jax.llm.completion_body import ErrorBody, read_completion
from masksearch_jax.llm.refusals import body_error, refusal_error

KINDS = {
    Judgement: {"reason": "so", "correct": True},
    Plan: {"analysis": "a", "step": "s", "query": "q"},
    Rewrites: {"queries": ["one", "two"]},
    Verdict: {"thought": "", "verdict": "answer", "useful": [1], "step": "", "query": "", "answers": ["x"]},
    Spans: {"spans": [{"text": "x", "kind": "name"}]},
}
PIECES = (
    "<think>", "</think>", "[THINK]", "[/THINK]", "<thinking>", "```", "````", "```json", "```JSON\n", "\n```\n", "\n",
    "<|channel|>", "<|channel|>final", "<|channel|>analysis", "<|message|>", "<|start|>assistant", "<|end|>",
    "analysis", "assistantfinal",
    "<|im_end|>", "</s>", "<|eot_id|>", "\ufeff", " ", "{", "}", "[", "]", '"', "\\", "\\u", ":", ",",
    "null", "true", "NaN", "1e999", "-0", "\ud800", "\x00", "é", "𝄞",
    *(json.dumps(value) for value in KINDS.values()),
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=30).map("".join)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


def either(value, *others):
    """The value of a well-formed body, another of these, or anything."""
    return st.one_of(st.just(value), st.sampled_from(others), VALUES)


PART = st.fixed_dictionaries({"type": st.just("text"), "text": either("x", {"value": "y"})})
PARTS = st.lists(st.one_of(PART, VALUES))
MESSAGE = st.fixed_dictionaries(
    {},
    optional={"content": st.one_of(TEXTS, PARTS, VALUES), "refusal": either("no", None),
              "reasoning_content": either("hm", None)},
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(st.one_of(
            st.fixed_dictionaries({}, optional={"message": st.one_of(MESSAGE, VALUES),
                                                "finish_reason": either("stop", "length", "content_filter", None)}),
            VALUES,
        ), max_size=3),
        "usage": st.one_of(st.fixed_dictionaries({}, optional={
            "prompt_tokens": either(3, "3", -1, 2.0, 10**40), "completion_tokens": either(2, None, 1e308),
        }), VALUES),
        "error": either(None, {"message": "x", "code": 402}, {"code": "Arrearage", "innererror": {"code": []}}),
    },
)  # fmt: skip


def check_text(text):
    for kind in KINDS:
        try:
            assert isinstance(structured.parse(text, kind), kind)
        except ValueError as error:
            assert str(error)


@fuzz(TEXTS, examples=300)
def test_a_reply_is_a_value_or_a_sentence(text):
    check_text(text)


@fuzz(st.sampled_from(list(KINDS)), VALUES, st.sampled_from(PIECES), st.sampled_from(PIECES), examples=150)
def test_a_reply_with_a_field_of_any_value_is_a_value_or_a_sentence(kind, value, before, after):
    for name in KINDS[kind]:
        check_text(f"{before}{json.dumps(KINDS[kind] | {name: value})}{after}")


@fuzz(st.one_of(BODIES, VALUES), st.booleans(), examples=300)
def test_a_body_is_a_completion_or_a_documented_error(body, as_utf8):
    data = json.dumps(body, ensure_ascii=not as_utf8).encode(errors="surrogatepass")
    try:
        found = read_completion(data, [Message("user", "hi")])
    except ErrorBody as error:
        assert isinstance(body_error(error.error, "server"), Exception)
    except (TransientError, RequestError) as error:
        assert str(error)
    else:
        assert isinstance(found, Completion) and found.text.encode() is not None and isinstance(found.finish, str)
        for count in (found.usage.prompt_tokens, found.usage.completion_tokens):
            assert type(count) is int and 0 <= count < 2**63  # as the cache stores it


@fuzz(st.binary(max_size=60), examples=100)
def test_bytes_are_a_completion_or_a_documented_error(data):
    with pytest.raises((TransientError, ErrorBody)):
        read_completion(data, [])


FIELDS = st.sampled_from(["code", "type", "message", "error", "innererror", "detail", "metadata"])


@fuzz(st.integers(300, 599), st.one_of(VALUES, st.dictionaries(FIELDS, VALUES)), examples=150)
def test_a_refusal_of_any_form_is_one_of_the_four_errors(status, error):
    names = {"TransientError", "RequestError", "AccessError", "DoubtfulError"}
    found = refusal_error(status, error, "server")
    assert type(found).__name__ in names and f"server: status {status}: " in str(found) and "\n" not in str(found)


GOOD = json.dumps(KINDS[Judgement])
SHAPES = {
    "spaces": lambda n: " " * n + "x",
    "spaces after": lambda n: GOOD + " " * n + "x",
    "newlines in a fence": lambda n: "```json" + "\n" * n + "x```",
    "newlines before a fence's end": lambda n: "```\n" + GOOD + "\n" * n + "x",
    "backticks": lambda n: "`" * n,
    "spaced backticks": lambda n: "``` " * (n // 4),
    "fences": lambda n: "```json\n{x\n```\n" * (n // 14),
    "fences of strings": lambda n: '```{"' * (n // 5),
    "prose with fences": lambda n: "x ```py\n{}\n```\n" * (n // 15),
    "thoughts": lambda n: "<think></think>" * (n // 15),
    "open thoughts": lambda n: "<think>" * (n // 7),
    "closed thoughts": lambda n: "</think>" * (n // 8),
    "drafts": lambda n: '{"a</think>' * (n // 11),
    "channels": lambda n: "<|channel|>final" * (n // 16),
    "messages": lambda n: "<|channel|>final<|message|>" * (n // 27),
    "bare channels": lambda n: "analysis" + "assistantfinal" * (n // 14),
    "end tokens": lambda n: "<|im_end|> </s>\n" * (n // 16),
    "byte-order marks": lambda n: "\ufeff" * n,
    "nesting": lambda n: '{"a":' * (n // 5),
    "lists": lambda n: "[" * n,
    "keys": lambda n: json.dumps({str(i): i for i in range(n // 10)}),
    "digits": lambda n: '{"a": ' + "1" * n + "}",
    "escapes": lambda n: '{"reason": "' + "\\u00e9" * (n // 6) + '", "correct": true}',
    "spans": lambda n: json.dumps({"spans": [{"text": "x", "kind": "name"}] * (n // 32)}),
    "bad spans": lambda n: json.dumps({"spans": [{"text": "x", "kind": "x"}] * (n // 32)}),
}


@pytest.mark.fuzz
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_the_time_of_a_reply_grows_with_its_length(make):
    def parse(text):
        for kind in (Judgement, Spans):
            try:
                structured.parse(text, kind)
            except ValueError:
                pass

    assert_grows_like_n_log_n(parse, make, largest=200_000)


@pytest.mark.fuzz
@pytest.mark.parametrize("make", [
    lambda n: {"choices": [{"message": {"content": [{"type": "text", "text": "x"}] * (n // 30)}}]},
    lambda n: {"choices": [{"message": {"content": "\ud800" * (n // 6)}}]},
    lambda n: {"choices": [{}] * (n // 3)},
    lambda n: {"error": {"message": "x\n" * (n // 2)}},
], ids=["parts", "surrogates", "choices", "error"])  # fmt: skip
def test_the_time_of_a_body_grows_with_its_length(make):
    def read(data):
        try:
            read_completion(data, [])
        except ErrorBody as error:
            body_error(error.error, "server")
        except TransientError:
            pass

    assert_grows_like_n_log_n(read, lambda n: json.dumps(make(n)).encode(), largest=200_000)
