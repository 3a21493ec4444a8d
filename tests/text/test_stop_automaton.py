"""Where a turn ends, against a search through the decoded bytes after every token."""

import random
import types

import numpy as np
import pytest
import tiny_published

from masksearch_jax.text import prompt, stop_automaton, tags, tokenizer
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

TURNS = [
    "<think> a </think><search> Karn Velith birthplace</search>\n\n<answer>",
    "</search>x",
    "<answer> 日本</answer>.",
    "< /search></ search></searc</answe</search</answer></search>",
    "<</search></answer>",
    "</</search>>",
    "</a</an</ans</s</se</answer>\n",
    "nothing ends here, not even </information> or </think>",
]


@pytest.fixture(scope="module", params=["sentencepiece", *tiny_published.MAKERS])
def tok(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sentencepiece":
        return tokenizer.train(tiny_published.TEXTS, folder / "t.model", 345)
    return PublishedTokenizer(tiny_published.MAKERS[request.param](folder / "checkpoint"))


def searched(tok, ids):
    """(number of tokens up to the end of the turn, 'stopped' or 'ended'), by looking at the bytes after each token."""
    for count in range(1, len(ids) + 1):
        if ids[count - 1] in tok.end_ids:
            return count, "ended"
        data = b"".join(tok.token_bytes[i] for i in ids[:count])
        if b"</search>" in data or b"</answer>" in data:
            return count, "stopped"
    return len(ids), "going on"


def followed(table, ids):
    state = stop_automaton.START
    for count, id in enumerate(ids, start=1):
        state = table.follow(state, id)
        if state >= table.stopped:
            return count, {table.stopped: "stopped", table.ended: "ended"}[int(state)]
    return len(ids), "going on"


class Speller:
    """Ids that spell a text, each drawn from all tokens that its rest begins with, or that go on past its end."""

    def __init__(self, tok):
        self._tokens = [(i, data) for i, data in enumerate(tok.token_bytes) if data and i not in tok.end_ids]
        self._fits = {}

    def spell(self, text, rng):
        rest, ids = text.encode(), []
        while rest:
            if rest not in self._fits:
                self._fits[rest] = [t for t in self._tokens if rest.startswith(t[1]) or t[1].startswith(rest)]
            id, data = rng.choice(self._fits[rest])
            ids.append(id)
            rest = rest[len(data) :]
        return ids


@pytest.mark.parametrize("kinds, dtype", [(256, np.uint8), (257, np.uint16)])
def test_the_numbers_of_kinds_fit_their_type(kinds, dtype):
    """Tokens that are the beginnings of one long closing tag: each leads the start to another state."""
    closing = "".join(random.Random(0).choices("abcdefgh", k=400)) + "!"
    beginnings = [closing[:n].encode() for n in range(1, kinds)]
    fake = types.SimpleNamespace(token_bytes=[*beginnings, b""], vocab_size=kinds, end_ids=(kinds - 1,), path="fake")
    table = stop_automaton.build_table(fake, closing=[closing])
    assert table.kinds.dtype == dtype and len(table.steps) == kinds
    assert table.follow(stop_automaton.START, np.arange(kinds - 1)).tolist() == list(range(1, kinds))
    assert table.follow(stop_automaton.START, kinds - 1) == table.ended


def test_ids_that_no_permutation_may_move(tmp_path):
    tok = PublishedTokenizer(tiny_published.qwen(tmp_path / "qwen"))
    fixed = stop_automaton.fixed_ids(tok)
    assert list(fixed) == sorted(set(fixed)) and {tok.pad_id, tok.eos_id} <= set(fixed)
    assert all(set(tok.encode(tag)) <= set(fixed) for tag in tags.ALL)


def test_equals_a_search_through_the_bytes(tok):
    table, rng, ends = stop_automaton.build_table(tok), random.Random(0), {"stopped": 0, "ended": 0, "going on": 0}
    past, speller = 0, Speller(tok)
    for number in range(1500):
        ids = speller.spell(rng.choice(TURNS), rng)
        if number % 3 == 0:
            ids.insert(rng.randrange(len(ids)), rng.choice([*tok.end_ids, tok.pad_id, rng.randrange(tok.vocab_size)]))
        expected = searched(tok, ids)
        assert followed(table, ids) == expected, [tok.token(i) for i in ids]
        ends[expected[1]] += 1
        past += expected[1] == "stopped" and not tok.token_bytes[ids[expected[0] - 1]].endswith(b">")
    assert min(ends.values()) > 100
    if tok.path.name == "checkpoint":
        assert past > 30  # tokens that complete a tag and go on were among them


def test_random_tokens(tok):
    """Whole vocabularies, in whatever order: no token is followed wrongly."""
    table, rng = stop_automaton.build_table(tok), np.random.default_rng(0)
    for _ in range(500):
        ids = rng.integers(tok.vocab_size, size=40).tolist()
        assert followed(table, ids) == searched(tok, ids)
    start = [followed(table, [id]) for id in range(tok.vocab_size)]
    assert start == [searched(tok, [id]) for id in range(tok.vocab_size)]


def test_tables_are_small_and_vectors_follow_like_single_tokens(tok):
    table = stop_automaton.build_table(tok)
    # One state for each proper prefix of '</search>' and '</answer>', and the two ends.
    assert table.steps.shape[1] == 15 + 2 and len(table.steps) < 60
    assert table.kinds.shape == (tok.vocab_size,) and table.kinds.dtype == np.uint8
    ids, states = np.array(tok.encode("</sea</search>")), np.zeros(1, int)
    for id in ids:
        states = table.follow(states, np.array([id]))
    assert states.tolist() == [table.stopped]
    everywhere = table.follow(np.arange(table.stopped)[:, None], np.arange(tok.vocab_size)[None])
    assert everywhere.shape == (table.stopped, tok.vocab_size)


def test_an_end_stays_an_end(tok):
    table = stop_automaton.build_table(tok)
    for id in range(tok.vocab_size):
        assert table.follow(table.stopped, id) == table.stopped
        assert table.follow(table.ended, id) == table.ended


def test_ids_beyond_the_vocabulary_change_nothing(tok):
    padded = stop_automaton.build_table(tok, tok.vocab_size + 7)
    assert padded.kinds.shape == (tok.vocab_size + 7,)
    for state in range(padded.stopped):
        assert padded.follow(state, tok.vocab_size + 3) == state
    with pytest.raises(ValueError, match="vocab_size=5: the tokenizer"):
        stop_automaton.build_table(tok, 5)


def test_equal_tables_are_one_static_argument(tok, tmp_path):
    table = stop_automaton.build_table(tok)
    assert table == stop_automaton.build_table(tok) and hash(table) == hash(stop_automaton.build_table(tok))
    assert table != stop_automaton.build_table(tok, tok.vocab_size + 1) and table != stop_automaton.build_table(
        tok, closing=("</search>",)
    )
    assert table != 3


def test_permutations_that_move_an_end_are_told(tok):
    table = stop_automaton.build_table(tok)
    permutation = np.arange(tok.vocab_size)
    words = [i for i, data in enumerate(tok.token_bytes) if data in (b" city", b" the", b" river")]
    permutation[words] = np.roll(words, 1)
    assert len(words) > 1 and table.admits(permutation)
    closing = tok.encode("</search>")[-1]
    permutation[[closing, words[0]]] = permutation[[words[0], closing]]
    assert not table.admits(permutation)


def test_what_a_token_carries_past_the_tag_is_no_part_of_the_action(tok):
    table = stop_automaton.build_table(tok)
    for tail in ("", "\n", "<", "x", "\n\n"):
        ids = tok.encode(f"<think> so</think><search> the city</search>{tail}")
        count, end = followed(table, ids)
        assert end == "stopped"
        action = prompt.parse_stopped_turn(tok.decode(ids[:count]))
        assert action == prompt.Action("search", "the city")
    assert prompt.parse_turn("<search> the city</search><").kind == "invalid"  # not the same rule
    assert prompt.parse_stopped_turn("no tag").kind == "invalid"


def test_the_first_tag_counts():
    assert stop_automaton.closed_at("<answer> a</answer> b</search>") == len("<answer> a</answer>")
    assert stop_automaton.closed_at("a</search></answer>") == len("a</search>")
    assert stop_automaton.closed_at(f"a{tags.THINK[1]}{tags.INFORMATION[1]}") == -1
