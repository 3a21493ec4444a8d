"""Load published checkpoints into our parameters: safetensors files, never pickles.

Enters: a folder as transformers writes it, with config.json and model.safetensors, or shards with an index. Leaves:
stacked [L, ...] parameters in their sharded layout. Tensors are read one by one, and of each only the slices that the
devices of this process hold. So beside the parameters a host never holds more than two of the largest tensors.
Left out: the reverse (export.py), our own checkpoints (runtime/checkpoints.py), and which stage starts from what.
"""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import families
from masksearch_jax.model.published.safetensors_files import DTYPES, SINGLE, SafetensorsFiles
from masksearch_jax.runtime import json_files
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import Params, Pytree, Setting

# Bytes of a file mapped into memory at a time: mapped pages count as memory of the process until the file is closed.
_BLOCK_BYTES = 32 << 20

# Our array -> (name in the file, axes of one layer's array that form the file's rows, axes that form its columns).
# The file stores a linear map as [out, in], with heads and head_dim as one axis.
_Row = tuple[str, tuple[int, ...], tuple[int, ...]]
_LAYER: dict[tuple[str, ...], _Row] = {
    ("attention", "q"): ("self_attn.q_proj.weight", (1, 2), (0,)),  # [D, N, H]
    ("attention", "k"): ("self_attn.k_proj.weight", (1, 2), (0,)),
    ("attention", "v"): ("self_attn.v_proj.weight", (1, 2), (0,)),
    ("attention", "o"): ("self_attn.o_proj.weight", (2,), (0, 1)),  # [N, H, D]
    ("attention", "q_bias"): ("self_attn.q_proj.bias", (0, 1), ()),  # [N, H]
    ("attention", "k_bias"): ("self_attn.k_proj.bias", (0, 1), ()),
    ("attention", "v_bias"): ("self_attn.v_proj.bias", (0, 1), ()),
    ("attention", "q_norm"): ("self_attn.q_norm.weight", (0,), ()),
    ("attention", "k_norm"): ("self_attn.k_norm.weight", (0,), ()),
    ("mlp", "gate"): ("mlp.gate_proj.weight", (1,), (0,)),  # [D, F]
    ("mlp", "up"): ("mlp.up_proj.weight", (1,), (0,)),
    ("mlp", "down"): ("mlp.down_proj.weight", (1,), (0,)),  # [F, D]
    ("attention_norm",): ("input_layernorm.weight", (0,), ()),
    ("mlp_norm",): ("post_attention_layernorm.weight", (0,), ()),
}
# With post_norms the file's name post_attention_layernorm means the norm after attention, not the one before the MLP.
_POST_NORMS: dict[tuple[str, ...], _Row] = {
    ("attention_post_norm",): ("post_attention_layernorm.weight", (0,), ()),
    ("mlp_norm",): ("pre_feedforward_layernorm.weight", (0,), ()),
    ("mlp_post_norm",): ("post_feedforward_layernorm.weight", (0,), ()),
}
_TOP: dict[tuple[str, ...], _Row] = {
    ("embedding",): ("model.embed_tokens.weight", (0,), (1,)),  # [V, D]
    ("final_norm",): ("model.norm.weight", (0,), ()),
    ("unembedding",): ("lm_head.weight", (1,), (0,)),  # [D, V]
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a published file, and its place in our tree."""

    name: str
    path: tuple[str, ...]  # keys into params
    layer: int | None  # index into the leading axis L; None if the array is not stacked
    shape: tuple[int, ...]  # shape in our tree, without L
    rows: tuple[int, ...]  # axes of `shape` that form the file's rows
    columns: tuple[int, ...]

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape in the file: two axes, or one for a vector."""
        axes = (self.rows, self.columns) if self.columns else (self.rows,)
        return tuple(math.prod(self.shape[axis] for axis in merged) for merged in axes)


def tensors(cfg: ModelConfig) -> list[Tensor]:
    """Return every tensor of a published checkpoint of this model, in the order of our tree and then of the layers.

    Raises ValueError for a parameter that no published family has.
    """
    layer_names = {**_LAYER, **(_POST_NORMS if cfg.post_norms else {})}
    abstract = transformer.abstract_params(cfg, mesh_lib.make_mesh(1, 1, 1, devices=jax.local_devices()[:1]))
    found = []
    for keys, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]:
        path = tuple(key.key for key in keys)
        stacked = path[0] == "blocks"
        entry = layer_names.get(path[1:]) if stacked else _TOP.get(path)
        if entry is None:
            raise ValueError(f"parameter {'.'.join(path)} {leaf.shape} has no name in published checkpoints.")
        name, rows, columns = entry
        if stacked:
            found += [
                Tensor(f"model.layers.{layer}.{name}", path, layer, leaf.shape[1:], rows, columns)
                for layer in range(cfg.layers)
            ]
        else:
            found.append(Tensor(name, path, None, leaf.shape, rows, columns))
    return found


