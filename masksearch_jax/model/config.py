"""Sizes and options of the decoder: a frozen, hashable dataclass that can be saved and passed to jit as a static value.

Enters: the `model` section of a config, or a published config.json through published/families.py. Leaves: a checked
`ModelConfig`. Left out: the mesh and the sharding rules (runtime/mesh.py), so that one config describes the same model
on any machine.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import cast

import jax.numpy as jnp

from masksearch_jax.runtime.types import Json, Setting

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

    rank, alpha: the same for every adapter. targets: the linear maps, out of LINEAR, that get an adapter; 'gate' is
    ignored where the MLP has no gate. dtype: the dtype in which A and B are stored. base_quantisation: how the frozen
    linear maps are stored (QLoRA, arXiv 2305.14314): '' unchanged, 'int8' with one scale per output channel, 'nf4' with
    one scale per 64 inputs of an output channel.
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
        # Always in the order of LINEAR, so that equal sets of targets make equal configs.
        object.__setattr__(self, "targets", tuple(name for name in LINEAR if name in self.targets))
        for name, allowed in (("dtype", DTYPES), ("base_quantisation", BASE_QUANTISATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"lora.{name} = {getattr(self, name)!r}: choose one of {', '.join(map(repr, allowed))}."
                )


def lora_from_config(section: Mapping[str, Json]) -> LoraConfig | None:
    """Return the LoraConfig of a config's `lora` section (or of a JSON file), or None if its rank is 0.

    Raises ValueError for values that LoraConfig refuses.
    """
    return LoraConfig(**dict(section.items())) if section["rank"] else None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The sizes and options of one decoder-only transformer.

    vocab_size: V, rows of the embedding. layers: L, number of blocks. embed: D, the width of the residual stream.
    heads: N. kv_heads: K, each shared by N / K query heads (GQA). head_dim: H. ff: F, the width of the MLP.
    mlp: 'swiglu' (gate, up, down), 'geglu' (with tanh-approximated GELU, Gemma) or 'relu2' (up, squared ReLU, down).
    rope_base: the base of the rotary angles. rope_fraction: the share of the H dimensions that rotates.
    rope_scaling: 'linear' divides all angles by rope_factor. 'llama3' divides only the angles of pairs that turn fewer
    than rope_low_freq times in rope_original_length tokens, keeps those of pairs that turn more than rope_high_freq
    times, and blends in between.
    rope_factor, rope_low_freq, rope_high_freq, rope_original_length: the numbers of rope_scaling.
    local_layers: indices of the layers whose tokens see only the last `window` tokens, themselves included.
    window: tokens that a local layer sees. local_rope_base: above 0, local layers rotate by this base, unscaled; with 0
    they rotate like the others.
    qkv_bias: biases on q, k, v (Qwen2). qk_norm: RMSNorm on each q and k head (Qwen3, Gemma 3).
    post_norms: RMSNorm also on what attention and MLP add to the residual stream. norm_plus_one: norms scale by 1 + w.
    scale_embeddings: embeddings are multiplied by sqrt(D), rounded to `dtype` first. (Gemma has all three.)
    query_scalar: scores are divided by its square root; 0 stands for head_dim.
    attention_softcap, logit_softcap: c tanh(x / c) on attention scores and on logits; 0 turns it off.
    smear_keys: k_t <- a k_t + (1 - a) k_{t-1} before q/k norm and RoPE, where a is one learnable scalar per layer and
    key-value head.
    token_shift: how many earlier tokens are mixed into each embedding: e_t becomes e_t + sum_j w_j e_{t-j} with
    learnable w_j [D] and j up to token_shift. This is a causal depthwise convolution, like the first of the Canon
    layers of Allen-Zhu 2025. The model then needs no attention to know which tokens precede a token.
    dtype: of activations, caches and the weights in use. param_dtype: of the weights in storage.
    remat: what the backward pass of a layer recomputes: 'none', 'dots' (all but matrix products), 'full' (all).
    attention: the backend for the attention of whole rows in training, see packed_attention.py. Extending a cache and
    decoding always use plain XLA. 'auto' becomes one of the others before a run starts.
    scan_unroll: layers per iteration of the training scan. With 3 instead of 1 the tiny model's step is a fifth faster
    on CPU, for the same compile time. Large models take 1.
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
        # A list from a config or a JSON file becomes a tuple, so that this dataclass is hashable.
        object.__setattr__(self, "local_layers", tuple(sorted(self.local_layers)))
        outside = [layer for layer in self.local_layers if not 0 <= layer < self.layers]
        if outside or (self.local_layers and self.window < 1):
            raise ValueError(
                f"model.local_layers = {self.local_layers} with model.layers = {self.layers} and model.window ="
                f" {self.window}: indices below layers, and a window of at least 1."
            )

    @property
    def merged(self) -> "ModelConfig":
        """The config of the same model with its adapters merged into its weights, as used for sampling and export."""
        return dataclasses.replace(self, lora=None)

    @property
    def rotary_dim(self) -> int:
        """The number of dimensions of a head that rotate: rope_fraction * head_dim, rounded down to an even number."""
        return 2 * int(self.rope_fraction * self.head_dim / 2)

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as a numpy dtype."""
        return jnp.dtype(self.dtype)

    @property
    def score_divisor(self) -> float:
        """The number that q k^T is divided by."""
        return math.sqrt(self.query_scalar or self.head_dim)


def from_config(section: Mapping[str, Json], **override: Setting) -> ModelConfig:
    """Build a `ModelConfig` from a config section (ml_collections ConfigDict or dict).

    override: values that take precedence over the section, such as `vocab_size` read from the tokenizer.
    Raises ValueError for a name that is not a field, TypeError for a missing vocab_size or a wrong type.
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
        elif not isinstance(value, cast(type, wanted)) or (wanted is int and isinstance(value, bool)):
            raise TypeError(
                f"model.{name} = {value!r}: expected {getattr(wanted, '__name__', wanted)}, got {type(value).__name__}."
            )
    return ModelConfig(**values)
