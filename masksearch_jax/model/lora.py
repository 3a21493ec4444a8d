"""Low-rank adapters (LoRA, arXiv 2106.09685) over the stacked linear maps, and the frozen base beneath them.

y = x W + (alpha / rank) (x A) B for each target W. A starts random and B at zero, so that training starts at the base.
The adapters are a subtree `adapters` of params, stacked over layers like the weights and sharded by the same rules.
Only they are trained: gradients, optimizer state and checkpoints hold nothing else (`split`). The base may be stored
quantised (QLoRA, arXiv 2305.14314): qwix arrays replace the linear maps, the scan over layers carries them as data, and
each layer dequantises its own. We do not use qwix's rewriting of modules, because it hooks Flax modules and our layers
run in a plain scan.
Sampling and export use merged weights (`merged`). Left out: dropout, and adapters on embeddings and norms.
"""

import functools
import hashlib
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from masksearch_jax.model.config import LINEAR, ModelConfig
from masksearch_jax.runtime.types import Params, Pytree

# Letter of an axis -> its name, both as a size in ModelConfig and as a logical axis.
_AXES = {"d": "embed", "n": "heads", "k": "kv_heads", "h": "head_dim", "f": "ff"}
# Target -> letters of its input axes and of its output axes.
_LINEAR = {"q": ("d", "nh"), "k": ("d", "kh"), "v": ("d", "kh"), "o": ("nh", "d")}
_LINEAR |= {"gate": ("d", "f"), "up": ("d", "f"), "down": ("f", "d")}
# Letters of a map's input or output axes -> einsum letters of the activation there.
_ACTIVATION = {"d": "bsd", "f": "bsf", "nh": "bnsh", "kh": "bksh"}
# How many inputs share a scale in 4 bits, as in the paper; their greatest common divisor where 64 does not divide the
# width.
_TILE = 64
# qwix's int8 scale maps the largest number to 127.5, a tie that two programs may round differently; ours maps it to
# 127.
_CALIBRATION = {"int8": f"absmax,{127.5 / 127}", "nf4": "absmax"}


