"""Hard masks: of the spans that the rules find in a passage, those that a checkpoint of ours is most perplexed by
(paper, section 2.1, masks chosen by perplexity).

In: passages on their way to the span finder, a trained stage or a published checkpoint. Out: a finder for
prep.pipeline, and its `ahead`, which scores passages in batches before the finder sees them. A span's perplexity is
that of its tokens, each given everything to its left in the unmasked passage. An entry builds this and passes it in,
for prep imports no model.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from masksearch_jax import language_model, sharding
from masksearch_jax.model import logprobs, transformer
from masksearch_jax.text.interface import Tokenizer

_BATCH = 32  # passages scored together
_LENGTHS = (64, 128, 256, 512, 1024)  # token lengths of the programs; what is longer is scored as far as the last

# Token ids of passages -> -log p of each token, float32, 0 for the first, which nothing precedes.
Scorer = Callable[[Sequence[Sequence[int]]], list[np.ndarray]]


class HardSpans:
    """`stats` counts since it was made: passages, spans (found by the rules), kept, unaligned (passages whose tokens do
    not spell their text: all of their spans are kept)."""

    def __init__(self, rules: Callable[..., list[Any]], score: Scorer, tokenizer: Tokenizer, share: float):
        """rules: a prep.spans.SpanFinder. share: of the spans of a passage that are kept, rounded up, hardest first."""
        if not 0 < share <= 1:
            raise ValueError(f"hard.share={share}: a share above 0 and up to 1 is needed")
        self._rules, self._score, self._tokenizer, self._share = rules, score, tokenizer, share
        self._ready: dict[str, tuple[np.ndarray, np.ndarray] | None] = {}
        self.stats: collections.Counter[str] = collections.Counter()

    def ahead(self, found: Iterable[Any], text_of: Callable[[Any], str]) -> Iterator[Any]:
        """Yields the items in order, each once its passage is scored."""
        found = iter(found)
        while batch := list(itertools.islice(found, _BATCH)):
            texts = [text_of(item) for item in batch]
            self._ready = dict(zip(texts, self._scored(texts), strict=True))
            yield from batch

    def __call__(self, text: str, *about: Any) -> list[Any]:
        """Returns the hardest spans of a passage in their order in it; about: what the rules take beside the text."""
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
        """For each text (where each token ends, in bytes of ' ' + text; -log p of each), None if it is not aligned."""
        ids = self._tokenizer.encode_batch([" " + text for text in texts])
        pieces = [[self._tokenizer.token_bytes[i] for i in one] for one in ids]
        scored = []
        for text, one, surprise in zip(texts, pieces, self._score(ids), strict=True):
            aligned = b"".join(one) == f" {text}".encode()
            scored.append((np.cumsum([len(piece) for piece in one]), surprise) if aligned else None)
        return scored


def _perplexity(text: str, span: Any, ends: np.ndarray, surprise: np.ndarray) -> float:
    """exp of the mean -log p of the tokens that a span touches; of those beyond what was scored, 0."""
    start, end = (1 + len(text[:place].encode()) for place in (span.start, span.end))
    first, last = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, end, "left"))
    touched = surprise[first : last + 1]
    return math.exp(float(touched.mean())) if len(touched) else 0.0


def of_checkpoint(folder: Path | str) -> tuple[Scorer, Tokenizer]:
    """Opens a trained stage (runs/dapo/sft) or a published checkpoint. Raises FileNotFoundError that says what to name.
    """
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    _, cfg, params, tokenizer = language_model.opened(folder, mesh, "hard.start")

    @jax.jit
    def forward(params, ids, segments):
        positions = jax.numpy.broadcast_to(jax.numpy.arange(ids.shape[1]), ids.shape)
        hidden = transformer.forward(cfg, params, ids, positions, segments)
        return logprobs.token_logprobs(cfg, params, hidden[:, :-1], ids[:, 1:])[0]

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
