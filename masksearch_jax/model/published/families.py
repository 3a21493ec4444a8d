"""Published model families: convert their config.json to `ModelConfig` and back, and list the sizes known by name.

Enters: the dict of a config.json of Qwen2/2.5, Qwen3, Llama 3/3.1/3.2, Gemma 2 or Gemma 3 (text), in the spelling of
transformers 4 or 5. Leaves: a `ModelConfig`; a family is nothing but values of its fields. What the decoder does not
compute (biases elsewhere, YaRN, mixtures of experts) is refused by name, never dropped.
Left out: weights (load.py and export.py).
"""

import dataclasses
from collections.abc import Mapping

from masksearch_jax.model.config import ModelConfig, from_config
from masksearch_jax.model.published import config_checks
from masksearch_jax.runtime.types import Json, JsonObject, Setting

# The fields that define a family beside its sizes. `to_hf` tries the families in this order.
_GEMMA = {"mlp": "geglu", "post_norms": True, "norm_plus_one": True, "scale_embeddings": True}
_TRAITS: dict[str, JsonObject] = {
    "qwen2": {"mlp": "swiglu", "qkv_bias": True},
    "qwen3": {"mlp": "swiglu", "qk_norm": True},
    "llama": {"mlp": "swiglu"},
    "gemma2": _GEMMA,
    "gemma3_text": {**_GEMMA, "qk_norm": True},
}
_ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
# The values that the classes of transformers take for settings that a config.json leaves out, as that of the published
# Gemma 3 with vision does.
_HF_GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096, "tie_word_embeddings": True}
_HF_DEFAULTS: dict[str, JsonObject] = {
    "qwen2": {},
    "qwen3": {"head_dim": 128},
    "llama": {},
    "gemma2": {**_HF_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_pattern": 2},
    "gemma3_text": {
        **_HF_GEMMA,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "sliding_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
}
_SIZE_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_LARGEST = (1 << 24, 10_000)  # the largest width, and the largest number of layers
_ACTIVATIONS = {"swiglu": ("silu", "swish"), "geglu": ("gelu_pytorch_tanh",)}
# Fields that say how the model is computed, not which model it is. They may differ between two runs of the same
# weights.
RUN_FIELDS = ("dtype", "param_dtype", "remat", "attention", "scan_unroll")


def from_hf(config: Mapping[str, Json], source: str = "config.json", **override: Setting) -> ModelConfig:
    """Return the `ModelConfig` of a published config.json.

    source: the file's name, for messages. override: values of RUN_FIELDS; the layer scan is not unrolled by default.
    Raises ValueError that names the file and the setting which is missing or which the decoder does not compute.
    """
    if unknown := sorted(set(override) - set(RUN_FIELDS)):
        raise ValueError(f"{source} fixes model.{', model.'.join(unknown)}; only {', '.join(RUN_FIELDS)} are free.")
    try:
        return _from_hf(text_config(config), source, override)
    except (TypeError, AttributeError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{source} holds a value of the wrong kind ({error}); download it again.") from error


def _from_hf(config, source, override):
    family = config.get("model_type")
    if family not in _TRAITS:
        raise ValueError(f"{source}: model_type = {family!r} is none of {', '.join(_TRAITS)}, gemma3.")
    config = {**_HF_DEFAULTS[family], **{k: v for k, v in config.items() if v is not None or k not in _NULL_IS_DEFAULT}}

    def need(key):
        if config.get(key) is None:
            raise ValueError(f"{source}: {key} is missing; is this the config.json of a {family} model?")
        return config[key]

    _refuse(config, family, source)
    for key in (*_SIZE_KEYS, "num_key_value_heads", "head_dim"):
        value = config.get(key)
        if value is not None and not (type(value) is int and 0 < value <= _LARGEST[key == "num_hidden_layers"]):
            raise ValueError(f"{source}: {key} = {value!r} is no size of a {family} model.")
    heads, layers = need("num_attention_heads"), need("num_hidden_layers")
    values = dict(
        vocab_size=need("vocab_size"),
        layers=layers,
        embed=need("hidden_size"),
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or need("hidden_size") // heads,
        ff=need("intermediate_size"),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        query_scalar=float(config.get("query_pre_attn_scalar") or 0) if "gemma" in family else 0.0,
        attention_softcap=config.get("attn_logit_softcapping") or 0.0,
        logit_softcap=config.get("final_logit_softcapping") or 0.0,
        **_local_layers(config, family, layers, source),
        **_rope(config, family, source),
        **_TRAITS[family],
    )
    try:
        return from_config({"smear_keys": False, "rope_fraction": 1.0, "scan_unroll": 1, **values, **override})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def text_config(config: Mapping[str, Json]) -> JsonObject:
    """Return the language model's part of a config.json: all of it, unless it is that of a Gemma 3 with vision."""
    if config.get("model_type") != "gemma3":
        return dict(config)
    shared = (
        "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "tie_word_embeddings",
        "quantization_config",
    )  # fmt: skip
    outer = {k: config[k] for k in shared if k in config}
    return {**outer, **config.get("text_config", {}), "model_type": "gemma3_text"}


# For these keys null in a config.json means 'not given'; for the softcaps it means 'off'.
_NULL_IS_DEFAULT = ("head_dim", "num_key_value_heads", "vocab_size", "rope_theta", "rope_local_base_freq")


def _refuse(config, family, source):
    config_checks.check_config(config, family, source)
    flags = ("attention_bias", "mlp_bias", "use_bidirectional_attention", "quantization_config")
    wrong = [key for key in flags if config.get(key)]
    if wrong:
        raise ValueError(f"{source}: {' and '.join(wrong)} is set, which the decoder does not compute.")
    allowed = _ACTIVATIONS[_TRAITS[family]["mlp"]]
    activation = config.get("hidden_activation") or config.get("hidden_act") or allowed[0]
    if "gemma" in family and not config.get("hidden_activation"):
        activation = allowed[0]  # transformers does not read Gemma's old key hidden_act either
    if activation not in allowed:
        raise ValueError(f"{source}: activation {activation!r}; a {family} model here computes {' or '.join(allowed)}.")
    if family == "gemma3_text" and config.get("attn_logit_softcapping"):
        raise ValueError(
            f"{source}: attn_logit_softcapping = {config['attn_logit_softcapping']} in a Gemma 3: published ones have"
            " none, and transformers ignores it; set it to null."
        )


def _local_layers(config, family, layers, source):
    """Return the fields for sliding windows, from layer_types if given, else from the family's rule."""
    kinds, window = config.get("layer_types"), config.get("sliding_window")
    gemma = family.startswith("gemma")
    if gemma and not window:
        raise ValueError(f"{source}: sliding_window = {window!r} in a {family} model; give the window of its layers.")
    if family == "llama" or (family.startswith("qwen") and not config.get("use_sliding_window")):
        window = None
    if not window:
        return {}
    if kinds:
        local = tuple(index for index, kind in enumerate(kinds[:layers]) if kind == "sliding_attention")
    elif gemma:
        every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
        every = every or config["sliding_pattern"]
        local = tuple(index for index in range(layers) if (index + 1) % every)
    else:
        local = tuple(range(min(config.get("max_window_layers", 28), layers), layers))
    return {"local_layers": local, "window": window} if local or gemma else {}


def _rope(config, family, source):
    """Return the rotary fields, from rope_parameters (transformers 5) or from rope_theta and rope_scaling (4)."""
    given = config.get("rope_parameters") or {}
    if family == "gemma3_text":
        full = {"rope_theta": config["rope_theta"], **(config.get("rope_scaling") or {}), **_part(given, "full")}
        local = {"rope_theta": config["rope_local_base_freq"], **_part(given, "sliding")}
        if _kind(local) != "default":
            raise ValueError(f"{source}: scaled rotary positions ({_kind(local)}) in sliding_attention layers.")
        extra = {"local_rope_base": float(local["rope_theta"])}
    else:
        full = {"rope_theta": config.get("rope_theta") or 10000.0, **(config.get("rope_scaling") or {}), **given}
        extra = {}
    partial = full.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise ValueError(f"{source}: partial_rotary_factor = {partial}; these families rotate whole heads.")
    fields = {"rope_base": float(full["rope_theta"]), **extra}
    kind = _kind(full)
    if kind == "default":
        return fields
    if kind == "linear":
        return {**fields, "rope_scaling": "linear", "rope_factor": float(full["factor"])}
    if kind == "llama3":
        return {
            **fields,
            "rope_scaling": "llama3",
            "rope_factor": float(full["factor"]),
            "rope_low_freq": float(full["low_freq_factor"]),
            "rope_high_freq": float(full["high_freq_factor"]),
            "rope_original_length": full.get("original_max_position_embeddings") or config["max_position_embeddings"],
        }
    raise ValueError(f"{source}: rope scaling {kind!r}; the decoder computes default, linear and llama3.")


def _part(given, kind):
    return given.get(f"{kind}_attention") or {}


def _kind(rope):
    return rope.get("rope_type") or rope.get("type") or "default"


def to_hf(cfg: ModelConfig, dtype: str, like: Mapping[str, Json] | None = None) -> JsonObject:
    """Return a config.json from which transformers (4.53 and later) builds the same model.

    dtype: the dtype of the weights beside it. like: the config.json that the weights came from. What ModelConfig has no
    field for (ids of special tokens, longest position) is taken from there; without it the longest position is 32768.
    Raises ValueError for a model of no published family, or if `like` describes another model.
    """
    family = _family(cfg)
    common = {"architectures": [_ARCHITECTURES[family]], "model_type": family, "torch_dtype": dtype}
    if like is not None:
        run = {name: getattr(cfg, name) for name in RUN_FIELDS}
        other = from_hf(like, "the config.json to be like", **run)
        if other != cfg:
            raise ValueError(f"the config.json to be like is of another model: {_difference(other, cfg)}.")
        kept = {k: v for k, v in text_config(like).items() if k not in ("dtype", "auto_map", "_name_or_path")}
        return {**kept, **common}
    config = {
        **common,
        "vocab_size": cfg.vocab_size,
        "num_hidden_layers": cfg.layers,
        "hidden_size": cfg.embed,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.ff,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tie_embeddings,
        "max_position_embeddings": 32768,
        "rope_theta": cfg.rope_base,
        "rope_scaling": _rope_scaling(cfg),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    kinds = ["sliding_attention" if i in cfg.local_layers else "full_attention" for i in range(cfg.layers)]
    if family in ("qwen2", "qwen3"):
        config |= {"use_sliding_window": bool(cfg.local_layers), "sliding_window": cfg.window or None}
        config |= {"layer_types": kinds, "attention_bias": False, "hidden_act": "silu"}
    elif family == "llama":
        config |= {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
    else:
        config |= {
            "layer_types": kinds,
            "sliding_window": cfg.window or None,
            "query_pre_attn_scalar": int(cfg.query_scalar) if cfg.query_scalar.is_integer() else cfg.query_scalar,
            "attn_logit_softcapping": cfg.attention_softcap or None,
            "final_logit_softcapping": cfg.logit_softcap or None,
            "attention_bias": False,
            "hidden_activation": "gelu_pytorch_tanh",
        }
        if family == "gemma3_text":
            config["rope_local_base_freq"] = cfg.local_rope_base
    back = from_hf(config, **{name: getattr(cfg, name) for name in RUN_FIELDS})
    if back != cfg:
        raise ValueError(f"no {family} model of transformers computes this one: {_difference(back, cfg)}.")
    return config


def _family(cfg):
    names = {name for traits in _TRAITS.values() for name in traits}
    plain = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    for family, traits in _TRAITS.items():
        if all(getattr(cfg, name) == traits.get(name, plain[name]) for name in names):
            return family
    described = ", ".join(f"{name} = {getattr(cfg, name)!r}" for name in sorted(names))
    raise ValueError(f"a model with {described} is of no family that transformers has ({', '.join(_TRAITS)}).")


def _difference(other, cfg):
    names = [f.name for f in dataclasses.fields(cfg) if getattr(other, f.name) != getattr(cfg, f.name)]
    return ", ".join(f"{name} = {getattr(other, name)!r} there, {getattr(cfg, name)!r} here" for name in names)


def _rope_scaling(cfg):
    if cfg.rope_scaling == "none":
        return None
    scaling = {"rope_type": cfg.rope_scaling, "factor": cfg.rope_factor}
    if cfg.rope_scaling == "llama3":
        scaling |= {"low_freq_factor": cfg.rope_low_freq, "high_freq_factor": cfg.rope_high_freq}
        scaling |= {"original_max_position_embeddings": cfg.rope_original_length}
    return scaling


# Sizes as in the published config.json files: (family, vocabulary, layers, embed, heads, kv_heads, head_dim, ff, tied).
_SIZES: dict[str, tuple[str, int, int, int, int, int, int, int, bool]] = {
    "qwen2.5-0.5b": ("qwen2", 151936, 24, 896, 14, 2, 64, 4864, True),
    "qwen2.5-1.5b": ("qwen2", 151936, 28, 1536, 12, 2, 128, 8960, True),
    "qwen2.5-3b": ("qwen2", 151936, 36, 2048, 16, 2, 128, 11008, True),
    "qwen2.5-7b": ("qwen2", 152064, 28, 3584, 28, 4, 128, 18944, False),
    "qwen3-0.6b": ("qwen3", 151936, 28, 1024, 16, 8, 128, 3072, True),
    "qwen3-1.7b": ("qwen3", 151936, 28, 2048, 16, 8, 128, 6144, True),
    "qwen3-4b": ("qwen3", 151936, 36, 2560, 32, 8, 128, 9728, True),
    "qwen3-8b": ("qwen3", 151936, 36, 4096, 32, 8, 128, 12288, False),
    "llama3-8b": ("llama", 128256, 32, 4096, 32, 8, 128, 14336, False),
    "llama3.1-8b": ("llama", 128256, 32, 4096, 32, 8, 128, 14336, False),
    "llama3.2-1b": ("llama", 128256, 16, 2048, 32, 8, 64, 8192, True),
    "llama3.2-3b": ("llama", 128256, 28, 3072, 24, 8, 128, 8192, True),
    "gemma3-270m": ("gemma3_text", 262144, 18, 640, 4, 1, 256, 2048, True),
    "gemma3-1b": ("gemma3_text", 262144, 26, 1152, 4, 1, 256, 6912, True),
    "gemma3-4b-text": ("gemma3_text", 262208, 34, 2560, 8, 4, 256, 10240, True),
}
NAMES = tuple(_SIZES)
_LLAMA3_FACTOR = {"llama3.1-8b": 8.0, "llama3.2-1b": 32.0, "llama3.2-3b": 32.0}


def named(name: str, **override: Setting) -> ModelConfig:
    """Return the `ModelConfig` of a published size, such as 'qwen2.5-7b'. override: any of its fields.

    Raises ValueError for a name that is not in NAMES or an override that is not a field.
    """
    if name not in _SIZES:
        raise ValueError(f"model {name!r} is none of {', '.join(NAMES)}; or give a folder with its config.json.")
    family, vocab_size, layers, embed, heads, kv_heads, head_dim, ff, tied = _SIZES[name]
    values = dict(
        vocab_size=vocab_size,
        layers=layers,
        embed=embed,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ff=ff,
        tie_embeddings=tied,
        smear_keys=False,
        rope_fraction=1.0,
        rope_base=1e6,
        scan_unroll=1,
        **_TRAITS[family],
    )
    if family == "llama":
        values |= {"norm_eps": 1e-5, "rope_base": 5e5}
        if name in _LLAMA3_FACTOR:
            values |= {"rope_scaling": "llama3", "rope_factor": _LLAMA3_FACTOR[name]}
    elif family == "gemma3_text":
        window = 1024 if name == "gemma3-4b-text" else 512
        local = tuple(index for index in range(layers) if (index + 1) % 6)
        values |= {"query_scalar": 256.0, "window": window, "local_layers": local, "local_rope_base": 1e4}
        if name == "gemma3-4b-text":
            values |= {"rope_scaling": "linear", "rope_factor": 8.0}
    return from_config({**values, **override})
