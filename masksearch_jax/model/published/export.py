"""Write our parameters as a published checkpoint: the reverse of load.py.

Enters: stacked [L, ...] parameters in any layout, all on devices of this process. Leaves: a folder that transformers
loads. Beside the parameters, memory holds at most one tensor of the files on the host and one layer of a stack.
Left out: adapters, and parameters that lie on several hosts: save a checkpoint of those and convert it on one host
(masksearch_jax/convert.py).
"""

import functools
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import families
from masksearch_jax.model.published.load import Tensor, tensors
from masksearch_jax.model.published.safetensors_files import DTYPES, INDEX
from masksearch_jax.runtime.types import JsonObject, Params, Pytree

# Other files of a model folder that a user of the model needs.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


def save_pretrained(
    folder: Path | str,
    cfg: ModelConfig,
    params: transformer.Params,
    *,
    like: Path | str | None = None,
    dtype: str = "",
    shard_bytes: int = 5 * 10**9,
    tokenizer: Path | str | None = None,
) -> None:
    """Write a folder that transformers loads: config.json, safetensors shards, and the companion files of `like`.

    like: a published folder of the same model, from which the ids of special tokens, generation_config.json and the
    tokenizer are taken. dtype: the dtype of the weights written; '' keeps param_dtype. shard_bytes: the largest size of
    a weight file. tokenizer: a folder with the tokenizer that training used, if it added tokens to that of `like`; the
    embedding may then have another number of rows than `like` says.
    One tensor is written at a time. The folder appears under its name only when it is complete.
    Raises FileExistsError for a folder that is not empty, ValueError for a model of no published family or for
    parameters that lie on devices of other processes.
    """
    folder, dtype = Path(folder), dtype or cfg.param_dtype
    refuse_full(folder)
    if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params)):
        raise ValueError(f"{folder}: parameters of several processes; save a checkpoint and convert it on one machine")
    base = json.loads((Path(like) / "config.json").read_text()) if like is not None else None
    if base is not None and tokenizer is not None:
        base = families.text_config(base) | {"vocab_size": cfg.vocab_size}
    config = families.to_hf(cfg, dtype, base)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    plan = _plan(tensors(cfg), np.dtype(dtype).itemsize, shard_bytes)
    for file, held in plan.items():
        save_tensors(part / file, params, held, dtype)
    if len(plan) > 1:
        size = sum(math.prod(t.file_shape) for held in plan.values() for t in held) * np.dtype(dtype).itemsize
        places = {t.name: file for file, held in plan.items() for t in held}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (part / INDEX).write_text(json.dumps(index, indent=1))
    (part / "config.json").write_text(json.dumps(config, indent=1))
    for companions in (like, tokenizer):
        if companions:
            copy_companions(companions, part)
    if folder.exists():
        folder.rmdir()
    part.rename(folder)


def save_tensors(path: Path, params: Params, held: list[Tensor], dtype: str) -> None:
    """Write the arrays of `held` to one safetensors file: header length (8 bytes), JSON header, the tensors' bytes.

    This writes one tensor at a time; the library's own writer needs all tensors of a file in memory at once.
    """
    code = next(code for code, known in DTYPES.items() if known == np.dtype(dtype))
    header: JsonObject = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in held:
        size = math.prod(tensor.file_shape) * np.dtype(dtype).itemsize
        header[tensor.name] = {"dtype": code, "shape": tensor.file_shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors start aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in held:
            file.write(_whole(params, tensor, dtype).view(np.uint8).data)


def refuse_full(folder: Path) -> None:
    """Raise FileExistsError if the folder exists and is not empty."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name another folder, or remove it first")


def copy_companions(source: Path | str, target: Path) -> None:
    """Copy those files of COMPANIONS that exist in `source`."""
    for name in COMPANIONS:
        if (Path(source) / name).exists():
            shutil.copyfile(Path(source) / name, target / name)


def _plan(wanted: list[Tensor], itemsize: int, shard_bytes: int) -> Mapping[str, list[Tensor]]:
    """Return the tensors of each file by file name.

    Files are filled in order, and none exceeds shard_bytes unless a single tensor does.
    """
    shards: list[list[Tensor]] = [[]]
    free = shard_bytes
    for tensor in wanted:
        size = math.prod(tensor.file_shape) * itemsize
        if shards[-1] and size > free:
            shards.append([])
            free = shard_bytes
        shards[-1].append(tensor)
        free -= size
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": held for i, held in enumerate(shards, 1)}


def _whole(params: transformer.Params, tensor: Tensor, dtype: str) -> np.ndarray:
    """Return one tensor as the file holds it, assembled on the host; on the mesh every device would get a copy."""
    array: Pytree = params
    for key in tensor.path:
        array = array[key]
    if tensor.layer is not None:
        layout = NamedSharding(array.sharding.mesh, PartitionSpec(*array.sharding.spec[1:]))
        array = _layer(layout)(array, tensor.layer)
    order = tensor.rows + tensor.columns
    out = np.empty([tensor.shape[axis] for axis in order], dtype)
    ours = out.transpose(np.argsort(order))  # our order of axes, without a copy
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            ours[shard.index] = np.asarray(shard.data)
    return out.reshape(tensor.file_shape)


@functools.lru_cache(maxsize=32)
def _layer(layout):
    def take(stack, layer):
        return jax.lax.dynamic_index_in_dim(stack, layer, 0, keepdims=False)

    return jax.jit(take, out_shardings=layout)
