"""Make W/data from a dump or from the toy encyclopedia (masksearch_jax.prepare).

W/data appears by a rename at the end, so it is finished if it exists, and running the same command again does nothing.
After a kill, preparation starts anew. It reuses only the encoded passages in W/data.vectors and, with Apache Beam
(beam.runner), the finished shards in W/data.shards.
This is the only workflow that imports TensorFlow. It runs in its own process.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ml_collections import ConfigDict

from masksearch_jax.agents.span_finder import SpanFinder
from masksearch_jax.data.records import Passage
from masksearch_jax.retrieval.index import build as index_build
from masksearch_jax.retrieval.index import index_settings
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.runtime import (
    progress,
    workdir_lock,
)
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.workflows import (
    command_summary,
    llm_connection,
    prepared_data,
    pretrained_model,
)
from masksearch_jax.workflows.problems import Problems
from masksearch_jax.workflows.settings import validate_settings

# Index -> the splits that it holds. Training never sees held-out text, and validation sees no text of the test split.
# Search-only articles (prep/search_only.py) are searched together with the test split.
if TYPE_CHECKING:  # imported once the settings are checked
    from masksearch_jax.prep.preparation import Workers

INDICES = {
    "train": ("train",),
    "validation": ("train", "validation"),
    "all": ("train", "validation", "test", "search_only"),
}
# Made if there is a newer dump. Its articles replace those of the same titles.
FRESH = {"fresh": (*INDICES["all"], "newer")}


# How salient spans are found: by rules (prep/spans/candidates.py); by the model of `llm` (agents/span_finder.py); or by
# rules, keeping those with the highest perplexity under a checkpoint (workflows/perplexity_spans.py).
SPANS = ("rules", "llm", "perplexity")


class SplitPassages:
    """The passages of some splits in order of id, read anew at each iteration.

    If 'newer' is among the splits, the old passages of articles that have a newer version are left out.
    """

    def __init__(self, store: PassageStore, splits: tuple[str, ...]):
        self._store, self._splits = store, splits
        self._renewed: set[str] = set()
        if "newer" in splits:
            self._renewed = {passage.title for passage in store if passage.split == "newer"}
        self._count = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Passage]:
        for passage in self._store:
            if passage.split in self._splits and (passage.split == "newer" or passage.title not in self._renewed):
                yield passage


def run(cfg: ConfigDict, workdir: Path) -> JsonObject:
    """Make `workdir`/data unless it is there, and return its manifest.

    Raises ValueError or FileNotFoundError for settings that cannot work, or that differ from those of finished data.
    """
    from masksearch_jax.prep import manifest

    validate_settings(cfg, "prepare")
    data_dir = workdir / "data"
    recorded = prepared_data.recorded(cfg)
    if data_dir.exists() and manifest.read(data_dir) is None:
        raise ValueError(f"{data_dir} exists and prepare did not make it; take another --workdir, or move it away")
    made = manifest.read(data_dir)
    if made is not None and not cfg.overwrite and manifest.is_current(data_dir, recorded):
        print(f"{data_dir}: already prepared")
        return made

    # ---- every check that can refuse the settings, before the slow imports and the work ----
    started = time.perf_counter()
    retrieval = index_settings.from_config(cfg.retrieval.to_dict())
    if cfg.spans not in SPANS:
        raise ValueError(f"spans={cfg.spans!r} is none of {SPANS}")
    if cfg.spans == "llm":
        llm_connection.validate_llm(cfg.llm, "spans='llm'")
    if cfg.corroborated and (cfg.spans != "rules" or cfg.beam.runner):
        raise ValueError(
            "corroborated=True reads all spans twice, in one process: take spans='rules' and beam.runner=''"
        )
    unknown = set(cfg.indices) - set(INDICES)
    if unknown:
        raise ValueError(f"indices={tuple(cfg.indices)}: {sorted(unknown)} is none of {tuple(INDICES)}")
    from masksearch_jax.prep import preparation

    preparation.validate_preparation(cfg)
    with workdir_lock.locked(workdir):
        return _prepare(cfg, workdir, recorded, retrieval, started)


def _prepare(
    cfg: ConfigDict, workdir: Path, recorded: JsonObject, retrieval: index_settings.IndexSettings, started: float
) -> JsonObject:
    """Make the data, in a workdir that this process has locked."""
    from masksearch_jax.prep import manifest, preparation

    data_dir, partial, vectors = workdir / "data", workdir / "data.partial", workdir / "data.vectors"
    workers, shards = None, workdir / "data.shards"
    if cfg.beam.runner:
        workers = _beam(cfg, shards)
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run

    # ---- the data, then the indices over it ----
    if cfg.spans == "llm":
        content, report = _with_model(cfg, partial, workdir / "llm.sqlite")
    elif cfg.spans == "perplexity":
        content, report = _with_checkpoint(cfg, partial)
    else:
        content, report = preparation.run(cfg, partial, progress.progress_bar, workers=workers)
    wanted = {name: INDICES[name] for name in cfg.indices} | (FRESH if content["newer"] else {})
    report["indices"] = _build_indices(wanted, retrieval, partial, vectors)
    report["seconds"]["indices"] = round(sum(index["seconds"] for index in report["indices"].values()), 2)
    report["seconds"]["all"] = round(time.perf_counter() - started, 2)

    # ---- manifest, then the rename that marks the data as finished ----
    (partial / "report.json").write_text(json.dumps(report, indent=1))
    files = [path for path in partial.rglob("*") if path.is_file()]
    written = manifest.write(partial, {"settings": recorded, **content}, files)
    shutil.rmtree(data_dir, ignore_errors=True)
    partial.rename(data_dir)
    shutil.rmtree(vectors, ignore_errors=True)
    shutil.rmtree(shards, ignore_errors=True)
    print(f"{data_dir}: prepared in {report['seconds']['all']:.0f} s")
    return written


def _with_model(cfg: ConfigDict, data_dir: Path, cache_file: Path) -> tuple[JsonObject, JsonObject]:
    """Prepare with the spans of a language model. Its cache lies beside W/data, so a run that starts anew reuses it."""
    from masksearch_jax.prep import preparation
    from masksearch_jax.prep.spans import annotated_passages, candidates

    client = llm_connection.connect(cfg.llm, cache_file)
    asking = SpanFinder(client, llm_connection.sampling(cfg.llm))

    def finder(
        passage_text: str, title: str, anchors: object, categories: object, infobox: object
    ) -> list[candidates.Span]:
        return candidates.select(
            passage_text, title, [candidates.Span(*found) for found in asking(passage_text, title)]
        )

    def ahead(found: Iterable[annotated_passages.Linked]) -> Iterator[annotated_passages.Linked]:
        return asking.ahead(found, lambda linked: (linked[0].text, linked[0].title))

    try:
        content, report = preparation.run(cfg, data_dir, progress.progress_bar, lambda _: finder, ahead)
    finally:
        client.close()
    return content, report | {"llm": asking.stats}


def _with_checkpoint(cfg: ConfigDict, data_dir: Path) -> tuple[JsonObject, JsonObject]:
    """Prepare with the rules' spans that have the highest perplexity under a checkpoint."""
    from masksearch_jax.prep import preparation
    from masksearch_jax.prep.spans import annotated_passages, candidates
    from masksearch_jax.workflows import perplexity_spans

    score, tokenizer = perplexity_spans.of_checkpoint(cfg.perplexity.start)
    made: list[perplexity_spans.PerplexitySpans] = []

    def choose(rules: candidates.SpanFinder) -> candidates.SpanFinder:
        made.append(perplexity_spans.PerplexitySpans(rules, score, tokenizer, cfg.perplexity.share))
        return cast(candidates.SpanFinder, made[0])  # it hands on what it is given besides the text

    def ahead(found: Iterable[annotated_passages.Linked]) -> Iterator[annotated_passages.Linked]:
        return made[0].ahead(found, lambda linked: linked[0].text)

    content, report = preparation.run(cfg, data_dir, progress.progress_bar, choose, ahead)
    return content, report | {"perplexity": dict(made[0].stats)}


