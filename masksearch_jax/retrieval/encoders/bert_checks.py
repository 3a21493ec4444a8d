"""Refuse a checkpoint folder that asks for something the encoder network does not compute, by the name of the file.

Enters: the folder, its config.json, its tensors. If a setting or a tensor went unread, the vectors would differ from
the encoder's own, and nothing downstream could tell.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from masksearch_jax.runtime.json_files import read_json
from masksearch_jax.runtime.types import Json

MODULES_FILE = "modules.json"
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
)
_LARGEST = 1 << 24
# Settings that make a BERT another network; this encoder supports none of them.
_ANOTHER_NETWORK = (
    "is_decoder",
    "add_cross_attention",
    "pruned_heads",
    "quantization_config",
    "compression_config",
    "embedding_size",
)
# Tensors that do not affect a text's vector: the pooler, heads of pretraining, and the numbers 0, 1, 2, ...
_HARMLESS = re.compile(r"(pooler|cls|classifier|dropout)\..*|embeddings\.(position_ids|token_type_ids)")
_AGAIN = "copy the checkpoint again"


def check_config(config: Mapping[str, Json], path: Path | str) -> None:
    """Raise ValueError that names a missing or ill-typed setting of config.json, or one that is not computed."""
    for key in _SIZES:
        value = config.get(key)
        if not (type(value) is int and 0 < value <= _LARGEST):
            raise ValueError(f"{path}: {key} is {value!r:.100}, a size of at least 1 belongs there; {_AGAIN}")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if width % heads:
        raise ValueError(f"{path}: num_attention_heads = {heads} does not divide hidden_size = {width}; {_AGAIN}")
    epsilon = config.get("layer_norm_eps")
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise ValueError(f"{path}: layer_norm_eps is {epsilon!r:.100}, a small number belongs there; {_AGAIN}")
    if found := [f"{key} = {config[key]!r:.100}" for key in _ANOTHER_NETWORK if config.get(key)]:
        raise ValueError(f"{path}: {', '.join(found)}, which this encoder does not compute")


def check_modules(folder: Path) -> None:
    """Raise ValueError for a sentence-transformers folder with modules that are not computed here, such as Dense.

    A folder without modules.json is a plain checkpoint.
    """
    path = folder / MODULES_FILE
    if not path.exists():
        return
    found = read_json(path, _AGAIN)
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise ValueError(f"{path} holds no list of modules; {_AGAIN}")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in found]
    if unknown := [kind for kind in kinds if kind not in _KNOWN_MODULES]:
        raise ValueError(f"{path}: {', '.join(unknown)}; this encoder computes {', '.join(_KNOWN_MODULES)} only")


def check_vocabulary(tokens: int, rows: int, folder: Path) -> None:
    """Raise ValueError for a tokenizer with more `tokens` than config.json gives `rows` to the word table.

    A token without a row would be read as the last row.
    """
    if tokens > rows:
        raise ValueError(f"{folder}: the tokenizer has {tokens} tokens, config.json says vocab_size = {rows}; {_AGAIN}")


def check_tensors(tensors: Mapping[str, np.ndarray], read: Iterable[str], path: Path) -> None:
    """Raise ValueError for a tensor that the network has no place for, or one that holds no floating-point numbers.

    read: names of the tensors that the network takes. A surplus layer means that config.json is of another model.
    """
    names = set(read)
    surplus = sorted(name for name in tensors if name not in names and not _HARMLESS.fullmatch(name))
    if surplus:
        raise ValueError(
            f"{path} holds {len(surplus)} tensors that config.json has no place for, such as {surplus[0]!r}; {_AGAIN}"
        )
    for name in names & set(tensors):
        if tensors[name].dtype.kind not in "fV":  # V: bfloat16 and the like, as numpy sees them
            raise ValueError(f"{path}: the tensor {name!r} is {tensors[name].dtype}, no floating-point numbers")
