"""A server of a tiny random policy on a thread of the test's process."""

import asyncio
import contextlib
import json
import threading
import urllib.error
import urllib.request

import jax
import tiny_published

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.retrieval.service.http_server import Server, ServerLimits
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.serving import http_api
from masksearch_jax.serving.engine import EngineSettings, ServingEngine
from masksearch_jax.text import chat_template, published_tokenizer

LIMITS = ServerLimits(128, 1 << 20, read_s=10, idle_s=30, idle_per_address=128, slow_per_address=128)


def tiny_policy(folder, seed=0):
    """(ModelConfig, params, tokenizer) of one layer, with the tokenizer and the chat template of Qwen 2.5."""
    tokenizer = published_tokenizer.PublishedTokenizer(tiny_published.qwen(folder / "hf", thinking=False))
    cfg = ModelConfig(
        vocab_size=tokenizer.vocab_size, layers=1, embed=32, heads=2, kv_heads=2, head_dim=16, ff=32, mlp="swiglu",
        qkv_bias=True, tie_embeddings=False, smear_keys=False, rope_fraction=1.0,
    )  # fmt: skip
    return cfg, transformer.init_params(cfg, seed, one_device()), tokenizer


def one_device():
    return mesh_lib.make_mesh(devices=jax.devices()[:1])


def engine_of(cfg, params, tokenizer, slots=4, steps=4, total_tokens=128, pending=64, mesh=None, **given):
    settings = EngineSettings(slots, steps, total_tokens, pending)
    return ServingEngine(settings, cfg, params, tokenizer, mesh or one_device(), **given)


def served(engine, tokenizer, agent=None):
    def prompt(messages):
        return chat_template.encode_conversation(tokenizer, messages)

    return http_api.Served("tiny", "folder/tiny", tokenizer, engine, prompt, agent)


@contextlib.contextmanager
def serving(policy, loopback=True):
    """Yields the URL of a server of an `http_api.Served`."""
    started, found = threading.Event(), {}
    http = Server(http_api.application(policy, loopback), LIMITS)

    async def main():
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        found["port"] = await http.start("127.0.0.1", 0)
        started.set()
        await found["stop"].wait()
        await http.stop(5)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(60)
    try:
        yield f"http://127.0.0.1:{found['port']}"
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(30)
    assert not thread.is_alive()


def ask(url, body=None, **headers):
    """(status, JSON) of a request; with a body it is a POST."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
