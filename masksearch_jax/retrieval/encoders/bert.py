"""A BERT-family encoder (MiniLM, E5, BGE) from published safetensors weights, computed by Flax.

Enters: a checkpoint folder (config.json, model.safetensors, tokenizer.json or vocab.txt; sentence-transformers'
1_Pooling/config.json if there) and texts. Leaves: float32 [n, D] unit vectors. Queries are computed on the host's CPU,
because the accelerator belongs to the policy. Passages are too, unless devices='local' gives their
batches to all local devices of JAX's default platform. Left out: RoBERTa relatives, several safetensors shards.
"""

import collections
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from masksearch_jax.model.published.safetensors_files import read_safetensors
from masksearch_jax.retrieval.encoders import bert_network, encoder
from masksearch_jax.retrieval.encoders.bert_checks import check_modules, check_vocabulary
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text import wordpiece

_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "model.safetensors"
_POOLING_FILE = "1_Pooling/config.json"
_AGAIN = "build the index again with `python -m masksearch_jax.prepare`"
# Shapes that programs are compiled for: a text is padded to the next length, a batch to the rows of its length.
# Queries are few and answered one by one, so they get few programs. Passages are many, so they are padded by 8
# tokens or an eighth at most.
_QUERY_LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
_QUERY_ROWS = 4
_PASSAGE_STEP = 8
# Tokens of a device's share of a batch. On a CPU, products are at full speed from 256 on, and the last batch of a
# length wastes little. An accelerator needs more; how many was not measured.
_CPU_TOKENS, _ACCELERATOR_TOKENS = 256, 8192


class BertEncoder:
    """See the module docstring. Immutable; thread-safe."""

    def __init__(
        self,
        directory: Path,
        pooling: str,
        query_prefix: str,
        passage_prefix: str,
        max_length: int,
        dtype: str = "float32",  # older indices do not name it
        devices: str = "cpu",
    ):
        config = bert_network.BertConfig.read(directory / _CONFIG_FILE)
        self.dims = config.embed
        self._directory = directory
        self._settings: JsonObject = {
            "pooling": pooling,
            "query_prefix": query_prefix,
            "passage_prefix": passage_prefix,
            "max_length": min(max_length, config.positions),
            "dtype": dtype,
        }
        most: int = self._settings["max_length"]
        self._tokenizer = wordpiece.WordPiece(directory, most)
        check_vocabulary(self._tokenizer.vocab_size, config.vocab_size, directory)
        weights = directory / _WEIGHTS_FILE
        self._graph, params = bert_network.from_tensors(config, read_safetensors(weights), dtype, weights)
        self._host = _Placed(params, [_cpu()])
        self._passages = _Placed(params, jax.local_devices()) if devices == "local" else self._host
        # {tokens that a text is padded to: rows of a batch of such texts}, ascending
        self._query_shapes = dict.fromkeys([*(n for n in _QUERY_LENGTHS if n < most), most], _QUERY_ROWS)
        self._passage_shapes = {length: self._passages.rows_of(length) for length in _passage_lengths(most)}
        self.fingerprint = _fingerprint(directory, self._settings)

    @classmethod
    def from_checkpoint(
        cls,
        directory: Path | str,
        pooling: str,
        query_prefix: str,
        passage_prefix: str,
        max_length: int,
        dtype: str = "float32",
        devices: str = "cpu",
    ) -> "BertEncoder":
        """Return the encoder of a downloaded checkpoint folder; pooling 'auto' reads what the checkpoint says.

        dtype: of weights and products, 'float32' or 'bfloat16'. devices: 'cpu', or 'local' to encode passages on every
        local device of JAX's default platform. This choice is not saved, and vectors differ by rounding at most.
        Raises FileNotFoundError or ValueError that names the file and what is wrong with it.
        """
        directory = Path(directory)
        for name in (_CONFIG_FILE, _WEIGHTS_FILE):
            if not (directory / name).exists():
                raise FileNotFoundError(f"retrieval.encoder_dir = {directory} has no {name}")
        check_modules(directory)
        if pooling == "auto":
            pooling = _read_pooling(directory / _POOLING_FILE)
        return cls(directory, pooling, query_prefix, passage_prefix, max_length, dtype, devices)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, D] unit rows; zeros for an empty text."""
        return self._encode(texts, self._settings["query_prefix"], self._query_shapes, self._host)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, D] unit rows; zeros for an empty text.

        A call should hold thousands of texts, because they are grouped by length.
        """
        return self._encode(texts, self._settings["passage_prefix"], self._passage_shapes, self._passages)

    def _encode(self, texts: Sequence[str], prefix: str, shapes: dict[int, int], placed: "_Placed") -> np.ndarray:
        out = np.zeros((len(texts), self.dims), np.float32)
        said = [i for i, text in enumerate(texts) if text.strip()]
        tokens = dict(zip(said, self._tokenizer.encode([prefix + texts[i] for i in said]), strict=True))
        # A text's shape depends on its own length only, so that its vector does not depend on its neighbours.
        groups = collections.defaultdict(list)
        for i in said:
            groups[next(n for n in shapes if len(tokens[i]) <= n)].append(i)
        running = []  # all are started before the first is waited for, so that every core has work
        for length, group in sorted(groups.items()):
            for start in range(0, len(group), shapes[length]):
                members = group[start : start + shapes[length]]
                running.append((members, self._start([tokens[i] for i in members], shapes[length], length, placed)))
        for members, vectors in running:
            out[members] = np.asarray(vectors)[: len(members)]
        return out

    def _start(self, tokens: list[list[int]], rows: int, length: int, placed: "_Placed") -> jax.Array:
        """Start to encode a batch; return float32 [rows, D], perhaps not computed yet."""
        ids, lengths = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
        for i, row in enumerate(tokens):
            ids[i, : len(row)], lengths[i] = row, len(row)
        ids, lengths = jax.device_put((ids, lengths), placed.by_rows)
        return _embed(self._graph, self._settings["pooling"], placed.params, ids, lengths)

    def save(self, directory: Path | str) -> None:
        """Copy the checkpoint (by hard link if the file system can) and write encoder.json beside it."""
        directory = Path(directory)
        for name in (_CONFIG_FILE, _WEIGHTS_FILE, *wordpiece.FILES):
            if (self._directory / name).exists():
                _link(self._directory / name, directory / name)
        settings = {"kind": "bert", **self._settings, "fingerprint": self.fingerprint}
        (directory / encoder.SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path | str) -> "BertEncoder":
        """Return the encoder that `save` wrote."""
        settings = read_json_object(Path(directory) / encoder.SETTINGS_FILE, _AGAIN, ("kind", "fingerprint"))
        del settings["kind"], settings["fingerprint"]
        return cls(Path(directory), **settings)


