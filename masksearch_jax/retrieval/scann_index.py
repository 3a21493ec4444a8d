"""A ScaNN index: built, saved to a folder that may be moved, loaded, searched; never mutated.

Enters: vectors float32 [N, D] of unit norm. Leaves: the same (rows, scores) as `exact.ExactSearcher.search`, from
candidates that ScaNN found and `exact.rescore` ordered. Rows are positions: ids are ours and live beside the index,
for ScaNN would pickle them. Queries go in batches of one fixed width, because a tree answers a row differently at
another batch size. Searching while another thread changes an index crashes the process (seen in 1.4.2), so nothing
here changes one. Left out: updates, SOAR, quantised reordering.
"""

import dataclasses
import importlib.util
import json
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np

from masksearch_jax.retrieval import exact
from masksearch_jax.retrieval.settings import ScannSettings

# Sizes from ScaNN's docs/algorithms.md, confirmed by measurement: below, brute force is as fast and loses nothing.
_BRUTE_FORCE_UNDER = 20_000
_TREE_FROM = 100_000
_LEAST_TO_TRAIN = 32  # a codebook has 16 centres a block
_WIDTH = 8
_SEARCH_FILE = "search.json"
_VECTORS_FILE = "dataset.npy"  # written by ScaNN for brute force and for reordering: our vectors, as they are

_import_lock = threading.Lock()


def available() -> bool:
    """True if the scann package is installed."""
    return importlib.util.find_spec("scann") is not None


def _scann() -> ModuleType:
    """Imports scann without TensorFlow, which it would load (6 s, 600 MB, and a crash if the versions differ)."""
    with _import_lock:
        if "scann" in sys.modules:
            return sys.modules["scann"]
        before = sys.modules.get("tensorflow")
        sys.modules["tensorflow"] = None
        try:
            return importlib.import_module("scann")
        except ImportError as error:
            raise ImportError(
                "this index needs scann: install the extra 'retrieval' (pip install 'masksearch_jax[retrieval]'), "
                "or build with retrieval.index='exact'"
            ) from error
        finally:
            if before is None:
                del sys.modules["tensorflow"]
            else:
                sys.modules["tensorflow"] = before


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings with every 0 and 'auto' decided and clamped to the number of vectors."""

    method: str
    leaves: int
    leaves_to_search: int
    reorder: int
    dims_per_block: int
    anisotropic_threshold: float
    training_sample: int

    def describe(self) -> str:
        if self.method == "brute_force":
            return "brute force"
        tree = f"{self.leaves} leaves, {self.leaves_to_search} searched, " if self.method == "tree" else ""
        return f"{self.method} ({tree}{self.reorder} reordered)"


def plan(settings: ScannSettings, count: int) -> Plan:
    """Returns what `build` will do for `count` vectors; raises ValueError for a forced method that cannot train."""
    method = settings.method
    if method == "auto":
        method = "brute_force" if count < _BRUTE_FORCE_UNDER else "hashing" if count < _TREE_FROM else "tree"
    if method != "brute_force" and count < _LEAST_TO_TRAIN:
        raise ValueError(
            f"retrieval.scann.method is {method!r} but there are only {count} passages, it needs {_LEAST_TO_TRAIN} to "
            "train; leave it at 'auto'"
        )
    leaves = min(settings.leaves or round(count**0.5), count)
    return Plan(
        method=method,
        leaves=leaves,
        leaves_to_search=min(settings.leaves_to_search or max(1, leaves // 16), leaves),
        reorder=min(settings.reorder or 200, count),
        dims_per_block=settings.dims_per_block,
        anisotropic_threshold=settings.anisotropic_threshold,
        training_sample=min(settings.training_sample, count),
    )


def build(vectors: np.ndarray, how: Plan, directory: Path | str) -> "ScannIndex":
    """Builds an index over float32 [N, D], saves it into `directory` (made if missing) and returns it, loaded."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not len(vectors):
        raise ValueError(f"vectors must be float32 [N, D] with N > 0, got {vectors.dtype} {vectors.shape}")
    builder = _scann().scann_ops_pybind.builder(vectors, min(10, len(vectors)), "dot_product")
    if how.method == "tree":
        builder = builder.tree(how.leaves, how.leaves_to_search, training_sample_size=how.training_sample)
    if how.method == "brute_force":
        builder = builder.score_brute_force()
    else:
        builder = builder.score_ah(
            how.dims_per_block,
            anisotropic_quantization_threshold=how.anisotropic_threshold,
            training_sample_size=how.training_sample,
        ).reorder(how.reorder)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    builder.build().serialize(str(directory), relative_path=True)  # without it, a moved folder does not load
    save_plan(how, directory)
    return ScannIndex.load(directory)


def save_plan(how: Plan, directory: Path | str) -> None:
    """Writes the plan that a search follows; `leaves_to_search` and `reorder` may change without a new build."""
    (Path(directory) / _SEARCH_FILE).write_text(json.dumps(dataclasses.asdict(how), indent=1) + "\n")


class ScannIndex:
    """A loaded index; thread-safe because it never changes. `vectors`: float32 [N, D], a memory map."""

    def __init__(self, searcher, vectors: np.ndarray, how: Plan):
        self._searcher, self.vectors, self.plan = searcher, vectors, how

    @classmethod
    def load(cls, directory: Path | str) -> "ScannIndex":
        """Returns the index that `build` saved. Load only folders that you trust (checksums: see tool.load)."""
        directory = Path(directory)
        how = Plan(**json.loads((directory / _SEARCH_FILE).read_text()))
        searcher = _scann().scann_ops_pybind.load_searcher(str(directory))
        return cls(searcher, np.load(directory / _VECTORS_FILE, mmap_mode="r"), how)

    def searching(self, leaves: int) -> "ScannIndex":
        """Returns the same index, searched at another number of leaves."""
        return ScannIndex(self._searcher, self.vectors, dataclasses.replace(self.plan, leaves_to_search=leaves))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (rows int64 [Q, k], scores float32 [Q, k]), -1 and -inf where nothing was found.

        Raises ValueError for queries that are not float [Q, D] or not finite.
        """
        count, dims = self.vectors.shape
        if queries.ndim != 2 or queries.shape[1] != dims or not np.isfinite(queries).all():
            raise ValueError(f"queries must be finite [Q, {dims}] like the vectors, got {queries.shape}")
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries), _WIDTH):
            batch = np.zeros((_WIDTH, dims), np.float32)
            real = queries[start : start + _WIDTH]
            batch[: len(real)] = real
            for i, candidates in enumerate(self._candidates(batch, min(k, count))[: len(real)]):
                found, score = exact.rescore(self.vectors, real[i], candidates)
                rows[start + i, : len(found)], scores[start + i, : len(found)] = found, score
        return rows, scores

    def _candidates(self, batch: np.ndarray, k: int) -> list[np.ndarray]:
        arguments = {"final_num_neighbors": k}
        if self.plan.method != "brute_force":
            arguments["pre_reorder_num_neighbors"] = max(self.plan.reorder, k)
        if self.plan.method == "tree":
            arguments["leaves_to_search"] = self.plan.leaves_to_search
        rows, scores = self._searcher.search_batched(batch, **arguments)
        # A miss comes back as row 0 with a score of NaN.
        return [np.asarray(r, np.int64)[np.isfinite(s)] for r, s in zip(rows, scores, strict=True)]
