"""Convert GGUF files (llama.cpp) to Hugging Face folders: config.json, weights, tokenizer, chat template.

Enters: one .gguf file of a Llama, Qwen2, Qwen3 or Gemma 3 model, in any quantisation that the `gguf` library
dequantises. Leaves: a folder as transformers writes it, with the weights in one safetensors file, which
`--config.pretrained` and `masksearch_jax.convert` read.

GGUF differs from the Hugging Face format in three ways, which are undone here. Llama files hold the rows of the query
and key projections in another order (rotary halves interleaved). Gemma files hold norm weights plus one. Llama 3.1
files hold its rotary scaling as a tensor of factors, not as settings. Left out: files split over several parts, and
mixtures of experts; both are refused by name.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from masksearch_jax.model.published import gguf_tokenizer
from masksearch_jax.runtime import json_files
from masksearch_jax.runtime.types import Json, JsonObject

_Number = TypeVar("_Number", int, float)

# general.architecture -> (model_type, architectures) of config.json.
_FAMILIES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma has a norm before and after each block.
_GEMMA_LAYER = _LAYER | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_ROPE_FACTORS = "rope_freqs.weight"
# The settings that Llama 3.1 and 3.2 were published with; a file holds only the factors that follow from them.
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class GgufFile:
    """The metadata and the tensors of a GGUF file.

    Raises FileNotFoundError for a missing file, and ValueError that names the file if it is not a GGUF file, is
    truncated, or holds a model of another kind. Without the `gguf` library it raises ImportError that says what to
    install.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        library = _library()
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist; name a .gguf file")
        with self.path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise ValueError(f"{self.path} is a pointer of git-lfs, not the file itself; fetch it with `git lfs pull`")
        if start[:4] != b"GGUF":
            raise ValueError(f"{self.path} is no GGUF file (it begins with {start[:4]!r})")
        try:
            self._reader = library.GGUFReader(self.path)
            self.metadata: JsonObject = {
                name: field.contents() for name, field in self._reader.fields.items() if not name.startswith("GGUF.")
            }
        except Exception as error:  # whatever the library raises for a truncated or damaged file
            raise ValueError(f"{self.path} is cut or damaged ({error!r}); download it again") from error
        size = self.path.stat().st_size
        for tensor in self._reader.tensors:
            if tensor.data_offset + tensor.n_bytes > size:
                raise ValueError(f"{self.path} ends within the tensor {tensor.name}; download it again")
        self.shapes = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in self._reader.tensors}
        if len(self.shapes) != len(self._reader.tensors):
            raise ValueError(f"{self.path} holds two tensors of one name")
        if int(self.metadata.get("split.count", 1) or 1) > 1:
            raise ValueError(f"{self.path} is one part of several; join them with `llama-gguf-split --merge`")
        self.architecture = str(self.metadata.get("general.architecture"))
        if self.architecture not in _FAMILIES:
            raise ValueError(
                f"{self.path}: general.architecture={self.architecture!r} is none of {', '.join(_FAMILIES)}"
            )

    def value(self, name: str, kind: type[_Number] = int) -> _Number:
        """Return `<architecture>.<name>` as `kind`; raise ValueError that names what is missing or ill-typed."""
        found = self.metadata.get(f"{self.architecture}.{name}")
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise ValueError(f"{self.path}: {self.architecture}.{name} is {found!r}, which is no number")
        return kind(found)

    def has(self, name: str) -> bool:
        return self.metadata.get(f"{self.architecture}.{name}") is not None

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as float32, in the row-major shape of `shapes`."""
        found = next(t for t in self._reader.tensors if t.name == name)
        try:
            values = _library().dequantize(found.data, found.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(
                f"{self.path}: {name} is quantised as {found.tensor_type.name}, which cannot be read ({error})"
            ) from error
        return np.asarray(values, np.float32).reshape(self.shapes[name])


def convert_gguf(source: Path | str, target: Path, dtype: str = "float32") -> JsonObject:
    """Write the folder `target` for a GGUF file, and return its config.json.

    dtype: the dtype of the weights written, one of model.config.DTYPES; 'float32' keeps the dequantised values exactly.
    The whole model is held in memory. Raises ValueError that names the file and what is wrong with it, before anything
    is written.
    """
    file = GgufFile(source)
    config = hf_config(file)
    names = _names(file, config)
    tokenizer = gguf_tokenizer.tokenizer_files(file.metadata, str(file.path))
    weights = {hf: array.astype(jnp.dtype(dtype)) for hf, array in _weights(file, names, config)}
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    json_files.write_json(target / "config.json", config | {"torch_dtype": dtype})
    ends = {"eos_token_id": _end_ids(file, config)}
    json_files.write_json(target / "generation_config.json", ends | _present(config, "bos_token_id", "pad_token_id"))
    for name, content in tokenizer.items():
        json_files.write_json(target / name, content)
    if template := file.metadata.get("tokenizer.chat_template"):
        (target / "chat_template.jinja").write_text(str(template), encoding="utf-8")
    return config


def hf_config(file: GgufFile) -> JsonObject:
    """Return the config.json of a GGUF file's model, in the spelling of transformers 4 and 5."""
    model_type, architecture = _FAMILIES[file.architecture]
    if file.has("expert_count") and file.value("expert_count"):
        raise ValueError(f"{file.path} is a mixture of experts, which the decoder does not compute")
    heads, embed = file.value("attention.head_count"), file.value("embedding_length")
    head_dim = file.value("attention.key_length") if file.has("attention.key_length") else embed // heads
    if "token_embd.weight" not in file.shapes:
        raise ValueError(f"{file.path} has no tensor token_embd.weight")
    config: JsonObject = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": file.shapes["token_embd.weight"][0],
        "hidden_size": embed,
        "num_hidden_layers": file.value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.value("attention.head_count_kv") if file.has("attention.head_count_kv") else heads,
        "head_dim": head_dim,
        "intermediate_size": file.value("feed_forward_length"),
        "max_position_embeddings": file.value("context_length"),
        "rms_norm_eps": file.value("attention.layer_norm_rms_epsilon", float),
        # A file without an output matrix uses the embeddings for it.
        "tie_word_embeddings": "output.weight" not in file.shapes,
        "attention_bias": False,
        "rope_theta": file.value("rope.freq_base", float) if file.has("rope.freq_base") else _default_base(file),
        "rope_scaling": _rope_scaling(file, head_dim),
        **_special_ids(file),
    }
    if file.has("rope.dimension_count") and file.value("rope.dimension_count") != head_dim:
        raise ValueError(
            f"{file.path}: {file.architecture}.rope.dimension_count={file.value('rope.dimension_count')} rotates a part"
            f" of a head of {head_dim}, which the decoder does not compute for published models"
        )
    if file.architecture == "gemma3":
        layers = range(config["num_hidden_layers"])
        config |= {
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": file.value("attention.sliding_window"),
            "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in layers],
            # As llama.cpp scales scores: by one over the root of head_dim, except in the 27B model (62 layers), where
            # it takes hidden_size / heads for head_dim.
            "query_pre_attn_scalar": embed // heads if config["num_hidden_layers"] == 62 else head_dim,
            "rope_local_base_freq": 10000.0,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        }
    else:
        config |= {"hidden_act": "silu", "mlp_bias": False} if model_type == "llama" else {"hidden_act": "silu"}
    if model_type.startswith("qwen"):
        config |= {"use_sliding_window": False, "sliding_window": None}
    return config


