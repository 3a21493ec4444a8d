"""Perplexity-ranked spans: the rules' spans with the highest perplexity under a checkpoint (paper, section 2.1).

Enters: passages on their way to the span finder, and a trained stage or a published checkpoint.
Leaves: a finder for prep/preparation.py, and its `ahead`, which scores passages in batches before the finder sees them.
The perplexity of a span is that of its tokens, each given all tokens to its left in the unmasked passage. The workflow
builds the finder and passes it in, since prep imports no model.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import jax
import numpy as np

from masksearch_jax.model import logprobs
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.workflows import llm_connection

Item = TypeVar("Item")
_BATCH = 32  # passages scored together
_LENGTHS = (64, 128, 256, 512, 1024)  # token lengths of the programs; a longer passage is scored up to the last

# Token ids of passages -> -log p of each token, float32. The first token, which has no context, gets 0.
Scorer = Callable[[Sequence[Sequence[int]]], list[np.ndarray]]


class Found(Protocol):
    """A span of a passage: the part of prep's candidates.Span that is read here."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class PerplexitySpans:
    """A span finder that keeps a share of the rules' spans, those with the highest perplexity.

    `stats` counts passages, spans (found by the rules), kept, and unaligned (passages whose tokens do not spell their
    text; all of their spans are kept).
    """

    def __init__(self, rules: Callable[..., Sequence[Found]], score: Scorer, tokenizer: Tokenizer, share: float):
        """rules: a `candidates.SpanFinder`. share: the share of a passage's spans to keep, rounded up."""
        if not 0 < share <= 1:
            raise ValueError(f"perplexity.share={share}: a share above 0 and up to 1 is needed")
        self._rules, self._score, self._tokenizer, self._share = rules, score, tokenizer, share
        self._ready: dict[str, tuple[np.ndarray, np.ndarray] | None] = {}
        self.stats: collections.Counter[str] = collections.Counter()

    def ahead(self, found: Iterable[Item], text_of: Callable[[Item], str]) -> Iterator[Item]:
        """Yield the items in order, each after its passage was scored."""
        found = iter(found)
        while batch := list(itertools.islice(found, _BATCH)):
            texts = [text_of(item) for item in batch]
            self._ready = dict(zip(texts, self._scored(texts), strict=True))
            yield from batch

    def __call__(self, text: str, *about: object) -> Sequence[Found]:
        """Return the kept spans of a passage, in text order. about: what the rules take besides the text."""
        spans = self._rules(text, *about)
        scored = self._ready[text] if text in self._ready else self._scored([text])[0]
        self.stats.update(passages=1, spans=len(spans), unaligned=int(scored is None))
        if scored is not None and spans:
            ends, surprise = scored
            by_hardness = sorted(spans, key=lambda span: -_perplexity(text, span, ends, surprise))
            kept = by_hardness[: math.ceil(self._share * len(spans))]
            spans = [span for span in spans if span in kept]
        self.stats.update(kept=len(spans))
        return spans

    def _scored(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """Return for each text (end of each token, in bytes of ' ' + text; -log p of each), or None if unaligned."""
        ids = self._tokenizer.encode_batch([" " + text for text in texts])
        spelled = [[self._tokenizer.token_bytes[i] for i in one] for one in ids]
        scored = []
        for text, one, surprise in zip(texts, spelled, self._score(ids), strict=True):
            aligned = b"".join(one) == f" {text}".encode()
            scored.append((np.cumsum([len(token) for token in one]), surprise) if aligned else None)
        return scored


def _perplexity(text: str, span: Found, ends: np.ndarray, surprise: np.ndarray) -> float:
    """Return exp of the mean -log p of the tokens that a span touches; 0 for a span beyond the scored tokens."""
    start, end = (1 + len(text[:place].encode()) for place in (span.start, span.end))
    first, last = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, end, "left"))
    touched = surprise[first : last + 1]
    return math.exp(float(touched.mean())) if len(touched) else 0.0


def of_checkpoint(folder: Path | str) -> tuple[Scorer, Tokenizer]:
    """Return the scorer and the tokenizer of a trained stage (runs/dapo/sft) or a published checkpoint.

    Raises FileNotFoundError that says what to name.
    """
    mesh = mesh_lib.make_mesh(data=1, devices=jax.devices()[:1])
    _, policy, params, tokenizer = llm_connection.opened(folder, mesh, "perplexity.start")

    @jax.jit
    def forward(params, ids, segments):
        positions = jax.numpy.broadcast_to(jax.numpy.arange(ids.shape[1]), ids.shape)
        hidden = policy.forward(params, ids, positions, segments)
        return logprobs.token_logprobs(policy.config, params, hidden[:, :-1], ids[:, 1:])[0]

    def score(rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        longest = max(map(len, rows), default=1)
        length = next((size for size in _LENGTHS if size >= longest), _LENGTHS[-1])
        ids, segments = np.zeros((2, _BATCH, length), np.int32)
        for place, row in enumerate(rows):
            cut = row[:length]
            ids[place, : len(cut)], segments[place, : len(cut)] = cut, 1
        with jax.set_mesh(mesh):
            found = -np.asarray(forward(params, ids, segments))
        return [np.concatenate([[0.0], found[place, : min(len(row), length) - 1]]) for place, row in enumerate(rows)]

    return score, tokenizer
