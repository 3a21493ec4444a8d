"""The gradient of an embedding table adds up over the tokens of a batch in float32, for a bfloat16 table too."""

import jax
import jax.numpy as jnp
import numpy as np

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib


def test_the_gradient_of_bfloat16_embeddings_counts_every_token():
    """A token that stands 4,096 times in a batch: its gradient was 256, where bfloat16 stops counting by ones."""
    cfg = ModelConfig(vocab_size=4, embed=8, token_shift=0, dtype="bfloat16", param_dtype="bfloat16")
    ids = jnp.zeros((2, 2048), jnp.int32).at[0, :3].set(jnp.array([1, 2, 2]))

    params = transformer.init_params(cfg, 0, mesh_lib.make_mesh(1, 1, 1))

    def total(table):
        model = transformer.module(cfg, params | {"embedding": table})
        return model.embed(ids, ids).astype(jnp.float32).sum()

    grads = {}
    for dtype in ("bfloat16", "float32"):
        grads[dtype] = jax.jit(jax.grad(total))(jnp.ones((4, 8), dtype))
        assert grads[dtype].dtype == dtype
    np.testing.assert_array_equal(grads["float32"][:, 0], [4093, 1, 2, 0])
    np.testing.assert_array_equal(grads["bfloat16"], grads["float32"].astype(jnp.bfloat16))
    # On shards of the batch as well.
    with jax.set_mesh(mesh_lib.make_mesh(2, 1, 1)):
        split = jax.jit(jax.grad(total))(jnp.ones((4, 8), "bfloat16"))
    np.testing.assert_array_equal(split, grads["bfloat16"])