def _default_base(file: GgufFile) -> float:
    return 1e6 if file.architecture == "gemma3" else 10000.0


def _special_ids(file: GgufFile) -> dict[str, int]:
    found = {}
    for key, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        value = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if value is not None:
            found[f"{name}_token_id"] = int(value)
    if "eos_token_id" not in found:
        raise ValueError(f"{file.path} has no tokenizer.ggml.eos_token_id, so no turn would end")
    return found


def _end_ids(file: GgufFile, config: Mapping[str, Json]) -> list[int]:
    """Return the ids that end a text or a turn; a chat model's file names the end of a turn separately."""
    turn = file.metadata.get("tokenizer.ggml.eot_token_id")
    return sorted({config["eos_token_id"], *([] if turn is None else [int(turn)])})


def _rope_scaling(file: GgufFile, head_dim: int) -> JsonObject | None:
    """Return rope_scaling, from the metadata (linear) or from the tensor of factors (Llama 3.1 and later)."""
    if _ROPE_FACTORS in file.shapes:
        return _llama3_scaling(file, head_dim)
    kind = file.metadata.get(f"{file.architecture}.rope.scaling.type", "none")
    factor = file.value("rope.scaling.factor", float) if file.has("rope.scaling.factor") else 1.0
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind != "linear":
        raise ValueError(f"{file.path}: {file.architecture}.rope.scaling.type={kind!r}; none and linear are computed")
    return {"rope_type": "linear", "factor": factor}


def _llama3_scaling(file: GgufFile, head_dim: int) -> JsonObject:
    """Return the Llama 3 scaling whose factors the file holds.

    The file's factors are 1 for high frequencies, `factor` for low ones, and in between for the others. So the largest
    of them is `factor`. Raises ValueError unless the published bounds reproduce all of them.
    """
    factors = file.tensor(_ROPE_FACTORS).reshape(-1)
    base = file.value("rope.freq_base", float)
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3_ROPE}
    expected = llama3_factors(base, head_dim, scaling)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise ValueError(
            f"{file.path}: the factors in {_ROPE_FACTORS} are not those of Llama 3.1 ({_LLAMA3_ROPE}), "
            "and no setting of the file says what they are"
        )
    return scaling


