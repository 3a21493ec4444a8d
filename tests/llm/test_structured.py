import dataclasses
from typing import Literal

import pytest
from fuzzing import assert_grows_like_n_log_n

from masksearch_jax.llm import structured
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.llm.interface import Completion, Message, Sampling, Usage


@dataclasses.dataclass(frozen=True)
class Item:
    text: str
    kind: Literal["a", "b"]


@dataclasses.dataclass(frozen=True)
class Reply:
    verdict: Literal["yes", "no"]
    sure: bool
    count: int
    items: list[Item]

    def __post_init__(self):
        if self.count != len(self.items):
            raise ValueError(f"count is {self.count}, there are {len(self.items)} items")


GOOD = '{"verdict": "yes", "sure": true, "count": 1, "items": [{"text": "x", "kind": "a"}]}'


@pytest.mark.parametrize(
    "text", [GOOD, f"  {GOOD}\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}```", f"<think>{{hm}}</think>\n\n{GOOD}"]
)
def test_one_object_is_read(text):
    assert structured.parse(text, Reply) == Reply("yes", True, 1, [Item("x", "a")])


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "not one JSON object"),
        (f"Here it is: {GOOD}", "not one JSON object"),
        (f"{GOOD} {GOOD}", "not one JSON object"),
        (f"[{GOOD}]", "has to be a JSON object"),
        (GOOD.replace('"yes"', '"maybe"'), "verdict is 'maybe', it has to be one of"),
        (GOOD.replace("true", '"true"'), "sure is 'true', it has to be of type bool"),
        (GOOD.replace("1", "true"), "count is True, it has to be of type int"),
        (GOOD.replace("1", "NaN"), "NaN is no JSON"),
        (GOOD.replace('"x"', "1"), r"items\[0\].text is 1"),
        (GOOD.replace('"kind": "a"', '"kind": ["a"]'), r"items\[0\].kind is \['a'\]"),
        (GOOD.replace('"count": 1', '"count": 1, "why": ""'), "has the keys"),
        (GOOD.replace('"count": 1, ', ""), "has the keys"),
        (GOOD.replace('"count": 1', '"count": 1, "count": 1'), "stands twice"),
        (GOOD.replace('"count": 1', '"count": 2'), "count is 2, there are 1 items"),
        (GOOD.replace('"x"', r'"\ud800"'), "surrogates"),
        ("__import__('os').getcwd()", "not one JSON object"),
        ('{"a":' * 100_000, "not one JSON object"),
    ],
)
def test_anything_else_is_refused_and_says_why(text, fault):
    with pytest.raises(ValueError, match=fault):
        structured.parse(text, Reply)


@pytest.mark.parametrize("piece", ["\n", " \n", "```", "```json\n", "\n```"])
def test_a_fence_is_found_in_linear_time(piece):
    """2,000 line ends behind an opening fence took 13 seconds."""

    def refuse(text):
        with pytest.raises(ValueError, match="not one JSON object"):
            structured.parse(text, Reply)

    assert_grows_like_n_log_n(refuse, lambda size: "```json" + piece * size)
    assert_grows_like_n_log_n(refuse, lambda size: "```json" + piece * size + "x```")


class Replies:
    name = "replies"

    def __init__(self, *texts, finish="stop"):
        self.texts, self.asked, self.finish = list(texts), [], finish

    def complete(self, messages, sampling, timeout_s):
        self.asked.append(messages)
        return Completion(self.texts.pop(0), Usage(1, 1), self.finish)

    def close(self):
        pass


def ask(tmp_path, backend, **other):
    client = Client(backend, ClientSettings(), tmp_path / "cache")
    return structured.ask(client, [Message("user", "go")], Reply, Sampling(), **other)


def test_a_bad_reply_is_told_what_is_wrong(tmp_path):
    backend = Replies("no idea", GOOD)
    assert ask(tmp_path, backend).count == 1
    first, second = backend.asked
    assert [m.content for m in first] == ["go"]
    assert "no idea" in second[-1].content and "not one JSON object" in second[-1].content
    assert '"verdict": "yes | no"' in second[-1].content  # and the form again


def test_after_the_last_attempt_the_failure_has_a_name(tmp_path):
    with pytest.raises(structured.ReplyError, match="did not write a Reply in 2 attempts; the last fault: .*JSON"):
        ask(tmp_path, Replies("one", "two"), attempts=2)
    with pytest.raises(structured.ReplyError, match="cut at 512 tokens"):
        ask(tmp_path / "cut", Replies(GOOD, finish="length"), attempts=1)
    with pytest.raises(structured.ReplyError, match="not today"):
        ask(tmp_path / "check", Replies(GOOD), attempts=1, check=lambda reply: "not today")
