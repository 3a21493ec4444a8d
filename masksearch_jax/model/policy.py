"""What a trainer is handed: one model on one mesh, and all that follows from the two.

Enters: a ModelConfig, with adapters or without, and a mesh. Leaves: shapes and layouts of what is trained and of the
frozen base beneath it, the decode copy that is sampled from, hidden states and log-probs.
`params` is the whole tree in the TRAIN layout. `split` takes it apart into what is trained and the base, and `merge`
puts the two together. Without adapters everything is trained and the base is {}, which costs a program nothing.
Left out: the optimizer and its state (trainers/state.py), and the arrays themselves.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from masksearch_jax.model import logprobs, lora, transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.transformer import Params
from masksearch_jax.runtime import mesh as mesh_lib


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model on a mesh. Two policies of equal config and mesh are equal, and share their compiled decode copy."""

    config: ModelConfig
    mesh: Mesh

    @functools.cached_property
    def abstract_params(self) -> Params:
        """All parameters as ShapeDtypeStructs with TRAIN shardings."""
        return transformer.abstract_params(self.config, self.mesh)

    @property
    def abstract_trainable(self) -> Params:
        """What is trained, as ShapeDtypeStructs with shardings: the optimizer is built for it, checkpoints hold it."""
        return self.split(self.abstract_params)[0]

    @property
    def abstract_base(self) -> Params:
        """The frozen base as ShapeDtypeStructs with shardings; {} without adapters."""
        return self.split(self.abstract_params)[1]

    @property
    def trainable_shardings(self) -> Params:
        """The NamedSharding of every trained array."""
        return _shardings(self.abstract_trainable)

    @property
    def base_shardings(self) -> Params:
        """The NamedSharding of every array of the frozen base."""
        return _shardings(self.abstract_base)

    def split(self, params: Params) -> tuple[Params, Params]:
        """Return (trainable, base); the base is {} without adapters."""
        return lora.split(params)

    def merge(self, trainable: Params, base: Params) -> Params:
        """Return the params that `split` took apart."""
        return lora.join(trainable, base)

    def init_params(self, seed: int) -> Params:
        """Return initial parameters; the same seed gives the same numbers on any mesh."""
        return transformer.init_params(self.config, seed, self.mesh)

    def adapt(self, params: Params, seed: int) -> Params:
        """Return params of a model without adapters, with fresh adapters over them if the config has adapters."""
        return transformer.adapt(self.config, params, seed, self.mesh) if self.config.lora else params

    def decode_copy(self, outlives: bool = False) -> Callable[[Params], Params]:
        """Return the jitted program params -> copy for sampling (DECODE layout, compute dtype).

        Adapters are added into the weights in float32, before the cast, so the copy has the config `config.merged`.
        Norms keep their stored dtype, because only they are used in it; all other weights are cast where they are used.
        So sampler and trainer compute with the same numbers, and float32 master weights are copied as bfloat16. With
        adapters the two are equal up to rounding, because the trainer multiplies by W, A and B in turn.
        outlives: True if the copy is used after its source was donated; it then shares no buffer with the source.
        """
        return _decode_copy(self, outlives)

    def forward(
        self,
        params: Params,
        ids: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        ends: jax.Array | None = None,
    ) -> jax.Array:
        """Return the normed hidden states [B, S, D] of whole sequences; arguments as `transformer.forward`."""
        return transformer.forward(self.config, params, ids, positions, segments, ends)

    def log_probs(
        self,
        params: Params,
        ids: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        targets: jax.Array,
        wanted: jax.Array,
        temperature: float = 1.0,
        ends: jax.Array | None = None,
        sources: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return log p(target) and the entropy of p, float32 [B, S] each, 0 for targets that are not wanted.

        ids, positions, segments, targets: int32 [B, S]. wanted: bool [B, S]. temperature: that of the sampler.
        ends, sources: int32 [B, S] for rows of prefix trees, None for plain rows: see `transformer.forward` and
        `logprobs.token_logprobs`.
        """
        hidden = self.forward(params, ids, positions, segments, ends)
        return logprobs.token_logprobs(
            self.config, params, hidden, targets, temperature, wanted=wanted, sources=sources
        )


def _shardings(abstract):
    return jax.tree.map(lambda struct: struct.sharding, abstract)


@functools.lru_cache(maxsize=8)
def _decode_copy(policy: Policy, outlives: bool) -> Callable[[Params], Params]:
    config, plain = policy.config, policy.config.merged
    dtypes = jax.tree.map(
        lambda axes: jnp.dtype(plain.param_dtype if "norm" in axes else plain.dtype),
        transformer.logical_axes(plain),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    layouts = transformer.param_shardings(plain, policy.mesh, mesh_lib.DECODE)
    move = mesh_lib.resharder(layouts, dtypes)
    if config.lora is None and not outlives:
        return move

    def program(params):
        params = move(lora.merged(config, params) if config.lora else params)
        return jax.tree.map(jnp.copy, params) if outlives else params

    return jax.jit(program, out_shardings=layouts)
