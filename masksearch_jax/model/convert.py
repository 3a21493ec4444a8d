"""Published checkpoints into our tree: safetensors files, never pickles (design decision 9).

Enters: a folder as transformers writes it: config.json and model.safetensors, or shards with an index. Leaves: stacked
[L, ...] parameters in their sharded layout. Reading goes tensor by tensor, and of each tensor only the slices that this
process's devices hold, so that beside the parameters there are never more than two of the largest tensors on a host.
Left out: the way back (export.py), our own checkpoints (checkpoints.py), and which stage starts from what.
"""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from masksearch_jax import sharding
from masksearch_jax.model import families, transformer
from masksearch_jax.model.config import ModelConfig

# Rows of a file mapped into memory at a time: mapped pages count as the process's until the file is closed.
_BLOCK_BYTES = 32 << 20
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}
INDEX = "model.safetensors.index.json"

# Our array -> (name in the file, the axes of one layer's array that make its rows, those that make its columns).
# A linear map is stored there as [out, in], and heads and head_dim as one axis.
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
# With post_norms the name of the norm before the MLP means the one after attention.
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


def read_safetensors(path: Path | str) -> dict[str, np.ndarray]:
    """Returns every tensor of one file; raises FileNotFoundError that names it."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; weights are read from safetensors files only")
    return safetensors.numpy.load_file(path)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a published file and where it lives in our tree."""

    name: str
    path: tuple[str, ...]  # keys into params
    layer: int | None  # index into the leading axis L; None: the array is not stacked
    shape: tuple[int, ...]  # ours, without L
    rows: tuple[int, ...]  # axes of `shape` that make the file's rows
    columns: tuple[int, ...]

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Shape in the file: two axes, or one for a vector."""
        axes = (self.rows, self.columns) if self.columns else (self.rows,)
        return tuple(math.prod(self.shape[axis] for axis in merged) for merged in axes)


def tensors(cfg: ModelConfig) -> list[Tensor]:
    """Every tensor that a published checkpoint of this model holds, in the order of our tree and then of the layers.

    Raises ValueError for a parameter that no published family has.
    """
    layer_names = {**_LAYER, **(_POST_NORMS if cfg.post_norms else {})}
    abstract = transformer.abstract_params(cfg, sharding.make_mesh(1, 1, 1, devices=jax.local_devices()[:1]))
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


def load_pretrained(
    folder: Path | str, mesh: Mesh, rules: sharding.Rules = sharding.TRAIN, **override: Any
) -> tuple[ModelConfig, transformer.Params]:
    """Reads a published checkpoint into the sharded layout of `rules`.

    folder: config.json with model.safetensors, or shards and their index; of a Gemma 3 with vision the language model
    is read. override: families.RUN_FIELDS of the ModelConfig; weights are cast to param_dtype.
    Every process calls it alike and reads what its own devices hold.
    Raises FileNotFoundError for a missing file, ValueError for a model that the decoder does not compute, and one
    ValueError that names all missing, surplus and ill-shaped tensors.
    """
    cfg = read_config(folder, **override)
    return cfg, load_tensors(folder, cfg, tensors(cfg), transformer.abstract_params(cfg, mesh, rules))


def load_tensors(folder: Path | str, cfg: ModelConfig, wanted: list[Tensor], abstract: Any) -> Any:
    """The arrays of `wanted`, read from a folder's safetensors, as a tree like `abstract`: shapes with shardings.

    Raises FileNotFoundError for a missing file, and one ValueError for all missing, surplus and ill-shaped tensors.
    """
    files = _Files(Path(folder))
    names = files.check(wanted, cfg)
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
        # Dispatch is asynchronous: without waiting, the host would run ahead and hold many tensors at a time.
        target[last].block_until_ready()
    return params


def read_config(folder: Path | str, **override: Any) -> ModelConfig:
    """The ModelConfig of a published checkpoint's config.json; arguments and errors as `families.from_hf`."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the folder that transformers' save_pretrained wrote")
    return families.from_hf(json.loads(path.read_text()), str(path), **override)


@functools.lru_cache(maxsize=32)
def _zeros(shape, dtype, layout):
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=layout)


