"""Groups of exchangeable tokens: what names are made of, never a word that also stands elsewhere."""

import random

import numpy as np
import pytest

from masksearch_jax.data.token_permutation import TokenPermutation
from masksearch_jax.prep.tasks import exchangeable_tokens
from masksearch_jax.text import stop_automaton, tokenizer

FIRST = ["Karv", "Bodr", "Lelz", "Duzm"]
SECOND = ["Velith", "Domouk", "Hazael", "Kipund"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    rng = random.Random(0)
    texts = []
    for _ in range(200):
        name, other = (f"{rng.choice(FIRST)} {rng.choice(SECOND)}" for _ in range(2))
        day, month, year = rng.randrange(1, 29), rng.choice(exchangeable_tokens._MONTHS), rng.randrange(1000, 2000)
        texts.append((f"{name} met {other} on {day} {month} {year}.", (name, other)))
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    return texts, tokenizer.train([t for t, _ in texts], path, vocab_size=700, digit_pairs=True)


def named(texts):
    for text, names in texts:
        yield text, sorted({place for name in names for place in exchangeable_tokens.mentions(text, name)})


def words(tok, group):
    return {tok.token(i).strip("▁") for i in group}


def test_groups(world):
    texts, tok = world
    digits, pairs, months, first, second = exchangeable_tokens.groups(named(texts), tok)
    assert words(tok, digits) == set("0123456789")  # this corpus has single digits after a space only: one form
    assert len(pairs) == 100 and [tok.token(i) for i in pairs[7]] == ["07", "▁07"]
    assert words(tok, months) == set(exchangeable_tokens._MONTHS)
    assert words(tok, first) == set(FIRST) and words(tok, second) == set(SECOND)
    assert all(group == sorted(group) for group in (digits, pairs, months, first, second))


def test_a_piece_seen_in_another_role_is_in_no_group(world):
    texts, tok = world
    more = [("Karv was a word.", ()), ("Velith Bodr came.", ("Velith Bodr",))]
    *_, first, second = exchangeable_tokens.groups(named(texts + more), tok)
    assert words(tok, first) == set(FIRST) - {"Karv", "Bodr"}
    assert words(tok, second) == set(SECOND) - {"Velith"}
    # Part of a longer word is another role too.
    *_, first, _ = exchangeable_tokens.groups(
        named([*texts, ("Lelz-Kipund Velith came.", ("Lelz-Kipund Velith",))]), tok
    )
    assert words(tok, first) == set(FIRST) - {"Lelz"}


def test_parts_are_tokens_of_capitalised_words(tmp_path):
    rng = random.Random(0)
    syllables = ("strand", "berg", "an", "lind", "sea", "er")
    names = [f"{one}{other}".capitalize() for one in syllables for other in syllables]
    adjectives, common, months = ("strange", "kind", "small"), ("farm", "berth", "winter"), ("March", "May")
    texts = [
        f"His {rng.choice(common)} was sold. The {rng.choice(adjectives)} house of {rng.choice(names)} in "
        f"{rng.choice(months)} became that of {rng.choice(names)}."
        for _ in range(300)
    ]
    tok = tokenizer.train(texts, tmp_path / "t.model", vocab_size=600, digit_pairs=True)
    *_, begins, goes_on = exchangeable_tokens.groups([(text, ()) for text in texts], tok, digits=False, parts=True)
    used = {i for name in names for i in tok.encode(f" {name}")}
    assert len(begins) > 3 and len(goes_on) > 3 and set(begins + goes_on) <= used
    assert all(tok.token(i).startswith("▁") for i in begins) and not any(tok.token(i).startswith("▁") for i in goes_on)
    # Turns end where they ended, though 'an' and 'er' are in names and in '</answer>'.
    drawn = TokenPermutation([begins, goes_on], tok.vocab_size).draw(0, 1)
    assert stop_automaton.build_table(tok).admits(drawn) and (drawn != np.arange(tok.vocab_size)).any()
    # Months stay among themselves; what begins sentences or common words is no part of names.
    assert not {"▁March", "▁May", "▁His", "▁The"} & {tok.token(i) for i in begins}
    assert not {tok.encode(f" {word}")[0] for word in (*adjectives, *common)} & set(begins + goes_on)


def test_switches_and_small_groups(world):
    texts, tok = world
    assert len(exchangeable_tokens.groups(named(texts), tok, digits=False)) == 3
    assert len(exchangeable_tokens.groups(named(texts), tok, names=False)) == 3
    assert exchangeable_tokens.groups(named(texts), tok, names=False, digits=False, months=False) == []
    # One name only: its two tokens have nothing to be exchanged with.
    assert len(exchangeable_tokens.groups([("Karv Velith", [(0, 11)])], tok)) == 3


def test_mentions_are_whole_words():
    assert exchangeable_tokens.mentions("Karv Velith, Karv Velithia (Karv Velith)", "Karv Velith") == [
        (0, 11),
        (28, 39),
    ]
