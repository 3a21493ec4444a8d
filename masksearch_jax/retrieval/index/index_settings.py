"""The settings of an index, checked when they are read. Leaves out `k`, which belongs to the caller of a search."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import TypeVar

from masksearch_jax.runtime.types import ConfigSection, JsonObject, Setting

Settings = TypeVar("Settings", "ScannSettings", "IndexSettings")

ENCODERS = ("lexical", "bert")
ENCODER_DTYPES = ("float32", "bfloat16")
ENCODER_DEVICES = ("cpu", "local")
INDEXES = ("auto", "exact", "scann")
SCANN_METHODS = ("auto", "brute_force", "hashing", "tree")
SCANN_REORDERINGS = ("float32", "bfloat16", "int8")
_LEAST = {
    "leaves": 0,
    "leaves_to_search": 0,
    "reorder": 0,
    "dims_per_block": 1,
    "training_sample": 1,
    "soar": 0,
    "shard_size": 1,
}
EXCLUSIONS = ("none", "passage", "article")


@dataclasses.dataclass(frozen=True)
class ScannSettings:
    """How a ScaNN index is built and searched; 0 means chosen from the number of vectors (see scann_index.plan).

    leaves_to_search, reorder: 0 leaves the choice to the tuner (tuning.py), which reaches the recall floor at the least
    cost. soar: weight of orthogonality when a vector is put into a second leaf; 0 puts each vector into one leaf.
    reordering: type of the vectors in memory by which hashed candidates are reordered; whatever it is, the best ones
    are scored exactly, from disk. shard_size: most vectors in one ScaNN index; a larger corpus is cut into several,
    built one after the other.
    """

    method: str = "auto"  # brute_force | hashing (asymmetric hashing and reordering) | tree (the same in leaves)
    leaves: int = 0
    leaves_to_search: int = 0
    reorder: int = 0  # hashed candidates whose exact score is computed
    dims_per_block: int = 2
    anisotropic_threshold: float = 0.2
    training_sample: int = 250_000
    soar: float = 1.5
    reordering: str = "int8"
    shard_size: int = 1_000_000


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """The settings of `build.build_index`.

    encoder_dir: folder of a safetensors checkpoint (encoder='bert'). dims: width of the lexical encoder.
    pooling, query_prefix, passage_prefix, max_length: of the BERT encoder; pooling 'auto' reads the checkpoint's.
    MiniLM needs no prefixes; E5 'query: ' and 'passage: '; BGE (English) a query_prefix of 'Represent this sentence for
    searching relevant passages: '.
    encoder_dtype: of the BERT encoder's weights and products, for queries too. encoder_devices: where it encodes
    passages, on the host's CPU or on all local devices of JAX's default platform; queries are encoded on the CPU.
    hybrid: rank by BM25 as well, and fuse the two rankings (bm25.py).
    recall_floor: least recall@10 against exact search. near_duplicate: share of common shingles from which on a passage
    counts as a near-duplicate (near_duplicates.py).
    exclusion: what a search leaves out unless `SearchTool.load` is told otherwise.
    """

    encoder: str = "lexical"
    encoder_dir: str = ""
    dims: int = 1024
    pooling: str = "auto"
    query_prefix: str = ""
    passage_prefix: str = ""
    max_length: int = 256
    encoder_dtype: str = "float32"
    encoder_devices: str = "cpu"
    index: str = "auto"
    scann: ScannSettings = ScannSettings()
    hybrid: bool = False
    recall_floor: float = 0.95
    near_duplicate: float = 0.5
    exclusion: str = "passage"

    def __post_init__(self):
        _one_of("encoder", self.encoder, ENCODERS)
        _one_of("pooling", self.pooling, ("auto", "mean", "cls"))
        _one_of("encoder_dtype", self.encoder_dtype, ENCODER_DTYPES)
        _one_of("encoder_devices", self.encoder_devices, ENCODER_DEVICES)
        _one_of("index", self.index, INDEXES)
        _one_of("scann.method", self.scann.method, SCANN_METHODS)
        _one_of("scann.reordering", self.scann.reordering, SCANN_REORDERINGS)
        for name, least in _LEAST.items():
            if getattr(self.scann, name) < least:
                raise ValueError(f"retrieval.scann.{name} is {getattr(self.scann, name)}, must be at least {least}")
        _one_of("exclusion", self.exclusion, EXCLUSIONS)
        if self.encoder == "bert" and not self.encoder_dir:
            raise ValueError(
                "retrieval.encoder is 'bert' but retrieval.encoder_dir is empty; give the folder that holds "
                "config.json, model.safetensors and tokenizer.json (or vocab.txt) of a MiniLM, E5 or BGE checkpoint"
            )
        if self.hybrid and importlib.util.find_spec("bm25s") is None:
            raise ValueError(
                "retrieval.hybrid=True needs bm25s, which is not installed: pip install 'masksearch_jax[retrieval]', "
                "or set retrieval.hybrid=False"
            )
        for name in ("recall_floor", "near_duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"retrieval.{name} is {getattr(self, name)}, must lie between 0 and 1")


def from_config(config: "ConfigSection | Mapping[str, Setting] | IndexSettings") -> IndexSettings:
    """Return the settings from a mapping (a dict or an ml_collections ConfigDict); unknown keys raise ValueError."""
    if isinstance(config, IndexSettings):
        return config
    fields = dict(config.items())
    scann = fields.pop("scann", None)
    if scann is not None and not isinstance(scann, ScannSettings):
        fields["scann"] = _typed(ScannSettings, dict(scann.items()), "retrieval.scann")
    elif scann is not None:
        fields["scann"] = scann
    return _typed(IndexSettings, fields, "retrieval")


def _typed(cls: type[Settings], fields: JsonObject, where: str) -> Settings:
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"{where}.{name} is no setting; known are {', '.join(sorted(known))}")
        expected = type(known[name].default)
        if expected is float and type(value) is int:
            fields[name] = float(value)
        elif type(value) is not expected:
            raise ValueError(f"{where}.{name} is {value!r}, must be of type {expected.__name__}")
    return cls(**fields)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"retrieval.{name} is {value!r}, known are {', '.join(known)}")