@functools.lru_cache(maxsize=32)
def _set_layer(layout):
    def put(stack, value, layer):
        return jax.lax.dynamic_update_index_in_dim(stack, value, layer, 0)

    return jax.jit(put, donate_argnums=0, out_shardings=layout)


def _read(files, name, tensor, layout, dtype):
    """One tensor of the files as an array of ours, laid out as `layout`; equal slices are read once."""
    read: dict[tuple, np.ndarray] = {}

    def part(index):
        ranges = tuple(s.indices(size)[:2] for s, size in zip(index, tensor.shape, strict=True))
        if ranges not in read:
            read[ranges] = _read_slice(files, name, tensor, ranges, dtype)
        return read[ranges]

    return jax.make_array_from_callback(tensor.shape, layout, part)


def _read_slice(files, name, tensor, ranges, dtype):
    """ranges: (start, stop) per axis of tensor.shape. Returns numpy in our order of axes."""

    def span(axes):  # the range of merged axes; only the first of them may be cut, or it were no range
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


class _Files:
    """The safetensors files of one folder: which tensor is where, of which shape."""

    def __init__(self, folder: Path):
        self.folder = folder
        index = folder / INDEX
        if index.exists():
            names = set(json.loads(index.read_text())["weight_map"].values())
        else:
            names = {path.name for path in folder.glob("*.safetensors")}
            if not names:
                others = sorted(path.name for path in folder.glob("*.bin"))
                raise FileNotFoundError(
                    f"{folder} holds no safetensors files{f', only {others}' if others else ''}; weights are read from"
                    " safetensors only: save the model with safe_serialization=True."
                )
        if absent := sorted(name for name in names if not (folder / name).exists()):
            raise FileNotFoundError(f"{folder}: {', '.join(absent)} of its index are missing; download them again")
        self._file: dict[str, str] = {}
        self._header: dict[str, tuple[tuple[int, ...], str]] = {}
        for file in sorted(names):
            with safetensors.safe_open(folder / file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 (a method of safetensors, not of a dict)
                    self._file[name] = file
                    found = opened.get_slice(name)
                    self._header[name] = tuple(found.get_shape()), found.get_dtype()

    def itemsize(self, name: str) -> int:
        """Bytes of one number."""
        return DTYPES[self._header[name][1]].itemsize

    def read(self, name: str, rows: slice, columns: slice | None) -> np.ndarray:
        """A slice of a tensor. The file is opened for it alone, so that no page stays mapped."""
        with safetensors.safe_open(self.folder / self._file[name], framework="numpy") as opened:
            found = opened.get_slice(name)
            return found[rows] if columns is None else found[rows, columns]

    def check(self, wanted: list[Tensor], cfg: ModelConfig) -> dict[str, str]:
        """Returns for each wanted name the one it has here (in a Gemma 3 with vision the language model is nested).

        Raises one ValueError that names every missing, surplus and ill-shaped tensor.
        """
        nested = self._language_prefix()
        own = {}
        for name in self._header:
            short = name
            if nested and name.startswith(nested):
                short = name.removeprefix(nested)
                if not short.startswith(("model.", "lm_head.")):
                    short = "model." + short
            own[short] = name
        # A tied head may be stored a second time, and old checkpoints hold the rotary frequencies.
        ignored = {"lm_head.weight"} if cfg.tie_embeddings else set()
        expected = {tensor.name: tensor.file_shape for tensor in wanted}
        problems = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in own]
        for short, name in own.items():
            shape, dtype = self._header[name]
            if short not in expected:
                vision = nested and ("vision_tower." in name or "multi_modal_projector." in name)
                if not (vision or short in ignored or short.endswith("rotary_emb.inv_freq")):
                    problems.append(f"surplus: {name} {shape}")
            elif shape != expected[short]:
                problems.append(f"shape: {name} is {shape}, the config says {expected[short]}")
            elif dtype not in DTYPES:
                problems.append(f"dtype: {name} is {dtype}, none of {', '.join(DTYPES)}")
        if problems:
            raise ValueError(
                f"{self.folder}: the weights are not those of its config.json:\n  " + "\n  ".join(problems)
            )
        return {name: own[name] for name in expected}

    def _language_prefix(self):
        for prefix in ("language_model.", "model.language_model."):
            if any(name.startswith(prefix) for name in self._header):
                return prefix
        return ""
