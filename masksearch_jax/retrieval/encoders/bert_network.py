"""The BERT encoder network (Devlin et al. 2019) in Flax NNX: token ids in, one unit vector per row out.

Axes: B batch, T time, D embed, N heads, H head_dim, F ff, V vocab, P positions. Layers are not stacked: on the CPU a
scan copies each layer's weights before it multiplies by them, which takes 4 to 8 % of a passage's time. Products have
the dtype of the weights, float32 or bfloat16; sums, norms and softmax are float32. Enters: a checkpoint's config.json
and tensors. Left out: training, dropout, the pooler and the heads; other families (RoBERTa and its descendants number
positions differently).
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

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


def _param(*shape: int, dtype: DTypeLike = jnp.float32) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, dtype))


def _matmul(a: jax.Array, b: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Return the product, float32, of `a` and `b` rounded to `dtype`.

    Float32 operands are multiplied as float32 on a TPU too, where the default rounds them to bfloat16.
    """
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    return jnp.matmul(a.astype(dtype), b.astype(dtype), precision=precision, preferred_element_type=jnp.float32)


def _gelu(x: jax.Array) -> jax.Array:
    # As PyTorch computes it; jax.nn.gelu goes through erfc, which takes 2.6 times as long on a CPU.
    return x * (0.5 + 0.5 * jax.lax.erf(x * np.float32(np.sqrt(0.5))))


class Linear(nnx.Module):
    """x W + b. The product has the dtype of W."""

    def __init__(self, inputs: int, outputs: int, dtype: DTypeLike):
        self.weight, self.bias = _param(inputs, outputs, dtype=dtype), _param(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.weight[...]
        return _matmul(x, weight, weight.dtype) + self.bias[...]


class LayerNorm(nnx.Module):
    """Zero mean and unit variance over the last axis, times scale, plus bias."""

    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.scale, self.bias = _param(width), _param(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]


class Attention(nnx.Module):
    """Attention of every token to all tokens that the mask allows. qkv holds query, key and value side by side."""

    def __init__(self, cfg: BertConfig, dtype: DTypeLike):
        self.cfg, self.dtype = cfg, dtype
        self.qkv = Linear(cfg.embed, 3 * cfg.embed, dtype)
        self.out = Linear(cfg.embed, cfg.embed, dtype)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Return float32 [B, T, D] for x of that shape; mask bool [B, 1, 1, T] is true for the tokens that count."""
        split = self.qkv(x).reshape(*x.shape[:2], 3, self.cfg.heads, -1)
        # Three of [B, N, T, H]: plain batched products are 2.5 times as fast on CPU.
        query, key, value = split.transpose(2, 0, 3, 1, 4)
        scores = _matmul(query / np.sqrt(query.shape[-1], dtype=np.float32), key.swapaxes(-1, -2), self.dtype)
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
        return self.out(_matmul(weights, value, self.dtype).transpose(0, 2, 1, 3).reshape(x.shape))


class Mlp(nnx.Module):
    """The MLP over [B, T, D]."""

    def __init__(self, cfg: BertConfig, dtype: DTypeLike):
        self.up = Linear(cfg.embed, cfg.ff, dtype)
        self.down = Linear(cfg.ff, cfg.embed, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(_gelu(self.up(x)))


class Block(nnx.Module):
    """One layer: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, cfg: BertConfig, dtype: DTypeLike):
        self.attention = Attention(cfg, dtype)
        self.attention_norm = LayerNorm(cfg.embed, cfg.norm_eps)
        self.mlp = Mlp(cfg, dtype)
        self.mlp_norm = LayerNorm(cfg.embed, cfg.norm_eps)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Return float32 [B, T, D]; arguments as `Attention.__call__`."""
        x = self.attention_norm(x + self.attention(x, mask))
        return self.mlp_norm(x + self.mlp(x))


class Bert(nnx.Module):
    """Embeddings, blocks and pooling."""

    def __init__(self, cfg: BertConfig, dtype: DTypeLike):
        self.words = _param(cfg.vocab_size, cfg.embed, dtype=dtype)
        self.places = _param(cfg.positions, cfg.embed)
        self.types = _param(cfg.token_types, cfg.embed)
        self.embedding_norm = LayerNorm(cfg.embed, cfg.norm_eps)
        self.blocks = nnx.List([Block(cfg, dtype) for _ in range(cfg.layers)])

    def __call__(self, ids: jax.Array, lengths: jax.Array, pooling: str) -> jax.Array:
        """Return unit vectors float32 [B, D] for ids int32 [B, T].

        lengths: int32 [B], how many ids of each row count; the rest is padding. pooling: 'mean' over the tokens, or
        'cls', the first one.
        """
        real = jnp.arange(ids.shape[1]) < lengths[:, None]  # [B, T]
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, real[:, None, None])
        if pooling == "cls":
            pooled = x[:, 0]
        else:
            pooled = (x * real[..., None]).sum(1) / lengths[:, None].clip(1)
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True).clip(1e-12)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Embed ids int32 [B, T] -> float32 [B, T, D]."""
        return self.embedding_norm(self.words[...][ids] + self.places[: ids.shape[1]] + self.types[0])


# Our tables and modules -> the checkpoint's names. Several names are concatenated. The 'weight' of a linear map is
# stored [out, in] and read transposed.
_TABLES = {
    "words": "embeddings.word_embeddings.weight",
    "places": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
}
_EMBEDDING_NORM = "embeddings.LayerNorm"
_BLOCK = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}


def _names(path: list[str]) -> list[str]:
    """Return the checkpoint's names of the array of a linear map or a norm at our path, such as blocks, 0, mlp_norm."""
    *module, part = path
    part = "bias" if part == "bias" else "weight"
    if module == ["embedding_norm"]:
        return [f"{_EMBEDDING_NORM}.{part}"]
    _, layer, *inner = module
    return [f"encoder.layer.{layer}.{name}.{part}" for name in _BLOCK[".".join(inner)]]


def from_tensors(
    config: BertConfig, tensors: dict[str, np.ndarray], dtype: str = "float32", path: Path = Path("the checkpoint")
) -> tuple[nnx.GraphDef, nnx.State]:
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

    def read_leaf(at: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        keys = [str(key.key) for key in at]
        if len(keys) == 1:
            return get(_TABLES[keys[0]], leaf.shape).astype(leaf.dtype)
        *ins, out = leaf.shape
        names = _names(keys)
        parts = [get(name, (out // len(names), *ins)).T for name in names]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1)).astype(leaf.dtype)

    values = jax.tree_util.tree_map_with_path(read_leaf, abstract)
    bert_checks.check_tensors(tensors, read, path)
    nnx.replace_by_pure_dict(params, values)
    return graph, params