class Adapters(nnx.Module):
    """The arrays A [L, inputs, R] and B [L, R, outputs] of every target, as q_a, q_b, ..; none without `cfg.lora`."""

    def __init__(self, cfg: ModelConfig, *, param):
        """param(shape, axes, init) makes a stacked Param, see `transformer.Transformer`."""
        self.scale = cfg.lora.alpha / cfg.lora.rank if cfg.lora else 0.0
        self.names = (
            tuple(name for name in cfg.lora.targets if name != "gate" or cfg.mlp != "relu2") if cfg.lora else ()
        )
        rank = cfg.lora.rank if cfg.lora else 0
        for name in self.names:
            inputs, outputs = (_sizes(cfg, letters) for letters in _LINEAR[name])
            bound = math.prod(size for _, size in inputs) ** -0.5  # torch's bound for the weights of a linear layer
            axes, shape = zip(*inputs, strict=True)
            setattr(self, f"{name}_a", param((*shape, rank), (*axes, None), _uniform(bound)))
            axes, shape = zip(*outputs, strict=True)
            setattr(self, f"{name}_b", param((rank, *shape), (None, *axes), nnx.initializers.zeros))

    def __call__(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Return y, the output of one layer's linear map `name` on x, plus its adapter's output if it has one."""
        if name not in self.names:
            return y
        inputs, outputs = _LINEAR[name]
        with jax.named_scope("lora"):
            a, b = (getattr(self, f"{name}_{which}")[...].astype(x.dtype) for which in "ab")
            low = jnp.einsum(f"{_ACTIVATION[inputs]},{inputs}r->bsr", x, a)
            return y + self.scale * jnp.einsum(f"bsr,r{outputs}->{_ACTIVATION[outputs]}", low, b)


def _sizes(cfg, letters):
    return [(_AXES[letter], getattr(cfg, _AXES[letter])) for letter in letters]


def _uniform(bound):
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def split(params: Params) -> tuple[Params, Params]:
    """Return (trainable, base): the adapters alone and the rest, or all of params and {} if there are no adapters."""
    if "adapters" not in params:
        return params, {}
    return {"adapters": params["adapters"]}, {name: x for name, x in params.items() if name != "adapters"}


def join(trainable: Params, base: Params) -> Params:
    """Return the params that `split` took apart."""
    return {**base, **trainable}


def merged(cfg: ModelConfig, params: Params) -> Params:
    """Return params of `cfg.merged`: W + (alpha / rank) A B for every target, summed in float32, in `param_dtype`."""
    if cfg.lora is None:
        return params
    trainable, base = split(params)
    adapters, scale = trainable["adapters"], cfg.lora.alpha / cfg.lora.rank

    def one(path, weight):
        name = path[-1].key
        weight = dequantised(weight)
        if f"{name}_a" not in adapters or path[0].key != "blocks":
            return weight.astype(cfg.param_dtype)
        a, b = (adapters[f"{name}_{which}"].astype(jnp.float32) for which in "ab")
        inputs, outputs = _LINEAR[name]
        delta = jnp.einsum(f"l{inputs}r,lr{outputs}->l{inputs}{outputs}", a, b)
        return (weight.astype(jnp.float32) + scale * delta).astype(cfg.param_dtype)

    return jax.tree_util.tree_map_with_path(one, base, is_leaf=_is_quantised)


# The frozen base.


def held(cfg: ModelConfig, params: Params) -> Params:
    """Return params with the base's linear maps stored as `cfg.lora.base_quantisation` says: as QArrays or unchanged.

    A qwix.QArray holds integers of the weight's shape and float32 scales [L, .., outputs]. Along the inputs there is
    one scale, or one per tile. Raises ValueError if qwix is not installed.
    """
    kind = cfg.lora.base_quantisation if cfg.lora else ""
    if not kind:
        return params

    def one(path, weight):
        name = path[-1].key
        if path[0].key != "blocks" or name not in LINEAR:
            return weight
        inputs = len(_LINEAR[name][0])
        whole = set(range(1, inputs + 1)) if kind == "int8" else {inputs}
        channels = [axis for axis in range(weight.ndim) if axis not in whole]
        tiles = {inputs: math.gcd(weight.shape[inputs], _TILE)} if kind == "nf4" else {}
        return qwix().quantize(
            weight.astype(jnp.float32),
            kind,
            channelwise_axes=channels,
            tiled_axes=tiles,
            calibration_method=_CALIBRATION[kind],
        )

    return jax.tree_util.tree_map_with_path(one, params)


def held_shardings(cfg: ModelConfig, params: Params, layouts: Pytree) -> Pytree:
    """Return the shardings of what `held` returns.

    Integers are sharded like their weight, and so is each axis of the scales that its shards divide; other axes of the
    scales stay whole. params: tree of shapes before quantisation. layouts: their NamedShardings.
    """
    shapes = jax.eval_shape(functools.partial(held, cfg), params)

    def one(struct, layout):
        if not _is_quantised(struct):
            return layout
        mesh, sizes = layout.mesh, struct.scale.shape
        spec = [*layout.spec, *[None] * (len(sizes) - len(layout.spec))]

        def fits(size, entry):
            parts = (entry,) if isinstance(entry, str) else entry or ()
            return size % math.prod(mesh.shape[part] for part in parts) == 0

        spec = [entry if fits(size, entry) else None for size, entry in zip(sizes, spec, strict=True)]
        while spec and spec[-1] is None:
            spec.pop()  # one spelling per layout, see mesh.partition_spec
        return jax.tree.unflatten(jax.tree.structure(struct), [layout, NamedSharding(mesh, PartitionSpec(*spec))])

    return jax.tree.map(one, shapes, layouts, is_leaf=_is_quantised)


def dequantised(tree: Pytree) -> Pytree:
    """Return the tree with float32 arrays in place of QArrays."""
    return jax.tree.map(lambda x: qwix().dequantize(x) if _is_quantised(x) else x, tree, is_leaf=_is_quantised)


def fingerprint(base: Params) -> str:
    """Return 16 hexadecimal digits that tell one frozen base from another, the same in every layout and on any mesh.

    For each array, the bits of every number (as float32, or as an integer) are multiplied by an odd factor that depends
    on the number's position, and summed modulo 2^32, which is exact in any order. The digits are a hash of these sums
    with paths and shapes. This guards against mistakes, not against an adversary.
    """
    sums = jax.jit(lambda tree: [_bit_sum(x) for x in jax.tree.leaves(tree)])(base)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(base)]
    shapes = [x.shape for x in jax.tree.leaves(base)]
    text = repr([(path, shape, int(total)) for path, shape, total in zip(paths, shapes, sums, strict=True)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bit_sum(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    else:
        bits = x.astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum((bits ^ (bits >> 15)) * (place * jnp.uint32(2654435769) | 1), dtype=jnp.uint32)


def _is_quantised(x):
    return hasattr(x, "qvalue")


def qwix():
    """Return the module qwix, which only a quantised base needs. Raises ValueError if it is not installed."""
    try:
        import qwix
    except ImportError:
        raise ValueError(
            "lora.base_quantisation needs qwix: pip install -c launch/constraints.txt -e '.[qlora]'"
        ) from None
    return qwix
