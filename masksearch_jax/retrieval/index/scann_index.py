"""A ScaNN index: built, saved to a folder that may be moved, loaded, searched; never changed.

Enters: vectors float32 [N, D] of unit norm, an array or a memory map. Leaves: (rows, scores) in the form of
`exact.ExactSearcher.search`. ScaNN finds the candidates, and `exact.rescore_each` orders them by the vectors
themselves, which stay on disk, mapped. More vectors than `shard_size` make several ScaNN indices. They are built one
after the other, so that memory holds one at a time, searched in turn, and merged by exact score. Rows are positions;
ids are stored beside the index, because ScaNN would pickle them. Queries go in batches of one fixed width, because a
tree answers a query differently at another batch size, whatever the other queries are. Searching while another thread
changes an index crashes the process (seen in 1.4.2), so nothing here changes one. Left out: updates, and the
settings (index_settings.py; a run sets them in configs/prepare.py, `retrieval.scann`).
"""

import dataclasses
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from masksearch_jax.retrieval.index import exact
from masksearch_jax.retrieval.index.index_settings import ScannSettings
from masksearch_jax.runtime.json_files import read_json_object

# Sizes from ScaNN's docs/algorithms.md, confirmed by measurement: below the first, brute force is as fast and loses
# nothing.
_BRUTE_FORCE_UNDER = 20_000
_TREE_FROM = 100_000
_LEAST_TO_TRAIN = 32  # a codebook has 16 centres per block
# Queries to a call, filled up with rows of zeros. A full call takes 14% longer per query than a call of 256, and a
# single query 50% longer (uniform vectors, 100k x 384). A wider call would be slow for few queries.
_WIDTH = 8
# Least number of candidates that are scored exactly. int8 confuses neighbours in rank around the k-th, and a small k
# leaves none to spare (0.988 of the top 10 without this, docs/guides/search.md). The search tool fetches more than it
# returns.
_LEAST_SCORED = 20
_SEARCH_FILE = "search.json"

_import_lock = threading.Lock()


def available() -> bool:
    """True if the scann package is installed."""
    return importlib.util.find_spec("scann") is not None


def _scann() -> ModuleType:
    """Import scann without TensorFlow, which it would load (6 s, 600 MB, and a crash if the versions differ)."""
    with _import_lock:
        if "scann" in sys.modules:
            return sys.modules["scann"]
        before = sys.modules.get("tensorflow")
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # the import system takes None for "not there"
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
    """Settings with every 0 and 'auto' decided, and clamped to the number of vectors of a shard."""

    method: str
    shards: int
    leaves: int
    leaves_to_search: int
    reorder: int
    dims_per_block: int
    anisotropic_threshold: float
    training_sample: int
    soar: float
    reordering: str

    def describe(self) -> str:
        shards = f"{self.shards} shards of " if self.shards > 1 else ""
        if self.method == "brute_force":
            return f"{shards}brute force"
        tree = f"{self.leaves} leaves, {self.leaves_to_search} searched, " if self.method == "tree" else ""
        return f"{shards}{self.method} ({tree}{self.reorder} reordered)"


