"""A tiny BERT checkpoint with drawn weights, in the published folder format. Also the reference of bert_vectors.json:

pip install torch transformers safetensors && python tests/retrieval/tiny_bert.py
"""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

TEXTS = [
    "the cat sat",
    "The CAT sat on the mat, the mat on the dog; a dog ran on and on, the cat ran.",
    "a",
    "unknownword runs",
]
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on mat dog a ran and run ##s , . ;".split()
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(VOCABULARY),
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def tensors() -> dict[str, np.ndarray]:
    """Names and shapes ([out, in]) as in published checkpoints; the values come from numpy's frozen legacy stream."""
    draw, d, f = np.random.RandomState(0), CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (CONFIG["vocab_size"], d),
        "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (2, d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
    dense = {
        "attention.self.query": (d, d),
        "attention.self.key": (d, d),
        "attention.self.value": (d, d),
        "attention.output.dense": (d, d),
        "intermediate.dense": (f, d),
        "output.dense": (d, f),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, shape in dense.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shapes[f"encoder.layer.{layer}.{name}.bias"] = (d,)
    out = {}
    for name, shape in shapes.items():
        value = draw.standard_normal(shape) * (0.5 if len(shape) == 2 else 0.2)
        out[name] = (value + name.endswith("LayerNorm.weight")).astype(np.float32)
    return out


def write(directory: Path, prefix: str = "") -> None:
    """Writes config.json, vocab.txt, tokenizer_config.json, 1_Pooling/config.json and model.safetensors."""
    (directory / "1_Pooling").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (directory / "1_Pooling/config.json").write_text(
        '{"word_embedding_dimension": 12, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}'
    )
    safetensors.numpy.save_file({prefix + k: v for k, v in tensors().items()}, directory / "model.safetensors")


def reference(ids: list[list[int]], config: dict, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns unit vectors of the token ids, by pooling, computed by transformers."""
    import torch
    import transformers

    model = transformers.BertModel(transformers.BertConfig(**config), add_pooling_layer=False).eval()
    missing, surplus = model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    assert not surplus and all("position_ids" in name for name in missing), (missing, surplus)
    out = {"mean": [], "cls": []}
    for row in ids:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([row])).last_hidden_state[0].numpy()
        for pooling, pooled in (("mean", hidden.mean(0)), ("cls", hidden[0])):
            out[pooling].append(pooled / np.linalg.norm(pooled))
    return {pooling: np.stack(rows) for pooling, rows in out.items()}


def ids_of(text: str) -> list[int]:
    """WordPiece ids of the texts above, by hand: lower case, punctuation apart, 'runs' is 'run ##s'."""
    for mark in ",.;":
        text = text.replace(mark, f" {mark} ")
    pieces = text.lower().replace("runs", "run ##s").split()
    return [VOCABULARY.index(p) if p in VOCABULARY else 1 for p in ["[CLS]", *pieces, "[SEP]"]]


if __name__ == "__main__":
    found = reference([ids_of(text) for text in TEXTS], CONFIG, tensors())
    rounded = {pooling: [[round(float(x), 6) for x in row] for row in rows] for pooling, rows in found.items()}
    lines = [f' "{pooling}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for pooling, rows in rounded.items()]
    Path(__file__).with_name("bert_vectors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
