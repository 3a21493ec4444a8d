"""Checks of a published config.json: refuse, by name, settings that we would misread or do not compute.

Enters: the language model's part of a config.json. Left out: sizes, which published/families.py checks when it reads
them.
"""

from collections.abc import Mapping

from masksearch_jax.runtime.types import Json

_SWITCHES = ("tie_word_embeddings", "use_sliding_window")
_COUNTS = ("sliding_window", "max_window_layers", "sliding_window_pattern", "_sliding_window_pattern")
_POSITIVE = ("rope_theta", "rope_local_base_freq", "query_pre_attn_scalar", "partial_rotary_factor")
_NOT_NEGATIVE = ("rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping")
_ROPE_NUMBERS = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# Settings that make a different network out of one of these families. The decoder supports none of them.
_ANOTHER_NETWORK = (
    "compression_config",
    "pruned_heads",
    "is_encoder_decoder",
    "add_cross_attention",
    "num_experts",
    "num_local_experts",
    "use_mrope",
)
_LAYER_KINDS = ("full_attention", "sliding_attention")
_LARGEST = 2**31 - 1  # positions are int32
_BEYOND = 1e30


def check_config(config: Mapping[str, Json], family: str, source: str) -> None:
    """Raise ValueError for a setting of the wrong kind and for one that the decoder does not compute.

    family: one of transformers' model types. source: the file's name; each message starts with it, and names the
    setting and its value.
    """
    for key in _SWITCHES:
        if not isinstance(config.get(key), bool | None):
            raise _wrong(source, key, config[key], "true or false")
    for key in _COUNTS:
        value = config.get(key)
        if value is not None and not (type(value) is int and 0 <= value <= _LARGEST):
            raise _wrong(source, key, value, "a count")
    for key in (*_POSITIVE, *_NOT_NEGATIVE):
        _check_number(config.get(key), key, source, zero=key in _NOT_NEGATIVE)
    if config.get("is_causal") is False:
        raise ValueError(f"{source}: is_causal = False; tokens see only what precedes them here.")
    if found := [f"{key} = {config[key]!r}" for key in _ANOTHER_NETWORK if config.get(key)]:
        raise ValueError(f"{source}: {', '.join(found)}, which the decoder does not compute.")
    _check_layers(config.get("layer_types"), config.get("num_hidden_layers"), family, source)
    for key in ("rope_scaling", "rope_parameters"):
        _check_rope(config.get(key), key, family, source)


def _check_number(value: Json, key: str, source: str, zero: bool = False) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _BEYOND or (value == 0 and not zero):  # NaN fails this too
        raise _wrong(source, key, value, "a number from 0" if zero else "a number above 0")


def _check_layers(kinds: Json, layers: Json, family: str, source: str) -> None:
    if kinds is None:
        return
    if not isinstance(kinds, list):
        raise _wrong(source, "layer_types", kinds, "a list with the kind of each layer")
    if len(kinds) != layers:
        raise ValueError(f"{source}: layer_types has {len(kinds)} entries, and num_hidden_layers = {layers!r}.")
    known = _LAYER_KINDS[:1] if family == "llama" else _LAYER_KINDS
    for index, kind in enumerate(kinds):
        if kind not in known:
            raise ValueError(f"{source}: layer_types[{index}] = {kind!r}; a {family} model has {' or '.join(known)}.")


def _check_rope(rope: Json, key: str, family: str, source: str) -> None:
    """Raise ValueError for rotary settings in a form that this family does not have.

    Rotary settings are one object for all layers; only the rope_parameters of Gemma 3 hold one object per kind of
    layer. A family that got the form of the other would be read as if it had no settings at all.
    """
    if rope is None:
        return
    if not isinstance(rope, Mapping):
        raise _wrong(source, key, rope, "an object")
    by_kind = [kind for kind in _LAYER_KINDS if kind in rope]
    if key == "rope_parameters" and family == "gemma3_text":
        if rope and not by_kind:
            raise ValueError(f"{source}: {key} of a {family} model holds an object for each of {_LAYER_KINDS}.")
        for kind in by_kind:
            _check_rope(rope[kind], f"{key}.{kind}", family, source)
        return
    if by_kind:
        raise ValueError(f"{source}: {key}.{by_kind[0]}; all layers of a {family} model rotate alike here.")
    for name in _ROPE_NUMBERS:
        _check_number(rope.get(name), f"{key}.{name}", source)
    if not isinstance(rope.get("original_max_position_embeddings"), int | None):
        name = "original_max_position_embeddings"
        raise _wrong(source, f"{key}.{name}", rope[name], "a count")


def _wrong(source: str, key: str, value: Json, wanted: str) -> ValueError:
    return ValueError(f"{source} holds a value of the wrong kind: {key} = {value!r:.100}, where {wanted} belongs.")
