"""Embedding rows for tokens that were added to a published vocabulary.

Enters: parameters as published, and for each new token the ids that spelled it before. Leaves: parameters in which the
row of each new token is the mean of the rows of those ids, so that it starts where the model has seen such text.
A model may be published with more rows than its tokenizer has tokens; new tokens take these rows first.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime.types import Params

# A number of rows that grows becomes a multiple of this, whatever the mesh, so that a checkpoint can be read on another
# mesh.
_MULTIPLE = 16


def rows_for(published: int, new_ids: Sequence[int]) -> int:
    """Return how many rows an embedding of `published` rows needs for the tokens `new_ids`; unchanged if they fit."""
    needed = max(new_ids, default=-1) + 1
    return published if needed <= published else -(-needed // _MULTIPLE) * _MULTIPLE


def extend_embeddings(
    cfg: ModelConfig, params: Params, former_ids: Mapping[int, Sequence[int]], mesh: Mesh, rows: int
) -> tuple[ModelConfig, Params]:
    """Return the ModelConfig and the parameters with `rows` embedding rows, in the TRAIN layout.

    former_ids: {id of a new token: the ids whose rows are averaged, in float32}. Other added rows are padding and get
    the mean of all published rows. Raises ValueError if `rows` is too small.
    """
    if rows < max(cfg.vocab_size, max(former_ids, default=-1) + 1):
        raise ValueError(f"{rows} rows have no room for {cfg.vocab_size} published ones and ids to {max(former_ids)}")
    wider = dataclasses.replace(cfg, vocab_size=rows)
    places = jnp.array(list(former_ids), jnp.int32)

    def extended(table):
        wide = table.astype(jnp.float32)
        padding = jnp.broadcast_to(wide.mean(0), (rows - cfg.vocab_size, table.shape[1]))
        new = jnp.stack([wide[jnp.array(ids)].mean(0) for ids in former_ids.values()])
        return jnp.concatenate([table, padding.astype(table.dtype)]).at[places].set(new.astype(table.dtype))

    layouts = transformer.param_shardings(wider.merged, mesh)
    params = dict(params)
    params["embedding"] = jax.jit(extended, out_shardings=layouts["embedding"])(params["embedding"])
    if not cfg.tie_embeddings:
        across = functools.partial(_transposed, extended)
        params["unembedding"] = jax.jit(across, out_shardings=layouts["unembedding"])(params["unembedding"])
    return wider, params


def _transposed(extended, table):
    return extended(table.T).T
