"""The API over a tiny random policy: against plain forward passes, through openai's client, and what is refused."""

import asyncio
import concurrent.futures
import json
import math
import socket
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import openai
import policy_server
import pytest

from masksearch_jax.model import transformer
from masksearch_jax.serving.engine import ServingEngine
from masksearch_jax.text import chat_template

ASKED = [{"role": "user", "content": "Karn was born in"}]
TOTAL = 128


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    cfg, params, tokenizer = policy_server.tiny_policy(tmp_path_factory.mktemp("policy"))
    engine = policy_server.engine_of(cfg, params, tokenizer, total_tokens=TOTAL)
    with policy_server.serving(policy_server.served(engine, tokenizer)) as url:
        yield url, cfg, params, tokenizer, engine
    engine.close()


@pytest.fixture(scope="module")
def client(made):
    return openai.OpenAI(base_url=f"{made[0]}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def logprobs_of(made):
    """ids -> float32 [n, V], the log-probs after each token by one forward pass."""
    _, cfg, params, _, _ = made

    @jax.jit
    def after(row, length):
        places = jnp.arange(TOTAL)[None]
        hidden = transformer.forward(cfg, params, row, places, (places < length).astype(jnp.int32))
        return jax.nn.log_softmax(transformer.unembed(cfg, params, hidden)[0])

    def found(ids):
        row = np.zeros((1, TOTAL), np.int32)
        row[0, : len(ids)] = ids
        return np.asarray(after(row, len(ids)))[: len(ids)]

    return found


def greedy(logprobs_of, tokenizer, prompt, count):
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(int(logprobs_of(ids)[-1].argmax()))
        if ids[-1] in tokenizer.end_ids:
            break
    return ids[len(prompt) :]


def text_of(tokenizer, ids):
    return tokenizer.decode([id for id in ids if id not in tokenizer.end_ids])


def wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == client.models.retrieve("folder/tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="model='other' is not served here; 'tiny' is"):
        client.models.retrieve("other")


def test_a_greedy_chat_is_what_the_forward_pass_says(made, client, logprobs_of):
    tokenizer = made[3]
    prompt = chat_template.encode_conversation(tokenizer, [("user", ASKED[0]["content"])])
    expected = greedy(logprobs_of, tokenizer, prompt, 10)
    reply = client.chat.completions.create(
        model="tiny", messages=ASKED, temperature=0, max_tokens=10, logprobs=True, top_logprobs=2
    )
    choice = reply.choices[0]
    ended = expected[-1] in tokenizer.end_ids
    assert choice.message.content == text_of(tokenizer, expected)
    assert choice.finish_reason == ("stop" if ended else "length") and choice.message.role == "assistant"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(prompt), len(expected))
    table = logprobs_of([*prompt, *expected])[len(prompt) - 1 :]
    for said, id, row in zip(choice.logprobs.content, expected, table, strict=False):
        best = np.argsort(-row)[:2]
        assert math.isclose(said.logprob, row[id], abs_tol=1e-4) and bytes(said.bytes) == tokenizer.token_bytes[id]
        np.testing.assert_allclose([one.logprob for one in said.top_logprobs], row[best], atol=1e-4)


def test_a_stream_says_the_same_as_a_whole_reply(made, client):
    asked = {"model": "tiny", "messages": ASKED, "temperature": 0.8, "seed": 3, "max_tokens": 24, "n": 3}
    whole = client.chat.completions.create(**asked, logprobs=True)
    texts, tokens, finish, usage = [""] * 3, [[], [], []], [None] * 3, None
    for chunk in client.chat.completions.create(
        **asked, logprobs=True, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for one in chunk.choices:
            texts[one.index] += one.delta.content or ""
            tokens[one.index] += [said.token for said in one.logprobs.content]
            finish[one.index] = one.finish_reason or finish[one.index]
    assert texts == [one.message.content for one in whole.choices] and len(set(texts)) > 1
    assert tokens == [[said.token for said in one.logprobs.content] for one in whole.choices]
    assert finish == [one.finish_reason for one in whole.choices] and usage == whole.usage


def test_a_seed_repeats_whoever_else_asks(client):
    def write(seed):
        asked = {"model": "tiny", "prompt": "Karn", "temperature": 1, "top_p": 0.9, "seed": seed, "max_tokens": 16}
        reply = client.completions.create(**asked)
        return reply.choices[0].text

    alone = [write(seed) for seed in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(write, range(6))) == alone
    assert len(set(alone)) > 1


def test_prompt_logprobs_as_lm_evaluation_harness_asks_for_them(made, logprobs_of):
    """Its local-completions send token ids with echo, and read token_logprobs and top_logprobs of the context on."""
    url, _, _, tokenizer, _ = made
    prompts = [tokenizer.encode(text) for text in ("the river city", "born in 1984, São", "a")]
    body = {"prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    status, reply = policy_server.ask(f"{url}/v1/completions", body)
    assert status == 200 and [one["index"] for one in reply["choices"]] == [0, 1, 2]
    for ids, choice in zip(prompts, reply["choices"], strict=True):
        said, table = choice["logprobs"], logprobs_of(ids)
        assert len(said["tokens"]) == len(said["token_logprobs"]) == len(said["top_logprobs"]) == len(ids) + 1
        assert said["token_logprobs"][0] is None and said["top_logprobs"][0] is None
        expected = [table[n, id] for n, id in enumerate(ids[1:])]
        np.testing.assert_allclose(said["token_logprobs"][1:-1], expected, atol=1e-4)
        best = [max(top.values()) for top in said["top_logprobs"][1:]]
        np.testing.assert_allclose(best, table.max(axis=-1), atol=1e-4)
        assert choice["text"].startswith(tokenizer.decode(ids))
        whole = "".join(said["tokens"])
        assert [whole[at:].startswith(token) for at, token in zip(said["text_offset"], said["tokens"], strict=True)]
    status, scored = policy_server.ask(f"{url}/v1/completions", body | {"max_tokens": 0})
    assert status == 200 and scored["choices"][0]["text"] == tokenizer.decode(prompts[0])
    assert scored["choices"][0]["logprobs"]["tokens"] == reply["choices"][0]["logprobs"]["tokens"][:-1]
    assert scored["usage"] == {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": 0,
                               "total_tokens": sum(map(len, prompts))}  # fmt: skip
    status, echoed = policy_server.ask(f"{url}/v1/completions", {"prompt": prompts[0], "echo": True, "max_tokens": 0})
    assert status == 200 and echoed["choices"][0]["text"] == tokenizer.decode(prompts[0])


def test_a_stop_string_ends_a_reply_before_it(made, client, logprobs_of):
    tokenizer = made[3]
    prompt = tokenizer.encode("the river city")
    whole = text_of(tokenizer, greedy(logprobs_of, tokenizer, prompt, 20))
    stop = whole[4:6]
    reply = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=20, stop=[stop])
    assert reply.choices[0].text == whole[: whole.find(stop)] and reply.choices[0].finish_reason == "stop"


def test_what_cannot_be_asked_is_refused(made, client):
    url = made[0]
    with pytest.raises(openai.BadRequestError, match="prompt and reply have 128 tokens here") as refused:
        client.completions.create(model="tiny", prompt="word " * 300)
    assert refused.value.code == "context_length_exceeded" and refused.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="is the id of none"):
        client.completions.create(model="tiny", prompt=[10**6])
    with pytest.raises(openai.NotFoundError, match="model='gpt' is not served"):
        client.chat.completions.create(model="gpt", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="temperature=-1"):
        client.chat.completions.create(model="tiny", messages=ASKED, temperature=-1)
    assert policy_server.ask(f"{url}/v1/completions", b"{")[0] == 400
    assert policy_server.ask(f"{url}/v1/completions", b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert policy_server.ask(f"{url}/v1/models", Host="stranger.example")[0] == 403
    status, said = policy_server.ask(f"{url}/v2/models")
    assert status == 404 and "POST /v1/chat/completions" in said["error"]["message"]
    assert policy_server.ask(f"{url}/v1/models", {})[0] == 405


def test_a_client_that_goes_away_frees_its_slot(made):
    url, _, _, _, engine = made
    host, port = url.removeprefix("http://").split(":")
    for stream in (True, False):
        body = json.dumps({"prompt": "Karn", "max_tokens": 120, "n": 8, "stream": stream, "logit_bias": {}}).encode()
        began = engine.stats["tokens"]
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            wait_until(lambda before=began: engine.stats["tokens"] > before)
        wait_until(lambda: not engine.busy and not engine.waiting)
        assert engine.stats["tokens"] - began < 8 * 120  # it did not write to the end


def test_a_long_text_is_tokenised_beside_other_requests(made, client, monkeypatch):
    """The tokenizer waits until another request was answered; on the loop of the server that would never come."""
    url, _, _, tokenizer, _ = made
    encode, answered = tokenizer.encode, threading.Event()

    def slow(text):
        assert not text.startswith("slow") or answered.wait(60)
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", slow)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        body = {"prompt": "slow", "max_tokens": 1}
        waiting = pool.submit(policy_server.ask, f"{url}/v1/completions", body)
        assert [model.id for model in client.models.list()] == ["tiny"]
        answered.set()
        assert waiting.result()[0] == 200


def test_fifty_clients_at_once(made):
    url = made[0]

    async def ask_all():
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)

        async def one(number):
            asked = {"model": "tiny", "prompt": f"Karn {number % 7}", "max_tokens": 8, "temperature": 0}
            reply = await client.completions.create(**asked)
            return number % 7, reply.choices[0].text

        return await asyncio.gather(*map(one, range(50)))

    found = asyncio.run(ask_all())
    assert len(set(found)) == 7  # equal prompts got equal replies


def test_a_full_server_says_to_come_back(made, monkeypatch):
    monkeypatch.setattr(ServingEngine, "waiting", 64)
    status, said = policy_server.ask(f"{made[0]}/v1/completions", {"prompt": "Karn", "max_tokens": 4})
    assert status == 503 and said["error"]["type"] == "server_error"


def test_more_replies_than_may_wait_are_refused_at_once(made):
    status, said = policy_server.ask(f"{made[0]}/v1/completions", {"prompt": ["Karn", "river"], "n": 33})
    assert status == 400 and said["error"]["message"] == "n: 66 replies in one request; this server takes up to 64"


def test_equal_prompts_of_a_request_are_drawn_apart(made):
    body = {"prompt": ["Karn", "Karn"], "temperature": 1, "seed": 3, "max_tokens": 16}
    status, reply = policy_server.ask(f"{made[0]}/v1/completions", body)
    assert status == 200 and len({one["text"] for one in reply["choices"]}) == 2


def test_offsets_of_a_stream_are_those_of_a_whole_reply(made, client):
    asked = {"model": "tiny", "prompt": "Karn in São", "temperature": 1, "seed": 5, "max_tokens": 16, "logprobs": 0}
    whole = client.completions.create(**asked, echo=True).choices[0].logprobs.text_offset
    chunks = client.completions.create(**asked, echo=True, stream=True, stop=["never written"])
    assert [at for chunk in chunks for at in chunk.choices[0].logprobs.text_offset] == whole


def test_an_engine_that_fails_says_so_and_goes_on(made, monkeypatch):
    url, _, _, _, engine = made

    def fail(*_):
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_run_decode", fail)
        patch.setattr(engine._programs, "new_cache", fail)  # no room for another cache either
        for _ in range(2):
            status, said = policy_server.ask(f"{url}/v1/completions", {"prompt": "Karn", "max_tokens": 4})
            assert status == 500 and "RuntimeError" in said["error"]["message"]
    assert policy_server.ask(f"{url}/v1/completions", {"prompt": "Karn", "max_tokens": 4})[0] == 200
    wait_until(lambda: policy_server.ask(f"{url}/health")[1]["busy"] == 0)
