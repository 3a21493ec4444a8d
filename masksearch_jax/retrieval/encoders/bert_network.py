"""The BERT encoder network (Devlin et al. 2019) in Flax NNX: token ids in, one unit vector per row out.

Axes: B batch, T time, D embed, N heads, H head_dim, F ff, V vocab, P positions. Layers are not stacked: on the CPU a
scan copies each layer's weights before it multiplies by them, which takes 4 to 8 % of a passage's time. Products have
the dtype of the weights, float32 or bfloat16; sums, norms and softmax are float32. Enters: a checkpoint's config.json
and tensors. Left out: training, dropout, the pooler and the heads; other families (RoBERTa and its descendants number
positions differently).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from masksearch_jax.retrieval.encoders import bert_checks
from masksearch_jax.runtime.json_files import read_json_object


@dataclasses.dataclass(frozen=True)
class BertConfig:
    vocab_size: int
    positions: int
    token_types: int
    layers: int
    embed: int
    heads: int
    ff: int
    norm_eps: float

    @classmethod
    def read(cls, path: Path | str) -> "BertConfig":
        """Return the sizes in a published config.json; raise ValueError for what this network does not compute."""
        config = read_json_object(path, "copy the checkpoint again")
        expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for name, value in expected.items():
            if config.get(name, value) != value:
                raise ValueError(f"{path}: {name} is {config[name]!r}, this encoder computes {value!r} only")
        bert_checks.check_config(config, path)
        return cls(
            vocab_size=config["vocab_size"],
            positions=config["max_position_embeddings"],
            token_types=config["type_vocab_size"],
            layers=config["num_hidden_layers"],
            embed=config["hidden_size"],
            heads=config["num_attention_heads"],
            ff=config["intermediate_size"],
            norm_eps=config["layer_norm_eps"],
        )


def _param(*shape: int, dtype: Any = jnp.float32) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, dtype))


def _norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps) * scale + bias


def _matmul(a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """Return the product, float32, of `a` and `b` rounded to `dtype`.

    Float32 operands are multiplied as float32 on a TPU too, where the default rounds them to bfloat16.
    """
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    return jnp.matmul(a.astype(dtype), b.astype(dtype), precision=precision, preferred_element_type=jnp.float32)


def _gelu(x: jax.Array) -> jax.Array:
    # As PyTorch computes it; jax.nn.gelu goes through erfc, which takes 2.6 times as long on a CPU.
    return x * (0.5 + 0.5 * jax.lax.erf(x * np.float32(np.sqrt(0.5))))


class Layer(nnx.Module):
    """One layer, norms after the residual. Names are short for those of the checkpoint; qkv is query, key, value."""

    def __init__(self, c: BertConfig, dtype: Any):
        self.config = c
        self.qkv, self.qkv_bias = _param(c.embed, 3 * c.embed, dtype=dtype), _param(3 * c.embed)
        self.out, self.out_bias = _param(c.embed, c.embed, dtype=dtype), _param(c.embed)
        self.attention_norm, self.attention_norm_bias = _param(c.embed), _param(c.embed)
        self.up, self.up_bias = _param(c.embed, c.ff, dtype=dtype), _param(c.ff)
        self.down, self.down_bias = _param(c.ff, c.embed, dtype=dtype), _param(c.embed)
        self.output_norm, self.output_norm_bias = _param(c.embed), _param(c.embed)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Return float32 [B, T, D] for x of that shape; mask bool [B, 1, 1, T] is true for the tokens that count."""
        c, dtype = self.config, self.qkv[...].dtype
        batch, time, _ = x.shape

        def dense(x: jax.Array, name: str) -> jax.Array:
            return _matmul(x, getattr(self, name)[...], dtype) + getattr(self, name + "_bias")[...]

        def norm(x: jax.Array, name: str) -> jax.Array:
            return _norm(x, getattr(self, name)[...], getattr(self, name + "_bias")[...], c.norm_eps)

        split = dense(x, "qkv").reshape(batch, time, 3, c.heads, -1)
        # Three of [B, N, T, H]: plain batched products are 2.5 times as fast on CPU.
        query, key, value = split.transpose(2, 0, 3, 1, 4)
        scores = _matmul(query / np.sqrt(query.shape[-1], dtype=np.float32), key.swapaxes(-1, -2), dtype)
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
        mixed = _matmul(weights, value, dtype).transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(x + dense(mixed, "out"), "attention_norm")
        return norm(x + dense(_gelu(dense(x, "up")), "down"), "output_norm")


