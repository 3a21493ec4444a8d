"""Hard masks: perplexity of spans, by hand, and by a stage of ours against its logits one passage at a time."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.data import records
from masksearch_jax.model import transformer
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.workflows import perplexity_spans, training
from masksearch_jax.workflows.context import RunContext


@dataclasses.dataclass(frozen=True)
class Span:
    start: int
    end: int


class Characters:
    """One token a character: 'é' has two bytes."""

    token_bytes = [chr(i).encode() for i in range(256)]

    def encode_batch(self, texts):
        return [[ord(c) for c in text] for text in texts]


def finder(share, surprise, spans):
    score = lambda rows: [np.array([surprise.get(chr(i), 1.0) for i in row]) for row in rows]  # noqa: E731
    return perplexity_spans.PerplexitySpans(lambda text, *about: list(spans), score, Characters(), share)


def test_the_spans_of_the_highest_perplexity_are_kept_in_order():
    text = "é aa bb cc dd"
    spans = [Span(2, 4), Span(5, 7), Span(8, 10), Span(11, 13)]
    hard = finder(0.5, {"a": 5.0, "b": 2.0, "c": 4.0, "d": 3.0}, spans)
    assert hard(text, "title") == [spans[0], spans[2]]
    assert hard.stats == {"passages": 1, "spans": 4, "kept": 2, "unaligned": 0}
    assert finder(0.3, {"b": 9.0}, spans)(text) == [Span(2, 4), Span(5, 7)]  # 1.2 spans are 2; ties by place
    assert finder(1.0, {}, spans)(text) == spans
    assert finder(0.5, {}, [])(text) == []


def test_a_span_counts_every_token_that_it_touches():
    ends = np.array([3, 6, 9])  # tokens ' ab', 'cde', 'fgh'
    surprise = np.array([1.0, 2.0, 4.0])
    found = perplexity_spans._perplexity("abcdefgh", Span(1, 4), ends, surprise)  # 'bcd'
    assert found == pytest.approx(math.exp(1.5))
    assert perplexity_spans._perplexity("abcdefgh", Span(2, 5), ends, surprise) == pytest.approx(math.exp(2.0))
    assert perplexity_spans._perplexity("abcdefgh", Span(5, 8), ends, surprise[:2]) == 0.0  # beyond what was scored


def test_passages_are_scored_ahead_in_batches_and_in_order(monkeypatch):
    monkeypatch.setattr(perplexity_spans, "_BATCH", 3)
    hard, calls = finder(0.5, {}, [Span(0, 1)]), []
    score = hard._score
    hard._score = lambda rows: calls.append(len(rows)) or score(rows)
    seen = [item for item in hard.ahead([f"text {i}" for i in range(7)], lambda item: item) if hard(item)]
    assert seen == [f"text {i}" for i in range(7)] and calls == [3, 3, 1]


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="perplexity.share"):
        finder(share, {}, [])


def test_a_folder_that_holds_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="perplexity.start"):
        perplexity_spans.of_checkpoint(tmp_path)


@pytest.mark.slow
def test_a_stage_scores_as_its_logits_do(cfg, workdir):
    cfg.stage, cfg.sft.steps = "sft", 2
    cfg.sft.checkpoint_every = cfg.sft.optimizer.total_steps = 2
    training.run(cfg, workdir)
    score, tokenizer = perplexity_spans.of_checkpoint(workdir / "sft")
    assert tokenizer.fingerprint == tokenizer_lib.load(workdir / "data").fingerprint
    texts = [p.text for p in records.read(workdir / "data" / "passages.array_record", records.Passage)][:3]
    texts[1] = f"{texts[1]} {texts[2]} {texts[0]}"
    rows = tokenizer.encode_batch([" " + text for text in texts])
    context = RunContext(cfg, workdir)
    params = context.parameters("sft")
    for row, found in zip(rows, score(rows), strict=True):
        ids = jnp.array([row])
        hidden = transformer.forward(context.policy.config, params, ids, jnp.arange(len(row))[None], jnp.ones_like(ids))
        logits = np.asarray(transformer.unembed(context.policy.config, params, hidden))[0].astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        wanted = [-logp[place, token] for place, token in enumerate(row[1:])]
        assert found[0] == 0.0 and len(found) == len(row)
        np.testing.assert_allclose(found[1:], wanted, atol=1e-4)
