"""New rows of an embedding: means of the rows that spelled the token before, everything else untouched."""

import dataclasses

import jax
import numpy as np
import pytest

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import added_rows
from masksearch_jax.runtime import mesh as mesh_lib

CFG = ModelConfig(
    vocab_size=20, layers=1, embed=8, heads=2, kv_heads=1, head_dim=4, ff=12, mlp="swiglu", rope_fraction=1.0,
    smear_keys=False,
)  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_row_is_the_mean_of_what_spelled_it(tied):
    mesh = mesh_lib.make_mesh(1, 1, 1)
    cfg = dataclasses.replace(CFG, tie_embeddings=tied)
    params = transformer.init_params(cfg, 0, mesh)
    wider, found = added_rows.extend_embeddings(cfg, params, {20: [3, 5, 5], 21: [7], 18: [1]}, mesh, 24)
    assert wider.vocab_size == 24 and set(found) == set(params)
    tables = [(params["embedding"], found["embedding"])]
    if not tied:
        tables.append((params["unembedding"].T, found["unembedding"].T))
    for old, new in map(lambda pair: map(np.asarray, pair), tables):
        assert new.shape == (24, 8)
        np.testing.assert_array_equal(new[[*range(18), 19]], old[[*range(18), 19]])
        np.testing.assert_array_equal(new[18], old[1])  # a row that was spare
        np.testing.assert_allclose(new[20], (old[3] + 2 * old[5]) / 3, rtol=1e-6)
        np.testing.assert_allclose(new[21:], [old[7], old.mean(0), old.mean(0)], rtol=1e-5, atol=1e-7)
    # The model computes with them: a new token's first hidden state is that of the mean embedding.
    ids = np.array([[20, 21]], np.int32)
    hidden = transformer.forward(wider, found, ids, np.array([[0, 1]], np.int32), np.ones((1, 2), np.int32))
    assert transformer.unembed(wider, found, hidden).shape == (1, 2, 24)
    assert jax.tree.structure(found) == jax.tree.structure(transformer.abstract_params(wider, mesh))


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="21 rows have no room for 20 published ones and ids to 21"):
        added_rows.extend_embeddings(CFG, {}, {20: [1], 21: [2]}, None, 21)


def test_rows_divide_over_any_mesh_and_spare_ones_are_taken_first():
    assert added_rows.rows_for(49152, []) == 49152
    assert added_rows.rows_for(49152, [49152, 49158]) == 49168  # a multiple of 16
    assert added_rows.rows_for(151936, [151665, 151671]) == 151936