def count_parameters(cfg: ModelConfig) -> int:
    """Return the number of weights of a published checkpoint of this model."""
    return sum(math.prod(tensor.shape) for tensor in tensors(cfg))


def load_pretrained(
    folder: Path | str, mesh: Mesh, rules: mesh_lib.Rules = mesh_lib.TRAIN, **override: Setting
) -> tuple[ModelConfig, transformer.Params]:
    """Read a published checkpoint into the sharded layout of `rules`.

    folder: holds config.json with model.safetensors, or shards and their index; of a Gemma 3 with vision only the
    language model is read. override: families.RUN_FIELDS of the ModelConfig; weights are cast to param_dtype.
    All processes make the same call, and each reads what its own devices hold.
    Raises FileNotFoundError for a missing file. Raises ValueError for a model that the decoder does not compute, for
    files that are damaged or disagree with their index (published/safetensors_files.py), for values that are not
    finite, and for missing, surplus and ill-shaped tensors, naming all of them.
    """
    cfg = read_config(folder, **override)
    return cfg, load_tensors(folder, cfg, tensors(cfg), transformer.abstract_params(cfg, mesh, rules))


def load_tensors(
    folder: Path | str, cfg: ModelConfig, wanted: list[Tensor], abstract: Pytree, single: str = SINGLE
) -> Params:
    """Return the arrays of `wanted`, read from a folder's safetensors, as a tree like `abstract` (shapes, shardings).

    single: the file to read if the folder has no index. Raises FileNotFoundError for a missing file, one ValueError for
    all missing, surplus and ill-shaped tensors, and ValueError for values that are not finite.
    """
    files = SafetensorsFiles(Path(folder), single)
    names = _check(files, wanted, cfg)
    params = jax.tree.map(lambda _: None, abstract)
    for tensor in wanted:
        *parents, last = tensor.path
        target, goal = params, abstract
        for key in parents:
            target, goal = target[key], goal[key]
        goal = goal[last]
        if tensor.layer is None:
            target[last] = _read(files, names[tensor.name], tensor, goal.sharding, goal.dtype)
            continue
        if tensor.layer == 0:
            target[last] = _zeros(goal.shape, goal.dtype, goal.sharding)()
        one = NamedSharding(goal.sharding.mesh, PartitionSpec(*goal.sharding.spec[1:]))
        value = _read(files, names[tensor.name], tensor, one, goal.dtype)
        target[last] = _set_layer(goal.sharding)(target[last], value, tensor.layer)
        # Dispatch is asynchronous: without waiting, the host would run ahead and hold many tensors at once.
        target[last].block_until_ready()
    return params


def read_config(folder: Path | str, **override: Setting) -> ModelConfig:
    """Return the ModelConfig of a published checkpoint's config.json; arguments and errors as `families.from_hf`."""
    path = Path(folder) / "config.json"
    found = json_files.read_json_object(path, "give the folder that transformers' save_pretrained wrote")
    return families.from_hf(found, str(path), **override)


@functools.lru_cache(maxsize=32)
def _zeros(shape, dtype, layout):
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=layout)


@functools.lru_cache(maxsize=32)
def _set_layer(layout):
    def put(stack, value, layer):
        return jax.lax.dynamic_update_index_in_dim(stack, value, layer, 0)

    return jax.jit(put, donate_argnums=0, out_shardings=layout)


def _read(files, name, tensor, layout, dtype):
    """Return one tensor of the files as our array with the sharding `layout`; equal slices are read once."""
    read: dict[tuple, np.ndarray] = {}

    def part(index):
        ranges = tuple(s.indices(size)[:2] for s, size in zip(index, tensor.shape, strict=True))
        if ranges not in read:
            read[ranges] = _read_slice(files, name, tensor, ranges, dtype)
        return read[ranges]

    return jax.make_array_from_callback(tensor.shape, layout, part)