def llama3_factors(base: float, head_dim: int, scaling: Mapping[str, Json]) -> np.ndarray:
    """Return float32 [head_dim / 2]: the divisor of each rotary frequency under Llama 3's scaling."""
    wavelength = 2 * np.pi * base ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    length, low, high = (
        scaling[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    smooth = np.clip((length / wavelength - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def _names(file: GgufFile, config: Mapping[str, Json]) -> dict[str, str]:
    """Return {tensor name in the file: name in the folder}; raise ValueError for missing, unknown or misshapen ones."""
    layer = _GEMMA_LAYER if file.architecture == "gemma3" else _LAYER
    names = {}
    for name in file.shapes:
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        if name == _ROPE_FACTORS:
            continue
        if name in _TOP:
            names[name] = _TOP[name]
        elif match and match[2] in layer and int(match[1]) < config["num_hidden_layers"]:
            names[name] = f"model.layers.{match[1]}.{layer[match[2]]}.{match[3]}"
        else:
            raise ValueError(f"{file.path}: the tensor {name} is none that a {file.architecture} model here has")
    expected = _expected_shapes(file.architecture, config)
    found = {hf: file.shapes[name] for name, hf in names.items()}
    if missing := sorted(set(expected) - set(found)):
        back = {hf: name for name, hf in _gguf_names(layer, config).items()}
        raise ValueError(f"{file.path} lacks the tensor {back[missing[0]]}" + _more(missing))
    if extra := sorted(set(found) - set(expected)):
        raise ValueError(f"{file.path}: {extra[0]} is no tensor of a {file.architecture} model here" + _more(extra))
    for hf, shape in expected.items():
        if found[hf] != shape:
            raise ValueError(f"{file.path}: {hf} has the shape {found[hf]}, and the metadata make it {shape}")
    return names


def _gguf_names(layer: Mapping[str, str], config: Mapping[str, Json]) -> dict[str, str]:
    names = dict(_TOP)
    for i in range(config["num_hidden_layers"]):
        for ours, theirs in layer.items():
            names |= {f"blk.{i}.{ours}.{end}": f"model.layers.{i}.{theirs}.{end}" for end in ("weight", "bias")}
    return names


def _expected_shapes(architecture: str, config: Mapping[str, Json]) -> dict[str, tuple[int, ...]]:
    embed, ff, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], embed),
        "model.norm.weight": (embed,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], embed)
    for i in range(config["num_hidden_layers"]):
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (embed,),
            "self_attn.q_proj.weight": (query, embed),
            "self_attn.k_proj.weight": (keys, embed),
            "self_attn.v_proj.weight": (keys, embed),
            "self_attn.o_proj.weight": (embed, query),
            "post_attention_layernorm.weight": (embed,),
            "mlp.gate_proj.weight": (ff, embed),
            "mlp.up_proj.weight": (ff, embed),
            "mlp.down_proj.weight": (embed, ff),
        }
        if architecture == "qwen2":
            block |= {"self_attn.q_proj.bias": (query,), "self_attn.k_proj.bias": (keys,)}
            block |= {"self_attn.v_proj.bias": (keys,)}
        if architecture in ("qwen3", "gemma3"):
            block |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
        if architecture == "gemma3":
            block |= {"pre_feedforward_layernorm.weight": (embed,), "post_feedforward_layernorm.weight": (embed,)}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    return shapes


def _weights(file: GgufFile, names: Mapping[str, str], config: Mapping[str, Json]) -> Iterator[tuple[str, np.ndarray]]:
    for name, hf in names.items():
        array = file.tensor(name)
        if file.architecture == "llama" and ".attn_q." in name:
            array = _rotary_halves(array, config["num_attention_heads"])
        if file.architecture == "llama" and ".attn_k." in name:
            array = _rotary_halves(array, config["num_key_value_heads"])
        if file.architecture == "gemma3" and name.endswith("norm.weight"):
            array = array - 1.0
        if not np.isfinite(array).all():
            raise ValueError(f"{file.path}: the tensor {name} holds values that are not finite")
        yield hf, array


def _rotary_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's interleaving of rows [heads * head_dim, ..]: move the pairs (0, 1), (2, 3) .. to two halves."""
    dim = rows.shape[0] // heads // 2
    return rows.reshape(heads, dim, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _present(config: Mapping[str, Json], *names: str) -> JsonObject:
    return {name: config[name] for name in names if name in config}


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _library() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise ImportError("reading a .gguf file needs the library gguf: pip install 'masksearch_jax[gguf]'") from None
    return gguf
