import dataclasses
import json
from typing import Literal

import chat_server
import pytest
from fuzzing import assert_grows_like_n_log_n

from masksearch_jax.llm import structured
from masksearch_jax.llm.chat_types import Completion, Message, Sampling, Usage
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.llm.endpoint import Endpoint


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


GREEDY = Sampling()
GOOD = '{"verdict": "yes", "sure": true, "count": 1, "items": [{"text": "x", "kind": "a"}]}'


ANALYSIS = "<|channel|>analysis<|message|>I think {hm}.<|end|><|start|>assistant"
AROUND = {
    "nothing": GOOD,
    "blank space": f"  {GOOD}\n",
    "a byte-order mark": f"\ufeff{GOOD}",
    "a fence": f"```json\n{GOOD}\n```",
    "a fence of no language": f"```\n{GOOD}```",
    "a fence in capitals": f"```JSON\n{GOOD}\n```",
    "a fence on one line": f"``` Json {GOOD} ```",
    "a fence of four": f"````json\n{GOOD}\n````",
    "a fence that is not closed": f"```json\n{GOOD}",
    "a preface": f"Here it is:\n\n```json\n{GOOD}\n```",
    "a preface and an afterword": f"Here it is:\n```json\n{GOOD}\n```\nI hope {{this}} helps.",
    "another block before": f"First:\n```python\nprint({{1: 2}})\n```\nThen:\n```json\n{GOOD}\n```",
    "an afterword": f"```json\n{GOOD}\n``` Done.",
    "a thought": f"<think>{{hm}}</think>\n\n{GOOD}",
    "a thought without its beginning": f"I think so.\n</think>\n{GOOD}",
    "a thought of braces without its beginning": f"{{hm}} so </think>{GOOD}",
    "two thoughts": f"<think>a</think>\n<think>b</think>{GOOD}",
    "two thoughts with prose between": f"<think>a</think> wait <think>b</think>{GOOD}",
    "two thoughts with a draft between": f'<think>a</think>{{"verdict": 1}}<think>b</think>{GOOD}',
    "a thought in a thought": f"<think>a<think>b</think>c</think>{GOOD}",
    "a thought and a fence": f"<think>```json\n{{}}\n```</think>So:\n```json\n{GOOD}\n```",
    "a thought, as Mistral marks it": f"[THINK]hm[/THINK]{GOOD}",
    "<|im_end|>": f"{GOOD}<|im_end|>",
    "<|eot_id|>": f"{GOOD}<|eot_id|>\n",
    "</s>": f"{GOOD} </s>",
    "two tokens of an end": f"```json\n{GOOD}\n```<|im_end|>\n<|endoftext|>\n",
    "harmony channels": f"{ANALYSIS}<|channel|>final<|message|>{GOOD}<|return|>",
    "a constrained final channel": f"{ANALYSIS}<|channel|>final <|constrain|>JSON<|message|>{GOOD}<|end|>",
    "the final channel alone": f"<|start|>assistant<|channel|>final<|message|>```json\n{GOOD}\n```",
    "channels without their tokens": f"analysisWe need {{hm}}.assistantfinal{GOOD}",
    "all at once": f"\ufeff {ANALYSIS}<|channel|>final<|message|><think>a</think>So:\n```JSON\n{GOOD}\n```\n<|return|>",
}


@pytest.mark.parametrize("text", AROUND.values(), ids=AROUND)
def test_one_object_is_read_whatever_stands_around_it(text):
    assert structured.parse(text, Reply) == Reply("yes", True, 1, [Item("x", "a")])


def test_a_server_and_a_checkpoint_give_the_same(tmp_path):
    pytest.importorskip("openai")
    texts = list(AROUND.values())
    with chat_server.ChatServer(lambda messages: texts[int(messages[0]["content"])]) as server:
        endpoint = Endpoint(server.url, "tiny")
        client = Client(endpoint, ClientSettings(), tmp_path / "cache")
        for number, text in enumerate(texts):
            asked = [Message("user", str(number))]
            found = structured.ask(client, asked, Reply, GREEDY, attempts=1)
            assert found == structured.parse(text, Reply)
            assert client.complete(asked, GREEDY).text == text  # kept whole: nothing is paid for twice
        client.close()


@pytest.mark.parametrize("value", ["</think>", "<think>", "```", "<|im_end|>", "<|channel|>final<|message|>", "a</s>"])
def test_a_string_of_the_object_is_left_as_it_is(value):
    @dataclasses.dataclass(frozen=True)
    class Said:
        text: str

    for around in ("{}", "```json\n{}\n```", "<think>hm</think>{}<|im_end|>"):
        assert structured.parse(around.format(json.dumps({"text": value})), Said).text == value


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "not one JSON object"),
        ("<think>I will write {GOOD}", "a thought that never ends"),
        (f"<think>a</think><think>b {GOOD}", "a thought that never ends"),
        (f"{GOOD}<think>so</think>", "not one JSON object"),
        ("<|channel|>analysis<|message|>hm<|end|>", "no final channel"),
        (f"```json\n{GOOD}\n```\nor\n```json\n{GOOD}\n```", "2 fenced values"),
        (f"```json\n{GOOD} {GOOD}\n```", "not one JSON object: Extra data"),
        (f"```json\n{GOOD.replace('1,', '1, 1')}\n```", "not one JSON object"),
        (f"{GOOD}<|im_end|>{GOOD}", "not one JSON object"),
        ("```json\n{x\n```\n" * 60, "more than 50 fenced blocks"),
        (GOOD.replace("1", "1" * 5000), "not one JSON object|digits"),
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
        self.texts, self.asked, self.finish, self.seeds = list(texts), [], finish, []

    def complete(self, messages, sampling, timeout_s):
        self.asked.append(messages)
        self.seeds.append(sampling.seed)
        return Completion(self.texts.pop(0), Usage(1, 1), self.finish)

    def close(self):
        pass


def ask(tmp_path, backend, sampling=GREEDY, **other):
    client = Client(backend, ClientSettings(), tmp_path / "cache")
    return structured.ask(client, [Message("user", "go")], Reply, sampling, **other)


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


def test_each_attempt_of_a_sampled_reply_draws_anew(tmp_path):
    """Two bad replies that are alike make conversations that are alike."""
    sampled = Replies("same", "same", GOOD)
    assert ask(tmp_path, sampled, Sampling(temperature=0.7, seed=5)).count == 1
    assert sampled.seeds == [5, 6, 7]
    greedy = Replies("same", "same", GOOD)
    with pytest.raises(structured.ReplyError):
        ask(tmp_path / "greedy", greedy)
    assert greedy.seeds == [0, 0]  # the third would say the same: it comes from the cache


def test_what_is_wrong_is_told_back_in_a_few_words(tmp_path):
    backend = Replies(GOOD.replace('"yes"', json.dumps("maybe " * 10_000)), GOOD)
    assert ask(tmp_path, backend).count == 1
    assert "it has to be one of" not in backend.asked[1][-1].content and len(backend.asked[1][-1].content) < 4000
