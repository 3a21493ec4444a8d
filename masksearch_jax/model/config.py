"""Sizes and options of the decoder: a frozen, hashable dataclass, safe to save and to pass to jit as a static value.

Enters: a config page's `model` section, or a published config.json through families.py. Leaves: `ModelConfig`, checked.
Left out: the mesh and the sharding rules (sharding.py), so that one config describes the same model on any machine.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

MLPS = ("swiglu", "geglu", "relu2")
ROPE_SCALINGS = ("none", "linear", "llama3")
REMATS = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("xla", "blocked", "splash", "cudnn", "auto")
LINEAR = ("q", "k", "v", "o", "gate", "up", "down")
BASE_QUANTISATIONS = ("", "int8", "nf4")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) beside frozen weights: y = x W + alpha / rank x A B; see model/lora.py.

    rank, alpha: of every adapter. targets: the linear maps that have one, of LINEAR; 'gate' counts only where the MLP
    has one. dtype: of A and B as stored. base_quantisation: how the frozen linear maps are held (QLoRA, arXiv
    2305.14314): '' as they are, 'int8' with a scale an output channel, 'nf4' with a scale for 64 inputs of one.
    """

    rank: int
    alpha: float = 32.0
    targets: tuple = LINEAR
    dtype: str = "float32"
    base_quantisation: str = ""

    def __post_init__(self):
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"lora.rank = {self.rank}, alpha = {self.alpha}: a rank of at least 1, alpha above 0.")
        unknown = sorted(set(self.targets) - set(LINEAR))
        if unknown or not self.targets:
            raise ValueError(f"lora.targets = {tuple(self.targets)}: at least one of {', '.join(LINEAR)}.")
        # In one order, so that equal sets make equal configs.
        object.__setattr__(self, "targets", tuple(name for name in LINEAR if name in self.targets))
        for name, allowed in (("dtype", DTYPES), ("base_quantisation", BASE_QUANTISATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"lora.{name} = {getattr(self, name)!r}: choose one of {', '.join(map(repr, allowed))}."
                )


def lora_from_config(section: Mapping[str, Any]) -> LoraConfig | None:
    """The adapters of a page's `lora` section (or of a JSON file); None where its rank is 0. Raises ValueError."""
    return LoraConfig(**dict(section.items())) if section["rank"] else None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One decoder-only transformer.

    vocab_size: V. layers: L. embed: D, width of the residual stream. heads: N. kv_heads: K, each shared by N / K query
    heads (GQA). head_dim: H. ff: F, width of the MLP.
    mlp: 'swiglu' (gate, up, down), 'geglu' (with tanh-approximated GELU, Gemma) or 'relu2' (up, squared ReLU, down).
    rope_base, rope_fraction: base of the rotary angles, and the share of the H dimensions that rotates.
    rope_scaling: 'linear' divides all angles by rope_factor; 'llama3' only those of pairs that turn fewer than
    rope_low_freq times in rope_original_length tokens, not those above rope_high_freq, and blends in between.
    local_layers: indices of the layers whose tokens see the last `window` tokens only, themselves included. With
    local_rope_base above 0 these layers rotate by that base, unscaled; with 0 they rotate like the others.
    qkv_bias: biases on q, k, v (Qwen2). qk_norm: RMSNorm on each q and k head (Qwen3, Gemma 3).
    post_norms: RMSNorm also on what attention and MLP add to the residual stream. norm_plus_one: norms scale by 1 + w.
    scale_embeddings: embeddings times sqrt(D), rounded to `dtype` first. (All three: Gemma.)
    query_scalar: scores are divided by its square root; 0 stands for head_dim.
    attention_softcap, logit_softcap: c tanh(x / c) on attention scores and on logits; 0 turns it off.
    smear_keys: k_t <- a k_t + (1 - a) k_{t-1} before q/k norm and RoPE, a one learnable scalar per layer and head.
    token_shift: how many earlier tokens each token knows from the start: its embedding e_t becomes e_t + sum_j w_j
    e_{t-j}, w_j [D] learnable, j up to token_shift (a causal depthwise convolution, as of the Canon layers of Allen-Zhu
    2025 the first). What precedes a token then needs no attention to be read off it.
    dtype: of activations, caches and the weights as used. param_dtype: of the weights as stored.
    remat: what the backward pass of a layer recomputes: 'none', 'dots' (all but matrix products), 'full' (all).
    attention: what computes the attention of whole rows in training, see packed_attention.py; appends to a cache and
    decoding are XLA's whatever it says. 'auto' becomes one of the others before a run starts.
    scan_unroll: layers per iteration of the training scan; 3 instead of 1 makes the tiny model's step a fifth faster on
    CPU, for the same compile time. Large models take 1.
    lora: adapters; with them the weights themselves are frozen.
    """

    vocab_size: int
    layers: int = 3
    embed: int = 128
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 64
    ff: int = 256
    mlp: str = "relu2"
    rope_base: float = 1000.0
    rope_fraction: float = 0.5
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_low_freq: float = 1.0
    rope_high_freq: float = 4.0
    rope_original_length: int = 8192
    local_layers: tuple = ()
    window: int = 0
    local_rope_base: float = 0.0
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_plus_one: bool = False
    scale_embeddings: bool = False
    query_scalar: float = 0.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    tie_embeddings: bool = True
    smear_keys: bool = True
    token_shift: int = 0
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: str = "xla"
    scan_unroll: int = 3
    lora: LoraConfig | None = None

    def __post_init__(self):
        for name in ("vocab_size", "layers", "embed", "heads", "kv_heads", "head_dim", "ff", "scan_unroll"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} = {getattr(self, name)}: must be at least 1.")
        for name, allowed in (
            ("mlp", MLPS),
            ("rope_scaling", ROPE_SCALINGS),
            ("remat", REMATS),
            ("attention", ATTENTIONS),
            ("dtype", DTYPES),
            ("param_dtype", DTYPES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"model.{name} = {getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.kv_heads = {self.kv_heads} does not divide model.heads = {self.heads}: each key-value head"
                " serves the same number of query heads."
            )
        if not 0 < self.rope_fraction <= 1:
            raise ValueError(f"model.rope_fraction = {self.rope_fraction}: a share of head_dim in (0, 1].")
        if self.rotary_dim < 2:
            raise ValueError(
                f"model.rope_fraction = {self.rope_fraction} of model.head_dim = {self.head_dim} leaves no pair of"
                " dimensions to rotate; raise either."
            )
        for name in ("token_shift", "window", "local_rope_base", "query_scalar", "attention_softcap", "logit_softcap"):
            if getattr(self, name) < 0:
                raise ValueError(f"model.{name} = {getattr(self, name)}: must not be negative; 0 turns it off.")
        if self.lora and self.lora.base_quantisation and self.remat == "none":
            raise ValueError(
                f"lora.base_quantisation = {self.lora.base_quantisation!r} with model.remat = 'none': the backward pass"
                " would keep every layer's dequantised weights; set model.remat to 'dots' or 'full'."
            )
        if self.rope_factor <= 0 or not 0 < self.rope_low_freq < self.rope_high_freq:
            raise ValueError(
                f"model.rope_factor = {self.rope_factor}, rope_low_freq = {self.rope_low_freq}, rope_high_freq ="
                f" {self.rope_high_freq}: all above 0, and low below high."
            )
        # A list from a page or a JSON file is taken for the tuple that makes the config hashable.
        object.__setattr__(self, "local_layers", tuple(sorted(self.local_layers)))
        outside = [layer for layer in self.local_layers if not 0 <= layer < self.layers]
        if outside or (self.local_layers and self.window < 1):
            raise ValueError(
                f"model.local_layers = {self.local_layers} with model.layers = {self.layers} and model.window ="
                f" {self.window}: indices below layers, and a window of at least 1."
            )

    @property
    def merged(self) -> "ModelConfig":
        """The same model with its adapters added into its weights, as it is sampled from and exported."""
        return dataclasses.replace(self, lora=None)

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that rotate: the even part of rope_fraction * head_dim."""
        return 2 * int(self.rope_fraction * self.head_dim / 2)

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as a numpy dtype."""
        return jnp.dtype(self.dtype)

    @property
    def score_divisor(self) -> float:
        """What q k^T is divided by."""
        return math.sqrt(self.query_scalar or self.head_dim)


def from_config(section: Mapping[str, Any], **override: Any) -> ModelConfig:
    """Builds a `ModelConfig` from a config section (ml_collections ConfigDict or dict).

    override: values that win over the section, such as `vocab_size` read from the tokenizer.
    Raises ValueError for a name that is no field, TypeError for a missing vocab_size or a wrong type.
    """
    values = {**dict(section.items()), **override}
    if isinstance(values.get("lora"), Mapping):  # as a JSON file holds it
        values["lora"] = lora_from_config(values["lora"])
    fields = {f.name: f.type for f in dataclasses.fields(ModelConfig)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"model: unknown setting {', '.join(unknown)}; the settings are {', '.join(fields)}.")
    for name, value in values.items():
        wanted = fields[name]
        if wanted is tuple and isinstance(value, list):
            values[name] = tuple(value)
        elif wanted is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise TypeError(
                f"model.{name} = {value!r}: expected {getattr(wanted, '__name__', wanted)}, got {type(value).__name__}."
            )
    return ModelConfig(**values)
