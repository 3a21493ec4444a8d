"""ModelConfig refuses what the model could not run, and names the field."""

import dataclasses

import ml_collections
import pytest

from masksearch_jax.model.config import ModelConfig, from_config


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("layers", 0, "model.layers = 0"),
        ("mlp", "gelu", "swiglu, geglu, relu2"),
        ("remat", "all", "none, dots, full"),
        ("dtype", "float16", "float32, bfloat16"),
        ("kv_heads", 3, "does not divide model.heads = 4"),
        ("rope_fraction", 0.0, "model.rope_fraction"),
        ("rope_fraction", 0.01, "no pair of"),
    ],
)
def test_bad_values_are_named(field, value, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(ModelConfig(vocab_size=10, heads=4, kv_heads=2), **{field: value})


def test_from_config_reads_a_config_section():
    section = ml_collections.ConfigDict({"layers": 2, "rope_base": 10000, "smear_keys": False})
    cfg = from_config(section, vocab_size=77)
    assert (cfg.vocab_size, cfg.layers, cfg.smear_keys) == (77, 2, False)
    assert isinstance(cfg.rope_base, float)
    assert hash(cfg) == hash(from_config(section, vocab_size=77))


def test_from_config_refuses_unknown_and_ill_typed():
    with pytest.raises(ValueError, match="unknown setting layer;"):
        from_config({"layer": 2}, vocab_size=10)
    with pytest.raises(TypeError, match=r"model.layers = '2': expected int, got str"):
        from_config({"layers": "2"}, vocab_size=10)
    with pytest.raises(TypeError, match=r"model.layers = True: expected int, got bool"):
        from_config({"layers": True}, vocab_size=10)


def test_rotary_dim_is_even():
    assert ModelConfig(vocab_size=10, head_dim=10, rope_fraction=0.5).rotary_dim == 4
    assert ModelConfig(vocab_size=10, head_dim=10, rope_fraction=1.0).rotary_dim == 10
