"""What a trainer is handed: with adapters and without, the same calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.model import logprobs, transformer
from masksearch_jax.model.config import LoraConfig, ModelConfig
from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import mesh as mesh_lib

PLAIN = ModelConfig(vocab_size=32, layers=2, embed=16, heads=2, kv_heads=1, head_dim=8, ff=16)
ADAPTED = dataclasses.replace(PLAIN, lora=LoraConfig(2))


def policy_of(config):
    return Policy(config, mesh_lib.make_mesh(1, 1, 1))


@pytest.mark.parametrize("config", [PLAIN, ADAPTED])
def test_what_is_split_is_merged_and_has_the_shapes_that_are_promised(config):
    policy = policy_of(config)
    params = policy.init_params(0)
    trainable, base = policy.split(params)
    jax.tree.map(np.testing.assert_array_equal, policy.merge(trainable, base), params)
    for found, abstract in ((trainable, policy.abstract_trainable), (base, policy.abstract_base)):
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(lambda struct: struct.shape, abstract)
    assert jax.tree.structure(policy.trainable_shardings) == jax.tree.structure(trainable)
    assert jax.tree.structure(policy.base_shardings) == jax.tree.structure(base)
    if config.lora:
        assert list(trainable) == ["adapters"] and "adapters" not in base
    else:
        assert base == {} and trainable is params


def test_equal_policies_share_one_decode_copy_and_it_is_of_the_merged_model():
    policy = policy_of(ADAPTED)
    assert policy == policy_of(ADAPTED) and policy != policy_of(PLAIN)
    assert policy.decode_copy() is policy_of(ADAPTED).decode_copy()
    copied = policy.decode_copy()(policy.init_params(0))
    assert jax.tree.structure(copied) == jax.tree.structure(policy_of(PLAIN).abstract_params)


def test_log_probs_are_those_of_the_forward_pass():
    policy = policy_of(PLAIN)
    params = policy.init_params(0)
    ids = jnp.arange(8, dtype=jnp.int32)[None] + 3
    places, ones, wanted = jnp.arange(8)[None], jnp.ones((1, 8), jnp.int32), jnp.arange(8)[None] > 3
    found = policy.log_probs(params, ids, places, ones, ids, wanted, 0.5)
    hidden = transformer.forward(PLAIN, params, ids, places, ones)
    expected = logprobs.token_logprobs(PLAIN, params, hidden, ids, 0.5, wanted=wanted)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (found[0] == 0).tolist() == (~wanted).tolist()
