"""Tiny GGUF files, written with the gguf library as llama.cpp's converter writes them, from tiny published folders."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_NAMES = _NAMES | {
    "pre_feedforward_layernorm": "ffn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name: str, names: dict[str, str]) -> str:
    stem, end = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{names[rest]}.{end}"
    return f"{names[stem]}.{end}"


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of query and key rows: row i of the first rotary half beside row i of the second."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(rows.shape)


def write(
    path: Path,
    config: dict[str, Any],
    weights: dict[str, np.ndarray],
    tokenizer: Path,
    pre: str,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a file of a config.json, published weights and a tokenizer folder; matrices in `quantisation`.

    extra: tensors by their name in the file, replacing or added to the others; None leaves one out.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if architecture == "llama":
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(config["vocab_size"])
    if architecture == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
    _write_tokenizer(writer, tokenizer, pre, config["vocab_size"])
    names = _GEMMA_NAMES if architecture == "gemma3" else _NAMES
    tensors = {}
    for name, array in weights.items():
        if architecture == "llama" and ".q_proj." in name:
            array = interleaved(array, heads)
        if architecture == "llama" and ".k_proj." in name:
            array = interleaved(array, keys)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            array = array + np.float32(1)
        tensors[gguf_name(name, names)] = array
    for name, array in (tensors | (extra or {})).items():
        if array is None:
            continue
        array = np.ascontiguousarray(array, np.float32)
        if array.ndim == 2 and quantisation != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quantize(array, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path, pre: str, vocab_size: int) -> None:
    settings = json.loads((folder / "tokenizer.json").read_text())
    named = json.loads((folder / "tokenizer_config.json").read_text())
    model = settings["model"]
    added = {token["id"]: token for token in settings["added_tokens"]}
    pieces = {i: piece for piece, i in model["vocab"].items()} | {i: token["content"] for i, token in added.items()}
    tokens = [pieces.get(i, f"[PAD{i}]") for i in range(max(vocab_size, max(pieces) + 1))]
    kinds = []
    for i, token in enumerate(tokens):
        if i in added:
            kinds.append(3 if added[i]["special"] else 4)
        elif len(token) == 6 and token.startswith("<0x"):
            kinds.append(6)
        else:
            kinds.append(1 if i in pieces else 5)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pre:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    else:
        writer.add_tokenizer_model("llama")
        ranks = {"".join(m): -float(rank) for rank, m in reversed(list(enumerate(model["merges"])))}
        writer.add_token_scores([ranks.get(token, -1e6) for token in tokens])
        writer.add_add_space_prefix(False)
    for role, add in (
        ("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id), ("unk_token", writer.add_unk_token_id),
    ):  # fmt: skip
        token = named.get(role)
        token = token["content"] if isinstance(token, dict) else token
        if token is not None:
            add(tokens.index(token))
    processor = settings.get("post_processor") or {}
    writer.add_add_bos_token(processor.get("type") == "TemplateProcessing")
    template = named.get("chat_template")
    if template:
        writer.add_chat_template(template)
