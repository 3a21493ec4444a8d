"""A checkpoint as the language model, against a plain loop over the whole forward pass."""

import dataclasses
import json
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_published

from configs import prepare
from masksearch_jax.llm import checkpoint_model, reply_text
from masksearch_jax.llm.chat_types import AccessError, Message, RequestError, Sampling, TransientError
from masksearch_jax.llm.checkpoint_model import LocalModel
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import export
from masksearch_jax.rollout.engine import RolloutConfig
from masksearch_jax.rollout.episode import Ending, EpisodeLimits
from masksearch_jax.rollout.request import Request
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.text import chat_template, published_tokenizer
from masksearch_jax.workflows import llm_connection

ASKED = [Message("system", "Answer."), *(Message("user", text) for text in ("Karn was born in", "x", "?"))]
TOTAL = 128


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tiny_published.qwen(tmp_path_factory.mktemp("local") / "hf")
    tokenizer = published_tokenizer.PublishedTokenizer(folder)
    cfg = ModelConfig(
        vocab_size=tokenizer.vocab_size, layers=1, embed=32, heads=2, kv_heads=2, head_dim=16, ff=32, mlp="swiglu",
        qkv_bias=True, tie_embeddings=False, smear_keys=False, rope_fraction=1.0,
    )  # fmt: skip
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    params = transformer.init_params(cfg, 0, mesh)
    rollout = RolloutConfig(
        slots=4, limits=EpisodeLimits(1, 16, 64, TOTAL), prompt_rows=2, prompt_lengths=(64, TOTAL), extend_rows=(4,),
        extend_tokens=(8,),
    )  # fmt: skip
    model = LocalModel("tiny@0", rollout, cfg, params, tokenizer, mesh, "auto", 0.7)
    yield model, cfg, params, tokenizer, folder
    model.close()


def by_hand(cfg, params, tokenizer, ids, count):
    @jax.jit
    def hidden_of(row, length):
        places = jnp.arange(row.shape[1])[None]
        return transformer.forward(cfg, params, row, places, (places < length).astype(jnp.int32))

    ids, written = list(ids), []
    for _ in range(count):
        row = np.zeros((1, TOTAL), np.int32)
        row[0, : len(ids)] = ids
        logits = np.asarray(hidden_of(row, len(ids))[0, len(ids) - 1] @ params["unembedding"])
        written.append(int(logits.argmax()))
        ids.append(written[-1])
        if written[-1] in tokenizer.end_ids:
            break
    return written


def test_a_greedy_reply_is_what_the_forward_pass_says(made):
    model, cfg, params, tokenizer, _ = made
    reply = model.complete(ASKED, Sampling(max_tokens=6), 300)
    expected = by_hand(cfg, params, tokenizer, model.prompt(ASKED), 6)
    assert reply.usage.prompt_tokens == len(model.prompt(ASKED)) and reply.usage.completion_tokens == len(expected)
    ended = expected[-1] in tokenizer.end_ids
    assert reply.text == tokenizer.decode(expected[: len(expected) - ended]).strip()
    assert reply.finish == ("stop" if ended else "length")


def test_the_prompt_is_the_chat_template(made):
    model, _, _, tokenizer, _ = made
    control = "<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\nKarn was born in\n\nx\n\n?<|im_end|>\n"
    assert model.prompt(ASKED) == tokenizer.encode_control(control + "<|im_start|>assistant\n")


def test_samples_repeat_by_seed_whoever_else_asks(made):
    model = made[0]
    alone = {seed: model.complete(ASKED, Sampling(0.7, 12, seed), 300).text for seed in range(4)}
    assert len(set(alone.values())) > 1
    found = {}

    def ask(seed):
        found[seed] = model.complete(ASKED, Sampling(0.7, 12, seed), 300).text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_what_cannot_be_asked_is_refused_and_a_late_reply_is_transient(made):
    model = made[0]
    with pytest.raises(RequestError, match="llm.total_tokens=128"):
        model.complete([Message("user", "word " * 200)], Sampling(), 300)
    with pytest.raises(AccessError, match="samples at 0 or 0.7"):  # every request has it
        model.complete(ASKED, Sampling(temperature=0.3), 300)
    with pytest.raises(TransientError, match="within 0.0 s"):
        model.complete(ASKED, Sampling(max_tokens=16, seed=99), 0.0)