def plan(settings: ScannSettings, count: int) -> Plan:
    """Return what `build` will do for `count` vectors; raise ValueError if a chosen method has too few to train."""
    shards = -(-count // settings.shard_size)
    least = count // shards  # vectors of the smallest shard
    method = settings.method
    if method == "auto":
        method = "brute_force" if least < _BRUTE_FORCE_UNDER else "hashing" if least < _TREE_FROM else "tree"
    if method != "brute_force" and least < _LEAST_TO_TRAIN:
        of = f" in each of {shards} shards" if shards > 1 else ""
        raise ValueError(
            f"retrieval.scann.method is {method!r} but there are only {least} passages{of}, it needs "
            f"{_LEAST_TO_TRAIN} to train; leave it at 'auto'" + (" or raise retrieval.scann.shard_size" if of else "")
        )
    # Twice sqrt(n): with SOAR, fewer vectors then have to be scored for equal recall (docs/guides/search.md).
    leaves = min(settings.leaves or round(2 * least**0.5), least)
    return Plan(
        method=method,
        shards=shards,
        leaves=leaves,
        leaves_to_search=min(settings.leaves_to_search or max(1, leaves // 16), leaves),
        reorder=min(settings.reorder or 200, least),
        dims_per_block=settings.dims_per_block,
        anisotropic_threshold=settings.anisotropic_threshold,
        training_sample=min(settings.training_sample, least),
        soar=settings.soar,
        reordering=settings.reordering,
    )


def _shards(count: int, shards: int) -> Iterator[tuple[str, int, int]]:
    """Yield (folder, first row, row after the last) of each shard; the sizes of shards differ by one at most."""
    for number in range(shards):
        yield f"shard-{number:05d}", count * number // shards, count * (number + 1) // shards


def _train(vectors: np.ndarray, how: Plan):
    module = _scann()
    builder = module.scann_ops_pybind.builder(vectors, min(10, len(vectors)), "dot_product")
    if how.method == "brute_force":
        return builder.score_brute_force().build()
    if how.method == "tree":
        builder = builder.tree(
            how.leaves, how.leaves_to_search, training_sample_size=how.training_sample, soar_lambda=how.soar or None
        )
    builder = builder.score_ah(
        how.dims_per_block,
        anisotropic_quantization_threshold=how.anisotropic_threshold,
        training_sample_size=how.training_sample,
    )
    return builder.reorder(how.reorder, quantize=module.ReorderType[how.reordering.upper()]).build()


def build_scann(vectors: np.ndarray, how: Plan, directory: Path | str) -> "ScannIndex":
    """Build an index over float32 [N, D], save it into `directory` (made if missing) and return it, loaded."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not len(vectors):
        raise ValueError(f"vectors must be float32 [N, D] with N > 0, got {vectors.dtype} {vectors.shape}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / exact.VECTORS_FILE, vectors)
    for name, start, stop in _shards(len(vectors), how.shards):
        (directory / name).mkdir()
        # Without relative_path, a moved folder does not load.
        _train(vectors[start:stop], how).serialize(str(directory / name), relative_path=True)
    save_plan(how, directory)
    return ScannIndex.load(directory)


def save_plan(how: Plan, directory: Path | str) -> None:
    """Write the plan that a search follows; `leaves_to_search` and `reorder` may change without a new build."""
    (Path(directory) / _SEARCH_FILE).write_text(json.dumps(dataclasses.asdict(how), indent=1) + "\n")


class ScannIndex:
    """A loaded index; thread-safe because it never changes. `vectors`: float32 [N, D], a memory map."""

    def __init__(self, searchers: list, vectors: np.ndarray, how: Plan):
        """searchers: ScaNN's own, one for each shard in order."""
        self._searchers, self.vectors, self.plan = searchers, vectors, how
        self._starts = [start for _, start, _ in _shards(len(vectors), how.shards)]

    @classmethod
    def load(cls, directory: Path | str) -> "ScannIndex":
        """Return the index that `build` saved. Load only folders that you trust (hashes: see `SearchTool.load`)."""
        directory = Path(directory)
        again = "build the index again with `python -m masksearch_jax.prepare`"
        how = Plan(**read_json_object(directory / _SEARCH_FILE, again))
        vectors = exact.ExactSearcher.load(directory).vectors
        load = _scann().scann_ops_pybind.load_searcher
        return cls([load(str(directory / name)) for name, _, _ in _shards(len(vectors), how.shards)], vectors, how)

    def searching(self, leaves: int, reorder: int) -> "ScannIndex":
        """Return the same index with another number of leaves to search and of candidates to reorder."""
        how = dataclasses.replace(self.plan, leaves_to_search=leaves, reorder=reorder)
        return ScannIndex(self._searchers, self.vectors, how)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows int64 [Q, k], scores float32 [Q, k]), -1 and -inf where nothing was found.

        Raises ValueError for queries that are not float [Q, D] or not finite.
        """
        count, dims = self.vectors.shape
        if queries.ndim != 2 or queries.shape[1] != dims or not np.isfinite(queries).all():
            raise ValueError(f"queries must be finite [Q, {dims}] like the vectors, got {queries.shape}")
        found = [self._ask(searcher, queries, min(k, count)) for searcher in self._searchers]
        rows = np.concatenate([rows + at for (_, rows), at in zip(found, self._starts, strict=True)])
        return exact.rescore_each(self.vectors, queries, rows, np.concatenate([of for of, _ in found]), k)

    def _ask(self, searcher, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return candidates of one shard for all queries: (the query of each candidate int64 [M], its row int64 [M]).

        Each query has at most k, or at most `_LEAST_SCORED` if k is smaller and the method is not brute force.
        """
        arguments = {"final_num_neighbors": k}
        if self.plan.method != "brute_force":
            k = max(k, _LEAST_SCORED)
            arguments = {"final_num_neighbors": k, "pre_reorder_num_neighbors": max(self.plan.reorder, k)}
        if self.plan.method == "tree":
            arguments["leaves_to_search"] = self.plan.leaves_to_search
        of, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(queries), _WIDTH):
            batch = np.zeros((_WIDTH, queries.shape[1]), np.float32)
            real = queries[start : start + _WIDTH]
            batch[: len(real)] = real
            rows, scores = searcher.search_batched(batch, **arguments)
            # A miss comes back as row 0 with a score of NaN.
            query, place = np.nonzero(np.isfinite(scores[: len(real)]))
            of.append(query + start)
            found.append(rows[query, place].astype(np.int64))
        return np.concatenate(of), np.concatenate(found)
