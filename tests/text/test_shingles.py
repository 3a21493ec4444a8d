"""Shingles: the same in every process, and a share that counts the shorter text."""

import numpy as np

from masksearch_jax.text import shingles

TEXT = "Karn Velith was born in the river city of Tolmar in 1208 ."


def test_words_are_folded_and_characters_of_chinese_and_japanese_stand_alone():
    assert shingles.words("Élan VITAL_2, 日本の ß") == ["elan", "vital", "2", "日", "本", "の", "ss"]


def test_hashes_never_change():
    """They are stored in index folders."""
    assert shingles.word_hash("karn") == 0x3EACFB37E986055F
    assert [hex(one) for one in shingles.shingles_in_order(shingles.word_hashes("karn velith"), 2)] == [
        "0x885f67fe0481dc90"
    ]


def test_a_short_text_is_one_shingle_and_an_empty_one_none():
    assert len(shingles.shingles_of("")) == 0 and len(shingles.shingles_of("Karn Velith")) == 1
    count = len(shingles.words(TEXT))
    assert len(shingles.shingles_in_order(shingles.word_hashes(TEXT))) == count - shingles.SHINGLE_WORDS + 1
    order = shingles.shingles_in_order(shingles.word_hashes("a b a b a b"), 2)
    assert order[0] == order[2] == order[4] != order[1] and len(shingles.shingles_of("a b a b a b", 2)) == 2


def test_share_is_of_the_shorter_text():
    whole, part, other = (shingles.shingles_of(text) for text in (TEXT, TEXT.rpartition(" in ")[0], "x y z u v w"))
    assert shingles.share(whole, part) == shingles.share(part, whole) == 1.0
    assert shingles.share(whole, other) == 0.0 and shingles.share(whole, np.zeros(0, np.uint64)) == 0.0
