"""Rollouts with the tokenizer of a published model: a tag is many tokens, the last of which may go on past it."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_published

from masksearch_jax.model import transformer
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

# As in conftest.py, by pieces: after '<answer' the closing tag follows, after '<search' another one.
SEARCHES = {
    "*": {"<search": 1.0},
    "<search": {">": 1.0},
    ">": {"Ġcity": 1.0},
    "Ġcity": {"Ġcity": 0.3, "</": 0.7},
    "</": {"search": 0.6, "answ": 0.4},
    "answ": {"er": 1.0},
    "er": {">Ċ": 0.4, "><": 0.3, ">": 0.3},
    "search": {">Ċ": 0.4, "><": 0.3, ">": 0.3},
}


@pytest.fixture(scope="module")
def published(world, tmp_path_factory):
    tok = PublishedTokenizer(tiny_published.qwen(tmp_path_factory.mktemp("rollout") / "checkpoint"))
    size = tok.vocab_size + 6  # the embedding of a checkpoint is padded
    cfg = dataclasses.replace(world.model_cfg, vocab_size=size, embed=size)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    return dataclasses.replace(world, tokenizer=tok, model_cfg=cfg, base=transformer.init_params(cfg, 0, mesh))


def test_turns_end_with_the_token_that_completes_a_tag(published):
    tok = published.tokenizer
    limits = {"turns": 3, "turn_tokens": 24, "observation_tokens": 60, "total_tokens": 300}
    engine = published.engine(limits=limits, prompt_lengths=(80,), steps=3)
    found = engine.run(published.params(SEARCHES), published.requests(8, samples=3), version=0, seed=0)
    ends, kinds = set(), set()
    for t in found:
        at = t.prompt_length
        for turn in t.turns:
            ids = t.ids[turn.start : turn.end].tolist()
            before, data = (b"".join(tok.token_bytes[i] for i in part) for part in (ids[:-1], ids))
            closed = [b"</search>" in text or b"</answer>" in text for text in (before, data)]
            assert closed == [False, len(ids) < limits["turn_tokens"] or closed[1]]
            assert turn.start == at and turn.text == data.decode() and t.trainable[turn.start : turn.end].all()
            at = turn.end + len(tok.encode(turn.observation))
            assert t.ids[turn.end : at].tolist() == tok.encode(turn.observation)
            ends.add(tok.token(ids[-1]))
            kinds.add(turn.action)
            if turn.action == "search":
                assert set(turn.query.split()) == {"city"}
        assert at == len(t.ids)
    assert {">Ċ", "><", ">"} <= ends and {"search", "invalid"} <= kinds
    assert {t.stop for t in found} <= {StopReason.TURNS, StopReason.TURN_TOKENS}


def test_any_end_token_ends_the_episode(published):
    for end in published.tokenizer.end_ids:
        rows = {"*": {"<search": 1.0}, "<search": {published.tokenizer.token(end): 1.0}}
        (t,) = published.engine(limits={"total_tokens": 200}).run(
            published.params(rows), published.requests(1), version=0, seed=0, greedy=True
        )
        assert t.stop == StopReason.EOS and t.ids[-1] == end and np.count_nonzero(t.trainable) == 2


def test_a_model_with_fewer_rows_than_ids_is_refused(published):
    small = dataclasses.replace(published.model_cfg, vocab_size=published.tokenizer.vocab_size - 1)
    with pytest.raises(ValueError, match="train a model for this tokenizer"):
        dataclasses.replace(published, model_cfg=small).engine()
