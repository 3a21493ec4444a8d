"""Rows of the embedding for tokens that were added to a published vocabulary.

Enters: parameters as published, and for each new token the ids that spelled it before. Leaves: parameters with a row
more for each, the mean of the rows of those ids: a place where the model has seen such text, rather than nowhere.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig


def extend_embeddings(
    cfg: ModelConfig, params: Any, former_ids: Sequence[Sequence[int]], mesh: Mesh, rows: int
) -> tuple[ModelConfig, Any]:
    """Return the ModelConfig and the parameters with `rows` rows of the embedding, in the TRAIN layout.

    former_ids: by new token, the ids whose rows are averaged, in float32; the new rows follow the published ones. Rows
    that are left after these are padding, the mean of all published rows. Raises ValueError if `rows` has no room.
    """
    if rows < cfg.vocab_size + len(former_ids):
        raise ValueError(f"{rows} rows have no room for {cfg.vocab_size} published and {len(former_ids)} new ones")
    wider = dataclasses.replace(cfg, vocab_size=rows)
    padding = rows - cfg.vocab_size - len(former_ids)

    def extended(table):
        wide = table.astype(jnp.float32)
        new = [wide[jnp.array(ids)].mean(0) for ids in former_ids] + [wide.mean(0)] * padding
        return jnp.concatenate([table, jnp.stack(new).astype(table.dtype)])

    layouts = transformer.param_shardings(wider.merged, mesh)
    params = dict(params)
    params["embedding"] = jax.jit(extended, out_shardings=layouts["embedding"])(params["embedding"])
    if not cfg.tie_embeddings:
        across = functools.partial(_transposed, extended)
        params["unembedding"] = jax.jit(across, out_shardings=layouts["unembedding"])(params["unembedding"])
    return wider, params


def _transposed(extended, table):
    return extended(table.T).T
