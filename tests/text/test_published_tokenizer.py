"""Tokenizers of published checkpoints: ids and texts of the library itself, bytes of every token, roles, refusals."""

import json
import pickle
import random

import pytest
import tiny_published
import tokenizers

from masksearch_jax.text import published_tokenizer, tags, tokenizer
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

TEXTS = [
    *tiny_published.TEXTS[:4],
    "  two  spaces\t\n\n x",
    "1984 12345 ½ ²; don't DON'T",
    "日本語 🎈 São\r\n",
    "",
    " ",
]
CONTROL = {"qwen": "<|im_end|>", "llama": "<|eot_id|>", "gemma": "<end_of_turn>"}


@pytest.fixture(scope="module", params=tiny_published.MAKERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return tiny_published.MAKERS[kind](tmp_path_factory.mktemp(kind) / "checkpoint")


@pytest.fixture(scope="module")
def tok(folder):
    return PublishedTokenizer(folder)


def test_ids_are_those_of_the_library(folder, tok):
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert tok.prefix_ids + tok.encode(text) == theirs.encode(text).ids
        assert tok.encode_control(text) == tok.encode(text)
        assert tok.decode(tok.encode(text)) == text
    assert tok.encode_batch(TEXTS) == [tok.encode(text) for text in TEXTS]
    assert tok.vocab_size == theirs.get_vocab_size()
    assert [tok.token(i) for i in range(tok.vocab_size)] == [theirs.id_to_token(i) for i in range(tok.vocab_size)]


def test_a_long_text_has_the_ids_of_the_library(kind, folder, tok):
    """Long texts take the library's call for batches, which leaves the interpreter to other threads."""
    text = " ".join([*TEXTS, CONTROL[kind]] * 60)
    assert len(text) > published_tokenizer._LONG
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    assert tok.encode(text) == tok._tokenizer.encode(text, add_special_tokens=False).ids
    assert tok.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_a_text_is_the_bytes_of_its_tokens(folder, tok):
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(tok.token_bytes) == tok.vocab_size
    rng, whole = random.Random(0), 0
    for _ in range(2000):
        ids = [rng.randrange(tok.vocab_size) for _ in range(rng.randint(1, 5))]
        data = b"".join(tok.token_bytes[i] for i in ids)
        assert tok.decode(ids) == data.decode("utf-8", "replace")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue  # where a text is none, libraries write different stand-ins
        whole += 1
        assert tok.decode(ids) == text == theirs.decode(ids, skip_special_tokens=False)
    assert whole > 300


def test_half_a_character_loses_nothing(tok):
    text = " 日本 🎈<answer> São</answer>"
    ids = tok.encode(text)
    assert b"".join(tok.token_bytes[i] for i in ids) == text.encode()
    cuts = [tok.decode(ids[:n]) + tok.decode(ids[n:]) for n in range(len(ids))]
    assert any("\ufffd" in cut for cut in cuts)  # some token does hold a part
    assert tok.decode([*ids, tok.vocab_size + 3]) == text  # a row of a padded embedding


def test_no_control_token_comes_of_data(kind, tok):
    name = CONTROL[kind]
    control = {i for i in range(tok.vocab_size) if tok.token(i) in tok.control}
    text = f"<search> the {name} of it</search>"
    ids = tok.encode(text)
    assert tok.decode(ids) == text and not control & set(ids) - {tok.id("<unk>") if kind == "gemma" else -1}
    assert tok.id(name) in tok.encode_control(text)


def test_roles(kind, folder, tok):
    named = {
        "qwen": ([], "<|im_end|>", "<|endoftext|>", {"<|im_end|>", "<|endoftext|>"}),
        "llama": (["<|begin_of_text|>"], "<|eot_id|>", "<|eot_id|>", {"<|eot_id|>", "<|end_of_text|>"}),
        "gemma": (["<bos>"], "<eos>", "<pad>", {"<eos>", "<end_of_turn>"}),
    }[kind]
    prefix, eos, pad, ends = named
    assert [tok.token(i) for i in tok.prefix_ids] == prefix
    assert (tok.token(tok.eos_id), tok.token(tok.pad_id)) == (eos, pad)
    assert {tok.token(i) for i in tok.end_ids} == ends
    with pytest.raises(KeyError, match="no token"):
        tok.id("nowhere")
    assert pickle.loads(pickle.dumps(tok)).encode(TEXTS[0]) == tok.encode(TEXTS[0])


def test_tags_are_many_tokens_but_for_qwen3s_own(tmp_path):
    tok = PublishedTokenizer(tiny_published.qwen(tmp_path / "thinking"))
    assert [len(tok.encode(tag)) for tag in tags.THINK] == [1, 1]
    assert all(len(tok.encode(tag)) > 1 for tag in (*tags.SEARCH, *tags.ANSWER))
    assert tok.id("<think>") in tok.encode("so <think>x") and "<think>" not in tok.control
    plain = PublishedTokenizer(tiny_published.qwen(tmp_path / "plain", thinking=False))
    assert all(len(plain.encode(tag)) > 1 for tag in tags.THINK)


def test_fingerprint_covers_all_that_decides(kind, folder, tok, tmp_path):
    copied = published_tokenizer.copy(folder, tmp_path / "tokenizer")
    assert copied.fingerprint == tok.fingerprint
    assert tokenizer.load(tmp_path).fingerprint == tok.fingerprint  # a data directory holds it there
    ends = tmp_path / "tokenizer" / "generation_config.json"
    ends.write_text("{}")
    fewer = PublishedTokenizer(copied.path)
    turn_end = tok.id(CONTROL[kind])  # needs no naming
    assert set(fewer.end_ids) == {tok.eos_id, turn_end} and fewer.fingerprint != tok.fingerprint
    file = tmp_path / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    assert PublishedTokenizer(copied.path).fingerprint != fewer.fingerprint


def test_a_template_of_another_file_is_copied(tmp_path):
    folder = tiny_published.qwen(tmp_path / "checkpoint")
    other = tmp_path / "other.jinja"
    other.write_text("{{ messages[-1].content }} <|im_end|>")
    copied = published_tokenizer.copy(folder, tmp_path / "copy", str(other))
    assert (tmp_path / "copy" / "chat_template.jinja").read_text() == other.read_text()
    assert copied.chat_template.text == other.read_text()


def test_tokens_that_only_look_like_bytes():
    assert published_tokenizer._byte_fallback("<0xE2>") == b"\xe2"
    assert published_tokenizer._byte_fallback("<0xZZ>") == b"<0xZZ>"


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json does not exist"):
        PublishedTokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="masksearch_jax.prepare"):
        tokenizer.load(tmp_path)
    folder = tiny_published.qwen(tmp_path / "checkpoint")
    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    ends, settings = folder / "generation_config.json", json.loads(file.read_text())

    def refused(path, text, reason):
        before, _ = path.read_text(), path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            PublishedTokenizer(folder)
        path.write_text(before)

    refused(file, "{}", "is no tokenizer.json")
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    refused(file, json.dumps(settings | {"decoder": decoder}), "has the decoder .*WordPiece")
    refused(file, json.dumps(settings | {"normalizer": {"type": "Lowercase"}}), "comes back as")
    refused(config, "{}", "eos_token=None")
    refused(config, json.dumps({"eos_token": "</s>"}), "eos_token='</s>', which is no token")
    refused(ends, json.dumps({"eos_token_id": 9999}), "lacks \\[9999\\]")
    added = tokenizers.Tokenizer.from_file(str(file))
    added.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", added.token_to_id("<|im_end|>"))]
    )
    refused(file, added.to_str(), "appends tokens")


def test_equals_transformers(folder, tok):
    """Runs where transformers is installed; it is no dependency."""
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(folder))
    for text in TEXTS:
        assert tok.prefix_ids + tok.encode(text) == theirs(text)["input_ids"]
    assert (tok.eos_id, len(theirs)) == (theirs.eos_token_id, tok.vocab_size)
