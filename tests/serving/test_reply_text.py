"""The text of a reply: pieces add up, characters come whole, nothing from a stop string on is sent."""

import random

import pytest
import tiny_published

from masksearch_jax.serving.reply_text import ReplyText, Vocabulary
from masksearch_jax.text import published_tokenizer


@pytest.fixture(scope="module", params=["qwen", "gemma"])
def tokenizer(request, tmp_path_factory):
    folder = tiny_published.MAKERS[request.param](tmp_path_factory.mktemp("text") / "hf")
    return published_tokenizer.PublishedTokenizer(folder)


def sent(tokenizer, ids, stop=()):
    reply, pieces, used = ReplyText(Vocabulary(tokenizer), stop), [], 0
    for id in ids:
        pieces.append(reply.add(id))
        used += 1
        if reply.stopped:
            break
    return [*pieces, reply.finish()], used, reply


def test_pieces_add_up_and_no_character_is_cut(tokenizer):
    text = " Karn Velith, 日本 São 🎈 1984 </think> naïve"
    pieces, _, reply = sent(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text == reply.text and "�" not in "".join(pieces)


def test_half_a_character_at_the_end_is_marked(tokenizer):
    ids = tokenizer.encode("a日")[:-1]
    assert "".join(sent(tokenizer, ids)[0]) == tokenizer.decode(ids)


def test_control_tokens_add_nothing(tokenizer):
    ids = tokenizer.encode("ab")
    assert "".join(sent(tokenizer, [*ids, tokenizer.eos_id, *ids, 10**6])[0]) == "abab"


def test_stop_strings_against_brute_force(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("ab\n日") for _ in range(rng.randint(1, 12)))
        stop = tuple("".join(rng.choice("ab\n日") for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 3)))
        ids = tokenizer.encode(text)
        pieces, used, reply = sent(tokenizer, ids, stop)
        # The first token after which a stop string stands in the text ends the reply.
        ends = [n for n in range(1, len(ids) + 1) if any(s in tokenizer.decode(ids[:n]) for s in stop)]
        if not ends:
            assert "".join(pieces) == text and not reply.stopped
            continue
        seen = tokenizer.decode(ids[: ends[0]])
        expected = seen[: min(seen.find(s) for s in stop if s in seen)]
        assert (used, "".join(pieces), reply.stopped) == (ends[0], expected, True), (text, stop)
