"""One layer of the decoder: attention and MLP around a residual stream. Axes as in transformer.py.

`Block` is declared with the weights of all L layers stacked, and computes one layer. transformer.py takes a layer's
weights out of the stack, and decides which tokens the layer sees.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from masksearch_jax.model import lora
from masksearch_jax.model.attention import Attention
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.linear import linear
from masksearch_jax.model.norm import norm, norm_init
from masksearch_jax.runtime import mesh as mesh_lib


class Mlp(nnx.Module):
    """The MLP over [B, S, D]: SwiGLU or GEGLU (Shazeer 2020) or squared ReLU (So et al. 2021)."""

    def __init__(self, cfg: ModelConfig, *, param):
        into = nnx.initializers.normal(cfg.embed**-0.5)
        out = nnx.initializers.normal(cfg.ff**-0.5 / math.sqrt(2 * cfg.layers))
        self.cfg = cfg
        if cfg.mlp != "relu2":
            self.gate = param((cfg.embed, cfg.ff), ("embed", "ff"), into)
        self.up = param((cfg.embed, cfg.ff), ("embed", "ff"), into)
        self.down = param((cfg.ff, cfg.embed), ("ff", "embed"), out)

    @jax.named_scope("mlp")
    def __call__(self, x: jax.Array, adapters: lora.Adapters) -> jax.Array:
        def mapped(name, x):
            return adapters(name, x, linear(x, getattr(self, name)[...]))

        up = mapped("up", x)
        if self.cfg.mlp == "swiglu":
            hidden = jax.nn.silu(mapped("gate", x)) * up
        elif self.cfg.mlp == "geglu":
            hidden = jax.nn.gelu(mapped("gate", x), approximate=True) * up
        else:
            hidden = jnp.square(jax.nn.relu(up))
        return mapped("down", hidden)


class Block(nnx.Module):
    """All L layers, stacked: x + attention(norm(x)), then x + mlp(norm(x)).

    With post_norms the outputs of attention and MLP are normed too before they are added.
    """

    def __init__(self, cfg: ModelConfig, *, param):
        self.cfg = cfg
        self.attention_norm = param((cfg.embed,), ("norm",), norm_init(cfg))
        self.attention = Attention(cfg, param=param)
        self.mlp_norm = param((cfg.embed,), ("norm",), norm_init(cfg))
        self.mlp = Mlp(cfg, param=param)
        if cfg.post_norms:
            self.attention_post_norm = param((cfg.embed,), ("norm",), norm_init(cfg))
            self.mlp_post_norm = param((cfg.embed,), ("norm",), norm_init(cfg))

    def __call__(
        self,
        x: jax.Array,
        rope,
        attend_rows,
        starts: jax.Array,
        adapters: lora.Adapters,
        parents: jax.Array | None = None,
    ) -> jax.Array:
        """Compute one layer over whole sequences, x [B, S, D] -> [B, S, D]; arguments as `Attention.__call__`."""
        out = self.attention(norm(self.cfg, x, self.attention_norm), rope, attend_rows, starts, adapters, parents)
        return self._mlp(x, out, adapters)

    def extend(
        self, x: jax.Array, rope, mask: jax.Array, layer, lengths: jax.Array, counts: jax.Array, adapters: lora.Adapters
    ):
        """Compute one layer over new tokens and its cache -> (x, layer); arguments as `Attention.extend`."""
        normed = norm(self.cfg, x, self.attention_norm)
        out, layer = self.attention.extend(normed, rope, mask, layer, lengths, counts, adapters)
        return self._mlp(x, out, adapters), layer

    def _mlp(self, x, attended, adapters):
        x = x + (norm(self.cfg, attended, self.attention_post_norm) if self.cfg.post_norms else attended)
        out = self.mlp(norm(self.cfg, x, self.mlp_norm), adapters)
        x = x + (norm(self.cfg, out, self.mlp_post_norm) if self.cfg.post_norms else out)
        return mesh_lib.constrain(x, "batch", "time", None)
