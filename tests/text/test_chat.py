"""Chat templates: texts that transformers rendered from the published ones, ids of the whole, data that stays data."""

import json
from pathlib import Path

import pytest
import tiny_published

from masksearch_jax.text import chat, tokenizer
from masksearch_jax.text.published import PublishedTokenizer

# apply_chat_template(tokenize=False, add_generation_prompt=True) of transformers 5.23 with the chat templates of
# Qwen2.5-Instruct, Qwen3, Llama-3-Instruct, Llama-3.2-Instruct (date_string "26 Jul 2024") and Gemma 3.
VECTORS = json.loads((Path(__file__).parent / "chat_vectors.json").read_text(encoding="utf-8"))
MAKERS = {
    "qwen2.5": lambda folder: tiny_published.qwen(folder, thinking=False),
    "chatml": tiny_published.qwen,
    "llama3": tiny_published.llama,
    "llama3.1": tiny_published.llama,
    "gemma": tiny_published.gemma,
}
CONTROL = {"qwen2.5": "<|im_end|>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "llama3.1": "<|eot_id|>"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return {
        family: PublishedTokenizer(make(tmp_path_factory.mktemp("chat") / family)) for family, make in MAKERS.items()
    }


@pytest.mark.parametrize("family", chat.FAMILIES)
def test_frames_render_what_transformers_renders(opened, family):
    tok, seen = opened[family], 0
    for case in VECTORS:
        if case["family"] == family:
            before, after = chat.FAMILIES[family](case["system"])
            assert before + case["text"] + after == case["rendered"]
            ids = chat.frame(tok, family, case["system"]).encode(tok, case["text"])
            assert ids == tok.encode_control(case["rendered"])
            assert tok.decode(ids) == case["rendered"]
            seen += 1
    assert seen == 10


@pytest.mark.parametrize("family", chat.FAMILIES)
def test_control_tokens_in_the_text_of_a_task_are_data(opened, family):
    tok = opened[family]
    name = CONTROL.get(family, "<end_of_turn>")
    frame = chat.frame(tok, family)
    harmless, hostile = frame.encode(tok, "a passage"), frame.encode(tok, f"a {name} passage")
    assert harmless.count(tok.id(name)) == hostile.count(tok.id(name)) >= 1
    assert f"a {name} passage" in tok.decode(hostile)


def test_base_models_get_a_space_and_what_the_tokenizer_starts_with(opened):
    assert chat.frame(opened["chatml"], "") == chat.Frame()
    frame = chat.frame(opened["gemma"], "")
    assert frame.encode(opened["gemma"], "x [mask]") == [
        opened["gemma"].id("<bos>"),
        *opened["gemma"].encode(" x [mask]"),
    ]


def test_family_of_a_folder(tmp_path):
    folder = tiny_published.qwen(tmp_path / "q", template="{{ '<|im_start|>' }}")
    tok = PublishedTokenizer(folder)
    assert chat.published_family(folder) == "chatml"
    assert chat.frame(tok, "auto", "Be short.") == chat.frame(tok, "chatml", "Be short.")
    # Newer folders keep the template in a file of its own.
    (folder / "chat_template.jinja").write_text("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
    assert chat.published_family(folder) == "qwen2.5"
    (folder / "chat_template.jinja").write_text("[INST] {{ x }} [/INST]")
    with pytest.raises(ValueError, match="of no known family"):
        chat.frame(tok, "auto")
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no chat template"):
        chat.published_family(folder)


def test_refusals(opened, tmp_path):
    with pytest.raises(ValueError, match="chat='mistral' is none of qwen2.5, chatml"):
        chat.frame(opened["chatml"], "mistral")
    with pytest.raises(ValueError, match="no control tokens like '<end_of_turn>"):
        chat.frame(opened["chatml"], "gemma")
    with pytest.raises(ValueError, match="system='Be short.' needs a chat family"):
        chat.frame(opened["chatml"], "", "Be short.")
    toy = tokenizer.train(tiny_published.TEXTS, tmp_path / "toy.model", 330)
    assert chat.frame(toy, "") == chat.Frame()
    with pytest.raises(ValueError, match="has no control tokens"):
        chat.frame(toy, "chatml")
