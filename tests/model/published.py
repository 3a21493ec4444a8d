"""Tiny checkpoints of every published family: config.json, weights from a seed, and what transformers computes on them.

The weights come from PCG64's raw bits, which numpy promises to keep, so that the stored outputs belong to them on any
machine. `python tests/model/published.py` (with torch and transformers) computes the stored outputs anew.
"""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy

STORED = Path(__file__).parent / "vectors" / "families.npz"
VOCAB, STEPS, NEW = 64, 24, 64
PROMPTS = (9, 14)  # tokens of each row's prompt for generation

_COMMON = {"vocab_size": VOCAB, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": None}
_QWEN = {**_COMMON, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "pad_token_id": None}
_LLAMA = {**_QWEN, "rms_norm_eps": 1e-5, "rope_theta": 500.0, "model_type": "llama"}
_GEMMA = {**_COMMON, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "pad_token_id": 0}


def _sizes(layers, embed, heads, kv_heads, ff, tied):
    return {
        "num_hidden_layers": layers,
        "hidden_size": embed,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ff,
        "tie_word_embeddings": tied,
    }


# Head counts and widths are odd on purpose: head_dim is rarely hidden_size / heads. Llama's original length is short,
# and windows are shorter than a prompt, so that what they switch is switched.
_SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS = {
    "qwen2": {**_QWEN, **_sizes(2, 56, 14, 2, 80, True), "model_type": "qwen2"},
    "qwen2_windows": {
        **_QWEN,
        **_sizes(3, 32, 4, 2, 40, False),
        **{"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    },
    "qwen3": {**_QWEN, **_sizes(2, 48, 4, 2, 72, True), "model_type": "qwen3", "head_dim": 20},
    "qwen3_untied": {**_QWEN, **_sizes(2, 32, 4, 4, 40, False), "model_type": "qwen3", "head_dim": 8},
    "llama3": {**_LLAMA, **_sizes(2, 48, 6, 3, 56, False), "head_dim": 10},
    "llama3.1": {
        **_LLAMA,
        **_sizes(2, 32, 4, 1, 40, True),
        "rope_scaling": {**_SCALING, "original_max_position_embeddings": 64},
    },
    "gemma2": {
        **_GEMMA,
        **_sizes(3, 48, 4, 2, 56, True),
        **{"model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 5},
        **{"rope_theta": 1000.0, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
    },
    "gemma3": {
        **_GEMMA,
        **_sizes(4, 48, 4, 1, 56, True),
        **{"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 5},
        **{"rope_theta": 5000.0, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        **{"sliding_window_pattern": 3, "final_logit_softcapping": None, "attn_logit_softcapping": None},
    },
}


def uniform(seed: str, shape, low=-1.0, high=1.0):
    """float32, uniform in [low, high)."""
    bits = np.random.PCG64(zlib.crc32(seed.encode())).random_raw(int(np.prod(shape)))
    return (low + (high - low) * ((bits >> np.uint64(40)) / 2.0**24)).reshape(shape).astype(np.float32)


def ids(case):
    """int32 [2, STEPS]."""
    return uniform(case + "/ids", (2, STEPS), 0, VOCAB).astype(np.int32)


@functools.cache
def weights(case):
    """All tensors of a case by their published names, float32; shapes follow from config.json alone."""
    c = CONFIGS[case]
    d, f, n, k = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"]
    h = c.get("head_dim") or d // n
    gemma = "gemma" in c["model_type"]
    shapes = {"model.embed_tokens.weight": (VOCAB, d), "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCAB, d)
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in (("q", n * h), ("k", k * h), ("v", k * h)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, d)
            if c["model_type"] == "qwen2":
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        shapes[at + "self_attn.o_proj.weight"] = (d, n * h)
        if c["model_type"] in ("qwen3", "gemma3_text"):
            shapes |= {f"{at}self_attn.{name}_norm.weight": (h,) for name in "qk"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (f, d) for name in ("gate", "up")}
        shapes[at + "mlp.down_proj.weight"] = (d, f)
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if gemma else []
        shapes |= {f"{at}{name}.weight": (d,) for name in norms}

    def draw(name, shape):
        x = uniform(f"{case}/{name}", shape)
        if len(shape) == 2:
            return x * np.float32((1.5 if "embed" in name else 3.0) / np.sqrt(shape[1]))
        # Gemma scales by 1 + w. Its branches weigh more than usual here: embeddings times sqrt(D) would drown them.
        center = 2.0 * ("post" in name) if gemma else 1.0 * ("norm" in name)
        return x * np.float32(0.3) + np.float32(center)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def write(folder: Path, case: str, shards: int = 1, rename=lambda name: name, dtype=np.float32) -> Path:
    """A published folder of a case, in one file or in several with an index."""
    folder.mkdir(parents=True)
    tensors = {rename(name): x.astype(dtype) for name, x in weights(case).items()}
    (folder / "config.json").write_text(json.dumps(CONFIGS[case]))
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return folder
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        safetensors.numpy.save_file({n: x for n, x in tensors.items() if places[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def reference(folder: Path, case: str):
    """What transformers computes from a folder: logits float32 [2, STEPS, V], greedy tokens int32 [2, NEW]."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # for layers this small, threads only wait for each other
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    rows = torch.tensor(ids(case), dtype=torch.long)
    with torch.no_grad():
        logits = model(rows).logits.numpy()
        greedy = [
            model.generate(row[None, :n], max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)[0, n:].numpy()
            for row, n in zip(rows, PROMPTS, strict=True)
        ]
    return model, logits, np.stack(greedy).astype(np.int32)


def stored(case):
    """(logits, greedy tokens) as `reference` gave them when the file was made."""
    with np.load(STORED) as found:
        return found[f"{case}/logits"], found[f"{case}/greedy"]


def main():
    import tempfile

    found = {}
    for case in CONFIGS:
        with tempfile.TemporaryDirectory() as parent:
            _, logits, greedy = reference(write(Path(parent) / case, case), case)
        found |= {f"{case}/logits": logits, f"{case}/greedy": greedy}
        top = np.sort(logits, axis=-1)
        print(case, "std", logits.std(), "least gap", (top[..., -1] - top[..., -2]).min(), greedy[0, :12])
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **found)
    print(STORED, STORED.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
