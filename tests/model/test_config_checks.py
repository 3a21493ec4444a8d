"""Settings of a published config.json that would make it another model are refused, with file, setting and value."""

import numpy as np
import published
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from masksearch_jax.model.published import families

_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 9.0}
_LLAMA3_ROPE = published.CONFIGS["llama3.1"]["rope_scaling"]


@pytest.mark.parametrize(
    ("case", "change", "says"),
    [
        ("gemma3", {"layer_types": ["chunked_attention"] * 4}, r"layer_types\[0\] = 'chunked_attention'"),
        ("gemma3", {"layer_types": ["sliding_attention"]}, "layer_types has 1 entries, and num_hidden_layers = 4"),
        ("llama3", {"layer_types": ["linear_attention"] * 2}, r"layer_types\[0\] = 'linear_attention'"),
        ("llama3", {"layer_types": ["full_attention", "sliding_attention"]}, "a llama model has full_attention"),
        ("llama3", {"layer_types": 7}, "layer_types = 7, where a list"),
        ("llama3", {"rope_parameters": {"full_attention": _PLAIN_ROPE}}, "rope_parameters.full_attention"),
        ("gemma3", {"rope_parameters": {**_PLAIN_ROPE}}, "rope_parameters of a gemma3_text model holds an object for"),
        ("llama3", {"is_causal": False}, "is_causal = False"),
        ("qwen2", {"num_experts": 8}, "num_experts = 8, which the decoder does not compute"),
        ("llama3", {"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false', where true or false belongs"),
        ("qwen2_windows", {"use_sliding_window": "false"}, "use_sliding_window = 'false'"),
        ("llama3", {"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        ("llama3", {"rms_norm_eps": -1.0}, "rms_norm_eps = -1.0"),
        ("llama3", {"rope_theta": float("inf")}, "rope_theta = inf"),
        ("llama3", {"rope_theta": 10**400}, "rope_theta = 1000"),
        ("gemma3", {"query_pre_attn_scalar": -5}, "query_pre_attn_scalar = -5"),
        ("gemma3", {"sliding_window": -5}, "sliding_window = -5"),
        ("gemma3", {"sliding_window": 2**40}, "sliding_window = 1099511627776"),
        ("qwen2_windows", {"max_window_layers": -5}, "max_window_layers = -5"),
        ("llama3.1", {"rope_scaling": {**_LLAMA3_ROPE, "factor": float("nan")}}, "rope_scaling.factor = nan"),
        ("llama3.1", {"rope_scaling": {**_LLAMA3_ROPE, "high_freq_factor": 0.5}}, "low below high"),
        ("llama3", {"num_key_value_heads": 4}, "model.kv_heads = 4 does not divide"),
    ],
)
def test_a_setting_that_makes_another_model_is_refused(case, change, says):
    with pytest.raises(ValueError, match="^some/config.json.*" + says):
        families.from_hf(published.CONFIGS[case] | change, "some/config.json")


def test_what_stands_around_the_language_model_of_a_vision_checkpoint_counts():
    text = {**published.CONFIGS["gemma3"]}
    del text["tie_word_embeddings"]
    outer = {"model_type": "gemma3", "text_config": text}
    assert families.from_hf(outer).tie_embeddings
    assert not families.from_hf(outer | {"tie_word_embeddings": False}).tie_embeddings
    with pytest.raises(ValueError, match="quantization_config is set"):
        families.from_hf(outer | {"quantization_config": {"bits": 4}})


def test_both_spellings_of_rotary_settings_are_read():
    plain = published.CONFIGS["llama3"]
    given = {"rope_type": "default", "rope_theta": plain["rope_theta"]}
    renamed = {**plain, "rope_theta": None, "rope_parameters": given}
    assert families.from_hf(renamed) == families.from_hf(plain)
    gemma = published.CONFIGS["gemma3"]
    by_kind = {
        "full_attention": {**gemma["rope_scaling"], "rope_theta": gemma["rope_theta"]},
        "sliding_attention": {"rope_type": "default", "rope_theta": gemma["rope_local_base_freq"]},
    }
    renamed = {**gemma, "rope_scaling": None, "rope_theta": None, "rope_parameters": by_kind}
    assert families.from_hf(renamed) == families.from_hf(gemma)


_NUMBERS = st.one_of(st.integers(-3, 10**12), st.floats(), st.just(10**400))
_LEAVES = st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=4))
_VALUES = st.recursive(
    st.one_of(_LEAVES, st.sampled_from(["sliding_attention", "full_attention", "linear", "llama3", "default", "yarn"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["rope_type", "factor", "rope_theta", "full_attention", "sliding_attention", "x"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=5,
)
_KEYS = sorted(
    {key for config in published.CONFIGS.values() for key in config}
    | {"layer_types", "rope_parameters", "partial_rotary_factor", "is_causal", "text_config", "use_sliding_window"}
)


@fuzz(st.dictionaries(st.sampled_from(_KEYS), _VALUES, min_size=1, max_size=2), examples=120)
def test_fuzz_settings_of_a_config(changes):
    """A config is read as a model that can be computed, or refused by the name of the file."""
    for case in ("gemma3", "llama3.1", "qwen2_windows"):
        try:
            cfg = families.from_hf(published.CONFIGS[case] | changes, "some/config.json")
        except ValueError as error:
            assert "some/config.json" in str(error)
            continue
        numbers = [value for value in vars(cfg).values() if isinstance(value, float)]
        assert np.isfinite(numbers).all() and min(numbers) >= 0
        assert set(cfg.local_layers) <= set(range(cfg.layers)) and cfg.window < 2**31
