"""Build a search index: encoder, vectors, index, recall check, near-duplicates, in one folder that may be moved.

Enters: passages in ascending order of id (all of a store, or those of one split) and `index_settings.IndexSettings`.
Leaves, all at once or not at all: DIRECTORY/index.json (settings, report, hash of every file), encoder/, index/, words/
(hybrid only), rows.npz (id, article and digest by row), near_duplicates.npz. `tool.SearchTool.load` reads it. Left out:
updates; a changed corpus is a new build.
"""

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from masksearch_jax.retrieval.encoders import encoder as encoders
from masksearch_jax.retrieval.encoders import lexical
from masksearch_jax.retrieval.index import (
    bm25,
    capacity,
    corpus_vectors,
    exact,
    index_store,
    near_duplicates,
    recall_check,
    scann_index,
    tuning,
)
from masksearch_jax.retrieval.index.index_settings import IndexSettings, from_config
from masksearch_jax.retrieval.passage_store import Passages
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import ConfigSection, JsonObject, Setting

Progress = Callable[[str, int, int], None]  # stage, done, total


class RecallError(ValueError):
    """The built index finds too little of what exact search finds; nothing was written."""


def build_index(
    directory: Path | str,
    passages: Passages,
    config: ConfigSection | Mapping[str, Setting] | IndexSettings,
    progress: Progress | None = None,
    vectors_dir: Path | None = None,
) -> JsonObject:
    """Build the index folder `directory` (replaced if it exists) and return the report, which index.json keeps too.

    passages: ids ascending; iterated several times. config: IndexSettings or a mapping of its fields. progress: called
    with (stage, done, total). vectors_dir: where the encoded passages are kept, for this build or, if it is killed or
    fails, for the next one; the caller removes it. Without it they are kept beside the index and removed at the end.
    Raises ValueError for bad settings or passages and RecallError under the recall floor.
    """
    progress = progress or (lambda stage, done, total: None)
    settings = from_config(config)
    directory = Path(directory)
    started = time.perf_counter()
    ids, articles, digests = _identify(passages)
    passages_sha256 = hashlib.sha256(digests.tobytes()).hexdigest()
    waiting = vectors_dir or directory.with_name(directory.name + ".vectors")
    need = _need(settings, len(ids))
    print(f"{directory}: {need}", flush=True)
    need.check(directory)

    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / index_store.ENCODER).mkdir(parents=True)
    try:
        encoder = _encoder(settings, passages)
        encoder.save(partial / index_store.ENCODER)
        vectors = _encode(encoder, passages, passages_sha256, waiting, progress)
        probes = encoder.encode_queries(recall_check.probes(passages))
        found = _index(directory, settings, vectors, probes, partial / index_store.INDEX)
        del vectors
        if settings.hybrid:
            bm25.BM25Index.build(_texts(passages), partial / index_store.WORDS)
        duplicates = near_duplicates.find(
            passages, settings.near_duplicate, lambda done, total: progress("near-duplicates", done, total)
        )
        duplicates.save(partial / index_store.NEAR_DUPLICATES)
        np.savez(partial / index_store.ROWS, ids=ids, articles=articles, digests=digests)
        report = {
            "passages": len(ids),
            "encoder": settings.encoder,
            "dims": encoder.dims,
            **found,
            "hybrid": settings.hybrid,
            "passages_with_near_duplicates": duplicates.passages,
            "seconds": round(time.perf_counter() - started, 2),
        }
        index_store.write_index_file(
            partial,
            settings=dataclasses.asdict(settings),
            report=report,
            passages_sha256=passages_sha256,
            encoder_fingerprint=encoder.fingerprint,
        )
        index_store.replace(partial, directory)
        if vectors_dir is None:
            shutil.rmtree(waiting)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _identify(passages: Passages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (ids int64 [N], articles int64 [N], digests uint64 [N]); raise ValueError for ids out of order."""
    count = len(passages)
    if not count:
        raise ValueError("there are 0 passages to index; is the split empty?")
    ids, articles = np.empty(count, np.int64), np.empty(count, np.int64)
    digests = np.empty(count, np.uint64)
    for row, passage in enumerate(passages):
        ids[row], articles[row], digests[row] = passage.id, passage.article_id, index_store.digest(passage)
        if row and ids[row] <= ids[row - 1]:
            raise ValueError(f"passage ids must ascend, but passage {ids[row]} follows passage {ids[row - 1]}")
    return ids, articles, digests


def _need(settings: IndexSettings, count: int) -> capacity.Need:
    dims = settings.dims
    if settings.encoder == "bert":
        dims = read_json_object(
            Path(settings.encoder_dir) / "config.json", "copy the checkpoint again", ("hidden_size",)
        )["hidden_size"]
    how = scann_index.plan(settings.scann, count) if _kind(settings) == "scann" else None
    return capacity.need(count, dims, how)


def _kind(settings: IndexSettings) -> str:
    if settings.index == "auto":
        return "scann" if scann_index.available() else "exact"
    return settings.index


def _encoder(settings: IndexSettings, passages: Passages) -> encoders.Encoder:
    if settings.encoder == "lexical":
        return lexical.LexicalEncoder.fit(_texts(passages), settings.dims)
    from masksearch_jax.retrieval.encoders import bert  # imports jax, which the lexical encoder does without

    return bert.BertEncoder.from_checkpoint(
        settings.encoder_dir,
        pooling=settings.pooling,
        query_prefix=settings.query_prefix,
        passage_prefix=settings.passage_prefix,
        max_length=settings.max_length,
        dtype=settings.encoder_dtype,
        devices=settings.encoder_devices,
    )


def _texts(passages: Passages) -> Iterator[str]:
    return (encoders.passage_text(passage.title, passage.text) for passage in passages)


def _encode(
    encoder: encoders.Encoder, passages: Passages, passages_sha256: str, waiting: Path, progress: Progress
) -> np.ndarray:
    """Encode what is missing in `waiting`; return float32 [N, D], mapped from there."""
    vectors = corpus_vectors.CorpusVectors(waiting, encoder, passages_sha256, len(passages))
    vectors.encode(_texts(passages), lambda done, total: progress("encode", done, total))
    return vectors.open()


def _index(
    directory: Path, settings: IndexSettings, vectors: np.ndarray, probes: np.ndarray, target: Path
) -> JsonObject:
    """Build, save, load, tune and check the index over float32 [N, D]; return its part of the report."""
    kind = _kind(settings)
    tried: list[JsonObject] = []
    if kind == "exact":
        whole, method = exact.ExactSearcher.build(vectors, target), "all vectors"
        measured = recall_check.Truth(whole.vectors, probes).measure(whole)
    else:
        index = scann_index.build_scann(vectors, scann_index.plan(settings.scann, len(vectors)), target)
        truth = recall_check.Truth(index.vectors, probes)
        index, tried = tuning.tune(index, truth, settings.scann, settings.recall_floor)
        measured = truth.measure(index)
        scann_index.save_plan(index.plan, target)
        method = index.plan.describe()
    if measured < settings.recall_floor:
        raise RecallError(
            f"{directory}: recall@{recall_check.K} of {kind}, {method}, against exact search is {measured:.3f} on "
            f"{len(probes)} probes, under retrieval.recall_floor = {settings.recall_floor}; raise "
            "retrieval.scann.leaves_to_search or retrieval.scann.reorder (or set them to 0), set "
            "retrieval.index='exact', or lower retrieval.recall_floor"
        )
    return {"index": kind, "method": method, "recall_at_10": round(measured, 4), "tried": tried}