def _read_slice(files, name, tensor, ranges, dtype):
    """Return a slice of one tensor as a numpy array in our order of axes.

    ranges: (start, stop) for each axis of tensor.shape.
    """

    def span(axes):  # the range over merged axes; it is contiguous only if no axis but the first is cut
        if any(ranges[axis] != (0, tensor.shape[axis]) for axis in axes[1:]):
            raise ValueError(f"tensor {name}: a layout that cuts axis {axes[1:]} of {tensor.shape} cannot be read")
        inner = math.prod(tensor.shape[axis] for axis in axes[1:])
        return (ranges[axes[0]][0] * inner, ranges[axes[0]][1] * inner, inner) if axes else (0, 1, 1)

    order = tensor.rows + tensor.columns
    shape = [ranges[axis][1] - ranges[axis][0] for axis in order]
    out = np.empty([stop - start for start, stop in ranges], dtype)
    view = out.transpose(order)  # the file's order of axes, without a copy
    (first, last, unit), (left, right, _) = span(tensor.rows), span(tensor.columns)
    width = tensor.file_shape[1] if tensor.columns else 1
    step = max(1, _BLOCK_BYTES // (unit * width * files.itemsize(name))) * unit
    for start in range(first, last, step):
        stop = min(start + step, last)
        block = files.read(name, slice(start, stop), slice(left, right) if tensor.columns else None)
        view[(start - first) // unit : (stop - first) // unit] = block.reshape(-1, *shape[1:])
    return out


def _check(files: SafetensorsFiles, wanted: list[Tensor], cfg: ModelConfig) -> dict[str, str]:
    """Return {wanted name: its name in these files} (in a Gemma 3 with vision the language model has a prefix).

    Raises one ValueError that names every tensor which is missing, surplus, ill-shaped or of an unknown dtype.
    """
    nested = _language_prefix(files)
    own = {}
    for name in files.header:
        short = name
        if nested and name.startswith(nested):
            short = name.removeprefix(nested)
            if not short.startswith(("model.", "lm_head.")):
                short = "model." + short
        own[short] = name
    # A tied output matrix may be stored a second time, and old checkpoints hold the rotary frequencies.
    ignored = {"lm_head.weight"} if cfg.tie_embeddings else set()
    expected = {tensor.name: tensor.file_shape for tensor in wanted}
    problems = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in own]
    for short, name in own.items():
        shape, dtype = files.header[name]
        if short not in expected:
            vision = nested and ("vision_tower." in name or "multi_modal_projector." in name)
            if not (vision or short in ignored or short.endswith("rotary_emb.inv_freq")):
                problems.append(f"surplus: {name} {shape}")
        elif shape != expected[short]:
            problems.append(f"shape: {name} is {shape}, the config says {expected[short]}")
        elif dtype not in DTYPES:
            problems.append(f"dtype: {name} is {dtype}, none of {', '.join(DTYPES)}")
    if problems:
        raise ValueError(f"{files.folder}: the weights are not those of its config.json:\n  " + "\n  ".join(problems))
    if cfg.tie_embeddings and "lm_head.weight" in own and "model.embed_tokens.weight" in expected:
        _check_tied(files, own["lm_head.weight"], own["model.embed_tokens.weight"])
    return {name: own[name] for name in expected}


def _check_tied(files: SafetensorsFiles, head: str, embedding: str) -> None:
    """Raise ValueError if a model with tied embeddings stores an output matrix that differs from its embeddings.

    transformers unties such a model. Here config.json decides, and the user has to change it.
    """
    shape = files.header[embedding][0]
    same = files.header[head][0] == shape
    step = max(1, _BLOCK_BYTES // (files.itemsize(embedding) * shape[1]))
    for start in range(0, shape[0] if same else 0, step):
        rows, columns = slice(start, min(start + step, shape[0])), slice(0, shape[1])
        same = same and np.array_equal(files.read(head, rows, columns), files.read(embedding, rows, columns))
    if not same:
        raise ValueError(
            f"{files.folder}: config.json says tie_word_embeddings, and {head} is another matrix than {embedding}; set "
            "tie_word_embeddings to false in config.json to use it (transformers does so), or remove it from the file"
        )


def _language_prefix(files: SafetensorsFiles) -> str:
    for prefix in ("language_model.", "model.language_model."):
        if any(name.startswith(prefix) for name in files.header):
            return prefix
    return ""
