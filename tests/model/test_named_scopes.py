"""The parts of the model and of a training step carry their names into the compiled programs."""

import re

import jax
import jax.numpy as jnp

from masksearch_jax.model import kv_cache, transformer
from masksearch_jax.model.config import LoraConfig, ModelConfig
from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import sft
from masksearch_jax.trainers import state as state_lib

CFG = ModelConfig(vocab_size=32, layers=2, embed=8, heads=2, kv_heads=1, head_dim=4, ff=16, lora=LoraConfig(rank=2))


def scopes(lowered) -> set[str]:
    """Every part of the names of operations, without what transformations add: 'jvp(norm)' is 'norm'."""
    names = re.findall(r'loc\("([^"]+)"', lowered.as_text(debug_info=True))
    return {re.sub(r"^(?:\w+\()*(\w+)\)*$", r"\1", part) for name in names for part in name.split("/")}


def test_a_training_step_names_its_parts():
    policy = Policy(CFG, mesh_lib.make_mesh(1, 1, 1))
    tx = optimizer_lib.build_optimizer({"kind": "adamw", "learning_rate": 1e-3}, policy.abstract_trainable)
    kinds = {"ids": jnp.int32, "positions": jnp.int32, "segments": jnp.int32, "targets": jnp.int32, "loss_mask": bool}
    batch = {name: jax.ShapeDtypeStruct((2, 8), kind) for name, kind in kinds.items()}
    with jax.set_mesh(policy.mesh):
        lowered = sft.make_step(policy, tx, 1).lower(state_lib.abstract_state(policy, tx), batch, policy.abstract_base)
    wanted = {"embed", "norm", "attention", "attend", "mlp", "lora", "log_probs", "logits", "loss", "optimizer"}
    assert wanted <= scopes(lowered)


def test_an_extension_of_a_cache_names_its_parts():
    policy = Policy(CFG.merged, mesh_lib.make_mesh(1, 1, 1))
    with jax.set_mesh(policy.mesh):
        cache = jax.eval_shape(lambda: kv_cache.init_cache(policy.config, 2, 8, policy.mesh))
        ids, counts = jax.ShapeDtypeStruct((2, 3), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)

        def extend(params, cache, ids, counts):
            hidden, cache = transformer.extend(policy.config, params, cache, ids, counts)
            return transformer.unembed(policy.config, params, hidden), cache

        lowered = jax.jit(extend).lower(policy.abstract_params, cache, ids, counts)
    assert {"embed", "norm", "attention", "attend", "mlp", "logits"} <= scopes(lowered)
