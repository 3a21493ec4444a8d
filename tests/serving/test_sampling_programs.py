"""How a slot chooses its next token, at the borders of what a request may ask for."""

import jax.numpy as jnp
import numpy as np

from masksearch_jax.serving import sampling_programs


def test_the_coldest_samples_are_greedy():
    """Temperatures and shares that are next to 0, or that float32 rounds to 0."""
    logits = jnp.array(np.random.default_rng(0).normal(size=(6, 40)) * 30, jnp.float32)
    settings = jnp.array([[0, 1], [1e-46, 1], [1e-39, 1], [1e-30, 0.5], [1, 1e-46], [1, 1e-30]], jnp.float32)
    chosen = sampling_programs._choose(logits, jnp.full(6, 0.99, jnp.float32), settings)
    np.testing.assert_array_equal(chosen, logits.argmax(axis=-1))
