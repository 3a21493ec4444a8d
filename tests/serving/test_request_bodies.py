"""Bodies of requests: what is read from good ones, and which field a refusal names."""

import pytest

from masksearch_jax.serving.request_bodies import RequestError, read_chat, read_completion

ASKED = [{"role": "user", "content": "Who?"}]


def test_the_fields_of_a_chat():
    body = {
        "model": "tiny", "temperature": 0.5, "top_p": 0.9, "n": 2, "seed": 7, "stop": "\n", "stream": True,
        "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 3, "max_completion_tokens": 9,
        "user": "me", "tools": [], "frequency_penalty": 0, "response_format": {"type": "text"},
        "messages": [{"role": "developer", "content": "Be brief."}, *ASKED,
                     {"role": "assistant", "content": [{"type": "text", "text": "It"}]}, *ASKED],
    }  # fmt: skip
    read = read_chat(body)
    assert read.messages == [("system", "Be brief."), ("user", "Who?"), ("assistant", "It"), ("user", "Who?")]
    wishes = read.wishes
    assert (wishes.max_tokens, wishes.temperature, wishes.top_p, wishes.choices) == (9, 0.5, 0.9, 2)
    assert (wishes.seed, wishes.stop, wishes.alternatives, wishes.stream, wishes.usage) == (7, ("\n",), 3, True, True)
    plain = read_chat({"messages": ASKED}).wishes
    assert (plain.max_tokens, plain.temperature, plain.alternatives, plain.choices) == (None, None, None, 1)


def test_the_forms_of_a_prompt():
    def prompts(said):
        return read_completion({"prompt": said}).prompts

    assert prompts("a") == ["a"] and prompts([3, 4]) == [[3, 4]]
    assert prompts(["a", "b"]) == ["a", "b"] and prompts([[3], [4, 5]]) == [[3], [4, 5]]
    assert prompts("\ud800 x") == ["� x"]
    echoed = read_completion({"prompt": [3], "echo": True, "max_tokens": 0, "logprobs": 1})
    assert echoed.echo and echoed.wishes.max_tokens == 0 and echoed.wishes.alternatives == 1
    assert read_completion({"prompt": "a", "logprobs": True}).wishes.alternatives == 0


@pytest.mark.parametrize(
    "change, param, says",
    [
        ({"messages": None}, "messages", "a list of 1 to 256"),
        ({"messages": []}, "messages", "a list of 1 to 256"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "messages\\[0\\]: its role is 'tool'"),
        ({"messages": ["x"]}, "messages", "its role is 'x'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "has to be text"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "x"}]}, "messages", "'assistant'; a user's is"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": True}, "max_tokens", "a whole number"),
        ({"temperature": -1}, "temperature", "from 0 to 100"),
        ({"temperature": float("nan")}, "temperature", "from 0 to 100"),
        ({"top_p": 0}, "top_p", "above 0 and up to 1"),
        ({"n": 65}, "n", "at most 64"),
        ({"seed": "x"}, "seed", "a whole number"),
        ({"temperature": 10**400}, "temperature", "from 0 to 100"),
        ({"stop": [""]}, "stop", "none empty"),
        ({"stream": 1}, "stream", "true or false"),
        ({"stream_options": []}, "stream_options", "include_usage"),
        ({"model": 3}, "model", "a name"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"temprature": 1}, "temprature", "no field"),
    ],
)
def test_a_refusal_names_the_field(change, param, says):
    with pytest.raises(RequestError, match=says) as refused:
        read_chat({"messages": ASKED} | change)
    assert refused.value.param == param and refused.value.status == 400


@pytest.mark.parametrize("prompt", [None, 3, [], [[]], ["a", 3], [[1.5]], [True], {"a": 1}])
def test_a_prompt_of_another_kind_is_refused(prompt):
    with pytest.raises(RequestError, match="prompt") as refused:
        read_completion({"prompt": prompt})
    assert refused.value.param == "prompt"


@pytest.mark.parametrize("body", [None, 3, [], "x"])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(RequestError, match="JSON object"):
        read_chat(body)
