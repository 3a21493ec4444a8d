"""The tokenizer: exact round trips, stable joins at tags, the fixed layout of ids, and its refusals."""

import bz2
import pickle
import random
import re

import pytest
import sentencepiece

from masksearch_jax.text import tags, tokenizer

TEXTS = [f"{first} {second} was born in 1{n}42, near São {first}." for n, (first, second) in enumerate(
    [("Karv", "Velith"), ("Bodr", "Velith"), ("Karv", "Domouk"), ("Lelz", "Domouk")] * 3)]  # fmt: skip


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return tokenizer.train(TEXTS, tmp_path_factory.mktemp("tokenizer") / "t.model", vocab_size=345)


def test_layout(tok):
    assert (tok.pad_id, tok.eos_id, tok.token(2), tok.vocab_size) == (0, 1, "<unk>", 345)
    for tag in tags.ALL:
        assert tok.encode(tag) == [tok.id(tag)]
    with pytest.raises(KeyError, match="no token"):
        tok.id("▁nowhere")


def test_round_trip_and_bytes(tok):
    for text in [*TEXTS, " leading", "two  spaces ", "日本語 🎈 tab\tnewline\n", "", "<search> x</search>"]:
        assert tok.decode(tok.encode(text)) == text
    assert tok.decode([tok.pad_id, *tok.encode(" Karv"), tok.eos_id]) == " Karv"


def test_joins_at_tags_and_spaces(tok):
    for text in TEXTS:
        parts = ["<search>", " " + text, "</search>", "<information>", " " + text, " " + text[::-1], "</information>"]
        assert sum((tok.encode(part) for part in parts), []) == tok.encode("".join(parts))


def test_digits_are_single_and_frequent_words_whole(tok):
    tokens = [tok.token(i) for i in tok.encode(" Karv Velith 1042")]
    assert tokens[-4:] == ["1", "0", "4", "2"]
    assert tokens[:2] == ["▁Karv", "▁Velith"]


def test_deterministic_and_picklable(tok, tmp_path):
    again = tokenizer.train(iter(TEXTS), tmp_path / "again.model", vocab_size=345)
    assert again.fingerprint == tok.fingerprint
    other = tokenizer.train(TEXTS, tmp_path / "other.model", vocab_size=320)
    assert other.fingerprint != tok.fingerprint
    assert pickle.loads(pickle.dumps(tok)).encode(TEXTS[0]) == tok.encode(TEXTS[0])


def test_vocabulary_of_a_small_corpus_is_smaller(tmp_path):
    tok = tokenizer.train(TEXTS, tmp_path / "t.model", vocab_size=5000)
    assert 345 < tok.vocab_size < 600
    assert tok.decode(tok.encode(TEXTS[0])) == TEXTS[0]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="vocab_size=200 leaves no tokens"):
        tokenizer.train(TEXTS, tmp_path / "t.model", vocab_size=200)
    with pytest.raises(ValueError, match="vocab_size=270"):  # no room for the characters
        tokenizer.train(TEXTS, tmp_path / "t.model", vocab_size=270)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="masksearch_jax.prepare"):
        tokenizer.Tokenizer(tmp_path / "t.model")
    (tmp_path / "t.model").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        tokenizer.Tokenizer(tmp_path / "t.model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "other"), vocab_size=80, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="has pad, eos, unk = -1, 2, 0; our models have"):
        tokenizer.Tokenizer(tmp_path / "other.model")


def test_real_text(data_dir, tmp_path):
    with bz2.open(data_dir / "enwiki-shortened.xml.bz2", "rt") as dump:
        lines = [line for line in re.split(r"\n+", dump.read(1 << 20)) if len(line) > 200]
    tok = tokenizer.train(lines, tmp_path / "t.model", vocab_size=2000)
    assert [tok.decode(ids) for ids in tok.encode_batch(lines)] == lines
    assert all(tok.encode(f" {a}{tags.MASK}") == tok.encode(" " + a) + tok.encode(tags.MASK) for a in lines[:200])


def test_a_text_is_the_bytes_of_its_tokens(tok, tmp_path):
    rng = random.Random(0)
    for text in [*TEXTS, "日本語 🎈 tab\tnewline\n", "<search> x</search>"]:
        assert b"".join(tok.token_bytes[i] for i in tok.encode(text)) == text.encode()
    for _ in range(2000):
        ids = [rng.randrange(tok.vocab_size) for _ in range(rng.randint(1, 6))]
        data = b"".join(tok.token_bytes[i] for i in ids)
        if data.decode("utf-8", "ignore").encode() == data:
            assert tok.decode(ids) == data.decode()
    assert (tok.prefix_ids, tok.end_ids) == ([], (tok.eos_id,))


def test_a_data_directory_is_opened_by_what_it_holds(tok, tmp_path):
    (tmp_path / tokenizer.TRAINED).write_bytes(tok.path.read_bytes())
    assert tokenizer.load(tmp_path).fingerprint == tok.fingerprint
