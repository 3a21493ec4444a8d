"""The client against a server that is not ours: `transformers serve` with a tiny random model.

Slow. Runs where TRANSFORMERS_PYTHON names the Python of an environment with transformers[serving]. The same folder is
opened as a local model: greedy replies and token counts of both have to agree.
"""

import contextlib
import os
import socket
import subprocess
import time
import urllib.request

import pytest
import tiny_published

from configs import prepare
from masksearch_jax.agents import trajectory_judge
from masksearch_jax.llm.chat_types import Message, Sampling
from masksearch_jax.llm.structured import ReplyError
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import export
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.text import published_tokenizer
from masksearch_jax.workflows import llm_connection

pytest.importorskip("openai")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("serve")
    tokenizer = published_tokenizer.PublishedTokenizer(tiny_published.qwen(made / "tokenizer", template=TEMPLATE))
    cfg = ModelConfig(
        vocab_size=tokenizer.vocab_size, layers=1, embed=32, heads=2, kv_heads=2, head_dim=16, ff=32, mlp="swiglu",
        qkv_bias=True, tie_embeddings=False, smear_keys=False, rope_fraction=1.0,
    )  # fmt: skip
    export.save_pretrained(made / "model", cfg, transformer.init_params(cfg, 3, mesh_lib.make_mesh(1, 1, 1)))
    export.copy_companions(made / "tokenizer", made / "model")
    return made / "model"


@pytest.fixture(scope="module")
def url(folder):
    python = os.environ.get("TRANSFORMERS_PYTHON")
    if not python:
        pytest.skip("TRANSFORMERS_PYTHON is not set: no transformers serve on this machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "transformers.cli.transformers", "serve", str(folder), "--host=127.0.0.1"]
    command += [f"--port={port}", "--device=cpu", "--dtype=float32"]
    server = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            assert server.poll() is None and time.monotonic() < deadline, "transformers serve does not start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_greedy_replies_and_counts_are_those_of_the_same_folder_opened_here(folder, url, tmp_path):
    settings = prepare.llm()
    settings.update({"model": str(folder), "chat": "auto", "total_tokens": 256, "max_tokens": 8, "concurrency": 2})
    local = llm_connection.connect(settings, tmp_path / "local.sqlite")
    settings.url = url
    remote = llm_connection.connect(settings, tmp_path / "remote.sqlite")
    for text in ("Karn Velith was born in", "the river city", "Who founded it?", "naïve São 日本"):
        asked = [Message("system", "Answer."), Message("user", text)]
        here, there = (client.complete(asked, Sampling(max_tokens=8)) for client in (local, remote))
        assert there.text.strip() == here.text and there.usage == here.usage
        assert remote.complete(asked, Sampling(max_tokens=8)) == there
    assert remote.stats["requests"] == 4 and remote.stats["cache_hits"] == 4 and remote.stats["failures"] == 0
    # A model that writes no JSON ends in the failure that has a name.
    with pytest.raises(ReplyError, match="in 2 attempts"):
        trajectory_judge.by_model(remote, "Born in [mask].", ["Tolm"], [["Tolm"]], Sampling(max_tokens=8), 2)
    local.close()
    remote.close()