def _beam(cfg: ConfigDict, folder: Path) -> "Workers":
    """Return the `preparation.Workers` of Apache Beam.

    Raises ValueError if Beam is not installed, or for settings that cannot work.
    """
    try:
        from masksearch_jax.prep.beam import beam_pipelines as beam
    except ImportError as error:
        raise ValueError(
            f"beam.runner={cfg.beam.runner!r} needs Apache Beam ({error}), which has an environment of its own: "
            "bash launch/setup.sh beam, then .venv-beam/bin/python -m masksearch_jax.prepare .."
        ) from None
    beam.validate_beam(cfg)
    return beam.Workers(cfg, folder)


def _build_indices(
    wanted: dict[str, tuple[str, ...]], settings: index_settings.IndexSettings, data_dir: Path, vectors: Path
) -> JsonObject:
    store, reports = PassageStore(data_dir / "passages.array_record"), {}
    for name, splits in wanted.items():
        held = SplitPassages(store, splits)
        with _bars(f"index {name}") as show:
            reports[name] = index_build.build_index(data_dir / "index" / name, held, settings, show, vectors / name)
    return reports


@contextlib.contextmanager
def _bars(label: str) -> Iterator[index_build.Progress]:
    """Yield a progress callback. It shows one bar per stage, and closes it when the next stage begins."""
    with contextlib.ExitStack() as stack:
        current: dict[str, Callable[[int], None]] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in current:
                stack.close()
                current.clear()
                current[stage] = stack.enter_context(progress.progress_bar(total, f"{label}: {stage}"))
            current[stage](done)

        yield show


def main(cfg: ConfigDict, workdir: Path) -> None:
    """Make the data of a config of preparation, or of one that trains and has a section for it."""
    if "prepare" in cfg:
        problems = Problems()
        problems.check(pretrained_model.settle, cfg, workdir)
        if not (workdir / "data").exists():
            problems.check(prepared_data.check_sources, cfg)
        problems.raise_found()
    run(cfg.prepare.copy_and_resolve_references() if "prepare" in cfg else cfg, workdir)
    command_summary.prepared(cfg, workdir)