class Bert(nnx.Module):
    """Embeddings, layers and pooling."""

    def __init__(self, c: BertConfig, dtype: Any):
        self.config = c
        self.words = _param(c.vocab_size, c.embed, dtype=dtype)
        self.places = _param(c.positions, c.embed)
        self.types = _param(c.token_types, c.embed)
        self.embedding_norm, self.embedding_norm_bias = _param(c.embed), _param(c.embed)
        self.layers = nnx.List([Layer(c, dtype) for _ in range(c.layers)])

    def __call__(self, ids: jax.Array, lengths: jax.Array, pooling: str) -> jax.Array:
        """Return unit vectors float32 [B, D] for ids int32 [B, T].

        lengths: int32 [B], how many ids of each row count; the rest is padding. pooling: 'mean' over the tokens, or
        'cls', the first one.
        """
        c = self.config
        real = jnp.arange(ids.shape[1]) < lengths[:, None]  # [B, T]
        x = self.words[...][ids] + self.places[: ids.shape[1]] + self.types[0]
        x = _norm(x, self.embedding_norm[...], self.embedding_norm_bias[...], c.norm_eps)
        for layer in self.layers:
            x = layer(x, real[:, None, None])
        if pooling == "cls":
            pooled = x[:, 0]
        else:
            pooled = (x * real[..., None]).sum(1) / lengths[:, None].clip(1)
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True).clip(1e-12)


# Our name -> the checkpoint's names, concatenated. A dense layer's 'weight' is stored [out, in] and read transposed.
_EMBEDDINGS = {
    "words": "embeddings.word_embeddings.weight",
    "places": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
    "embedding_norm": "embeddings.LayerNorm.weight",
    "embedding_norm_bias": "embeddings.LayerNorm.bias",
}
_DENSE = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
}
_NORMS = {"attention_norm": ("attention.output.LayerNorm",), "output_norm": ("output.LayerNorm",)}


def from_tensors(
    config: BertConfig, tensors: dict[str, np.ndarray], dtype: str = "float32", path: Path = Path("the checkpoint")
) -> tuple[Any, Any]:
    """Return (graph, params), as `nnx.split` does, of the network with the tensors of a checkpoint, on no device yet.

    dtype: of the dense weights and the word table, and so of the products. path: the tensors' file, for messages.
    Raises ValueError that names a missing tensor, one of another shape, or one that has no place in the network.
    """
    tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    graph, params = nnx.split(nnx.eval_shape(lambda: Bert(config, jnp.dtype(dtype))))
    abstract = nnx.to_pure_dict(params)
    read = set()

    def get(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"{path} has no tensor {name!r}; is it a BERT encoder?")
        if tensors[name].shape != shape:
            raise ValueError(f"{path}: tensor {name!r} is {tensors[name].shape}, config.json says {shape}")
        read.add(name)
        return tensors[name]

    def side_by_side(names: list[str], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *ins, out = leaf.shape
        parts = [get(name, (out // len(names), *ins)).T for name in names]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1)).astype(leaf.dtype)

    values = {ours: get(name, abstract[ours].shape).astype(abstract[ours].dtype) for ours, name in _EMBEDDINGS.items()}
    values["layers"] = {
        layer: {
            ours + suffix: side_by_side([f"encoder.layer.{layer}.{name}.{part}" for name in theirs], of[ours + suffix])
            for ours, theirs in (_DENSE | _NORMS).items()
            for suffix, part in (("", "weight"), ("_bias", "bias"))
        }
        for layer, of in abstract["layers"].items()
    }
    bert_checks.check_tensors(tensors, read, path)
    nnx.replace_by_pure_dict(params, values)
    return graph, params