def test_a_published_folder_opens_as_a_policy(made, tmp_path):
    _, cfg, params, _, folder = made
    export.save_pretrained(tmp_path / "model", cfg, params)
    export.copy_companions(folder, tmp_path / "model")
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    name, policy, read, _ = llm_connection.opened(tmp_path / "model", mesh, "llm.model", "auto")
    assert name.startswith(str(tmp_path / "model")) and policy.config.layers == cfg.layers
    jax.tree.map(np.testing.assert_array_equal, read, params)
    policy.decode_copy()(read)


@pytest.mark.slow
def test_a_published_folder_is_opened_by_its_settings(made, tmp_path):
    model, cfg, params, _, folder = made
    export.save_pretrained(tmp_path / "model", cfg, params)
    export.copy_companions(folder, tmp_path / "model")
    settings = prepare.llm()
    settings.update({"model": str(tmp_path / "model"), "chat": "auto", "total_tokens": TOTAL, "max_tokens": 6})
    settings.update({"concurrency": 2})
    client = llm_connection.connect(settings, tmp_path / "cache.sqlite")
    reply = client.complete(ASKED, llm_connection.sampling(settings))
    assert reply.text == model.complete(ASKED, Sampling(max_tokens=6), 300).text
    assert client.stats["requests"] == 1 and str(tmp_path / "model") in client.model
    # Replies of another prompt are another model's in the cache.
    client.close()
    settings.chat_variables = ("enable_thinking=False",)
    other = llm_connection.connect(settings, tmp_path / "cache.sqlite")
    assert other.model != client.model and other.model.startswith(client.model)
    other.complete(ASKED, llm_connection.sampling(settings))
    assert other.stats["requests"] == 1 and other.stats["cache_hits"] == 0
    other.close()


def test_a_stage_of_ours_is_opened_by_its_settings(made, tmp_path):
    _, cfg, params, tokenizer, folder = made
    shutil.copytree(folder, tmp_path / "data" / "tokenizer")
    checkpoints = Checkpointer(tmp_path / "sft" / "checkpoints", background=False)
    checkpoints.save(7, {"params": params}, {}, {})
    checkpoints.close()
    (tmp_path / "sft" / "config.json").write_text(json.dumps({"model": dataclasses.asdict(cfg)}))
    settings = prepare.llm()
    settings.update({"model": str(tmp_path / "sft"), "total_tokens": TOTAL, "max_tokens": 6, "concurrency": 1})
    client = llm_connection.connect(settings, tmp_path / "cache.sqlite")
    reply = client.complete(ASKED, llm_connection.sampling(settings))
    # A base model reads plain text.
    ids = chat_template.open_chat_template(tokenizer, "").encode(tokenizer, "Answer.\n\nKarn was born in\n\nx\n\n?")
    written = by_hand(cfg, params, tokenizer, ids, 6)
    assert reply.text == tokenizer.decode([i for i in written if i not in tokenizer.end_ids]).strip()
    assert client.model.endswith("sft@7") and reply.usage.prompt_tokens == len(ids)
    client.close()


def test_a_thought_that_the_template_opens_is_part_of_the_reply(tmp_path):
    """So that whoever reads the reply finds where the thought ends."""
    tok = published_tokenizer.PublishedTokenizer(tiny_published.reasoner(tmp_path / "r1"))
    template = chat_template.open_chat_template(tok, "auto")
    asked = checkpoint_model._Prompt("x", template.encode(tok, "Who?"), 50)
    reply = checkpoint_model._Reply(Request(asked, 0, 0, (0,)), len(asked.prompt), TOTAL, tok)
    reply.end_turn(tok.encode('so</think>{"name": "Oslo"}'), Ending.LIMIT)
    assert reply.turns[0].text == '<think>\nso</think>{"name": "Oslo"}'
    assert reply_text.read_value(reply.turns[0].text, json.JSONDecoder()) == {"name": "Oslo"}


def test_prompts_of_many_system_messages(made):
    model, _, _, tokenizer, _ = made
    for number in range(200):
        (system, user) = (Message("system", f"Be {number}."), Message("user", " x "))
        asked = f"<|im_start|>system\nBe {number}.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
        assert model.prompt([system, user]) == tokenizer.encode_control(asked)
    assert len(model._templates) <= checkpoint_model._MOST_TEMPLATES


def test_template_variables_decide_replies_where_they_are_given():
    settings = prepare.llm()
    assert "chat_variables" not in llm_connection.deciding(settings)
    settings.chat_variables = ("enable_thinking=False",)
    assert llm_connection.deciding(settings)["chat_variables"] == ["enable_thinking=False"]
