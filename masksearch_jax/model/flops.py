"""Model FLOPs: the floating-point operations that the model itself needs, however a program computes it.

Enters: how many tokens pass through the layers, how many (query, key) pairs they form, how many logits are needed.
Leaves: FLOPs, two for a multiplication with its addition. Matrix products are counted and nothing else, as in PaLM
(arXiv 2204.02311, appendix B). What a program computes beside that does not count: padding, masked scores, and what
rematerialisation computes twice. The ratio to the peak of the hardware is then the model FLOPs utilisation (MFU).

Per token: 2 for each weight of the linear maps, and 2 for each weight of the adapters. Per pair and layer: 4 N H, half
of it for q k^T and half for the weighted sum of v. Per needed logit row: 2 D V. An embedding lookup is free. The
backward pass costs twice the forward pass, because both factors of a product need a gradient. With adapters (lora.py)
the frozen weights need none, so the backward pass through them costs as much as the forward pass.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from masksearch_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Load:
    """What passes through the model; loads add up.

    tokens: through the layers. pairs: (query, key) pairs of a layer that sees everything before a token, the token
    itself included. local_pairs: the same of a layer with a window. logits: positions whose logits are needed.
    """

    tokens: int = 0
    pairs: int = 0
    local_pairs: int = 0
    logits: int = 0

    def __add__(self, other: "Load") -> "Load":
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Load(*(a + b for a, b in zip(mine, theirs, strict=True)))


def of_sequences(cfg: ModelConfig, lengths: ArrayLike, logits: int, known: ArrayLike = 0) -> Load:
    """Return the load of sequences with `lengths` tokens, of which the first `known` are in a cache already.

    lengths, known: ints of one shape, or one int for all. logits: positions of all sequences whose logits are needed.
    """
    end = np.asarray(lengths, np.int64)
    start = np.broadcast_to(np.asarray(known, np.int64), end.shape)
    pairs = _pairs(end) - _pairs(start)
    local = _pairs(end, cfg.window) - _pairs(start, cfg.window) if cfg.local_layers else np.zeros_like(pairs)
    return Load(int((end - start).sum()), int(pairs.sum()), int(local.sum()), logits)


def of_rows(cfg: ModelConfig, segments: ArrayLike, positions: ArrayLike, logits: int) -> Load:
    """Return the load of packed rows, or of rows that hold trees of sequences.

    segments: ints, 0 for padding. positions: ints of the same shape, how many tokens of its sequence precede a token.
    """
    depths = np.asarray(positions, np.int64)[np.asarray(segments) > 0] + 1
    local = int(np.minimum(depths, cfg.window).sum()) if cfg.local_layers else 0
    return Load(len(depths), int(depths.sum()), local, logits)


def _pairs(length: np.ndarray, window: int = 0) -> np.ndarray:
    """Return how many pairs sequences of `length` tokens form, each token with itself and those before it."""
    within = np.minimum(length, window) if window else length
    return within * (within + 1) // 2 + (length - within) * within


def forward(cfg: ModelConfig, load: Load) -> float:
    """Return the FLOPs of a forward pass."""
    return sum(_products(cfg, load))


def training(cfg: ModelConfig, load: Load) -> float:
    """Return the FLOPs of a forward and a backward pass."""
    weights, adapters, attention, logits = _products(cfg, load)
    frozen = 2 if cfg.lora else 3
    return frozen * (weights + logits) + 3 * (adapters + attention)


def _products(cfg: ModelConfig, load: Load) -> tuple[float, float, float, float]:
    """Return the FLOPs of a forward pass in linear maps, adapters, attention and logits."""
    maps = linear_maps(cfg)
    weights = sum(inputs * outputs for inputs, outputs in maps.values())
    adapters = 0
    if cfg.lora:
        adapters = cfg.lora.rank * sum(sum(sizes) for name, sizes in maps.items() if name in cfg.lora.targets)
    local = len(cfg.local_layers)
    attended = (cfg.layers - local) * load.pairs + local * load.local_pairs
    return (
        2.0 * cfg.layers * weights * load.tokens,
        2.0 * cfg.layers * adapters * load.tokens,
        4.0 * cfg.heads * cfg.head_dim * attended,
        2.0 * cfg.embed * cfg.vocab_size * load.logits,
    )


def linear_maps(cfg: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return {name: (inputs, outputs)} of the linear maps of one layer."""
    d, heads, kv = cfg.embed, cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    maps = {"q": (d, heads), "k": (d, kv), "v": (d, kv), "o": (heads, d), "up": (d, cfg.ff), "down": (cfg.ff, d)}
    return maps if cfg.mlp == "relu2" else maps | {"gate": (d, cfg.ff)}