class _Placed:
    """The parameters, replicated on some devices that share a batch by its rows."""

    def __init__(self, params: nnx.State, devices: Sequence[jax.Device]):
        mesh = Mesh(np.array(devices), ("rows",))
        self.by_rows = NamedSharding(mesh, PartitionSpec("rows"))
        self.params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._devices = len(devices)
        self._tokens = _CPU_TOKENS if devices[0].platform == "cpu" else _ACCELERATOR_TOKENS

    def rows_of(self, length: int) -> int:
        """Return the number of rows of a batch of passages of `length` tokens."""
        return self._devices * max(1, self._tokens // length)


@functools.partial(jax.jit, static_argnums=(0, 1))  # at module level: indices with one encoder share programs
def _embed(graph: nnx.GraphDef, pooling: str, params: nnx.State, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    return nnx.merge(graph, params)(ids, lengths, pooling)


def _passage_lengths(most: int) -> list[int]:
    """Return the lengths that passages are padded to, up to `most`: 8 tokens apart, past 128 an eighth or less."""
    lengths = [_PASSAGE_STEP]
    while lengths[-1] < most:
        lengths.append(lengths[-1] + max(_PASSAGE_STEP, 2 ** (lengths[-1].bit_length() - 1) // 8))
    return [*lengths[:-1], most]


def _cpu() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise RuntimeError(
            "the BERT encoder runs on the host's CPU, which JAX was told to leave out; add 'cpu' to JAX_PLATFORMS, "
            "for example JAX_PLATFORMS=tpu,cpu"
        ) from error


def _read_pooling(path: Path) -> str:
    if not path.exists():
        raise ValueError(
            f"{path} does not exist, so retrieval.pooling cannot be 'auto': set 'mean' (MiniLM, E5) or 'cls' (BGE)"
        )
    said = read_json_object(path, "copy the checkpoint again")
    modes = {name for name, on in said.items() if name.startswith("pooling_mode") and on is True}
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or not modes <= set(known):
        raise ValueError(f"{path}: pooling is {sorted(modes)}, this encoder computes one of {sorted(known)}")
    return known[modes.pop()]


def _fingerprint(directory: Path, settings: JsonObject) -> str:
    total = hashlib.sha256(json.dumps(["bert", 2, settings]).encode())
    for name in (_CONFIG_FILE, _WEIGHTS_FILE, *wordpiece.FILES):
        if (directory / name).exists():
            with open(directory / name, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
