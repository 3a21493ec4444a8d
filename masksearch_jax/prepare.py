"""Entry: makes W/data from a dump, or from the toy encyclopedia.

    python -m masksearch_jax.prepare --config=configs/prepare.py --config.dump=FILE --workdir=W

W/data appears at the end, by a rename, so that it is finished where it exists; running the same line again does nothing
then. After a kill it starts anew, but for the encoded passages in W/data.vectors and, with Apache Beam (beam.runner),
the shards in W/data.shards, which are used as far as they go.
This is the only entry that imports TensorFlow, and it runs as a process of its own.
"""

import os

# Before the first import of TensorFlow: it prints a page of notes otherwise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contextlib  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from masksearch_jax import entry, language_model, metrics  # noqa: E402
from masksearch_jax.agents.span_finder import SpanFinder  # noqa: E402
from masksearch_jax.data.records import Passage  # noqa: E402
from masksearch_jax.retrieval import build as index_build  # noqa: E402
from masksearch_jax.retrieval import settings as index_settings  # noqa: E402
from masksearch_jax.retrieval.passages import PassageStore  # noqa: E402
from masksearch_jax.runtime import workdir_lock  # noqa: E402
from masksearch_jax.workflows import prepared_data  # noqa: E402
from masksearch_jax.workflows.settings import validate_settings  # noqa: E402

# Which splits each index holds: training never sees held-out text, validation none of the test split, and what is only
# searched (prep/search_only.py) stands with the test split.
INDICES = {
    "train": ("train",),
    "validation": ("train", "validation"),
    "all": ("train", "validation", "test", "search_only"),
}
# Made where there is a newer dump, whose articles stand in it instead of those of the same titles.
FRESH = {"fresh": (*INDICES["all"], "newer")}


# How salient spans are found: prep/spans.py; by the model of `llm` (agents/span_finder.py); of those of the rules the
# ones that a checkpoint is most perplexed by (hard_spans.py).
SPANS = ("rules", "llm", "hard")


class SplitPassages:
    """The passages of some splits, in order of id, read anew at each iteration; with split 'newer' among them, none of
    an article that has a newer version."""

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


def run(cfg: Any, workdir: Path) -> dict[str, Any]:
    """Makes `workdir`/data unless it is there; returns its manifest.

    Raises ValueError or FileNotFoundError for settings that cannot work, or that differ from those of finished data.
    """
    from masksearch_jax.prep import manifest

    validate_settings(cfg, "prepare")
    data_dir = workdir / "data"
    recorded = prepared_data.recorded(cfg)
    if data_dir.exists() and manifest.read(data_dir) is None:
        raise ValueError(f"{data_dir} exists and prepare did not make it; take another --workdir, or move it away")
    if not cfg.overwrite and manifest.is_current(data_dir, recorded):
        print(f"{data_dir}: already prepared")
        return manifest.read(data_dir)

    # ---- everything that can be refused, before the slow imports and the work ----
    started = time.perf_counter()
    retrieval = index_settings.from_config(cfg.retrieval.to_dict())
    if cfg.spans not in SPANS:
        raise ValueError(f"spans={cfg.spans!r} is none of {SPANS}")
    if cfg.spans == "llm":
        language_model.check(cfg.llm, "spans='llm'")
    if cfg.elsewhere and (cfg.spans != "rules" or cfg.beam.runner):
        raise ValueError("elsewhere=True reads all spans twice, in one process: take spans='rules' and beam.runner=''")
    unknown = set(cfg.indices) - set(INDICES)
    if unknown:
        raise ValueError(f"indices={tuple(cfg.indices)}: {sorted(unknown)} is none of {tuple(INDICES)}")
    from masksearch_jax.prep import pipeline

    pipeline.check(cfg)
    with workdir_lock.locked(workdir):
        return _prepare(cfg, workdir, recorded, retrieval, started)


def _prepare(
    cfg: Any, workdir: Path, recorded: dict[str, Any], retrieval: index_settings.IndexSettings, started: float
) -> dict[str, Any]:
    """The work of `run`, in a workdir that no other run writes to."""
    from masksearch_jax.prep import manifest, pipeline

    data_dir, partial, vectors = workdir / "data", workdir / "data.partial", workdir / "data.vectors"
    workers, shards = None, workdir / "data.shards"
    if cfg.beam.runner:
        workers = _beam(cfg, shards)
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left

    # ---- the data, then an index over it for each purpose ----
    if cfg.spans == "llm":
        content, report = _with_model(cfg, partial, workdir / "llm.sqlite")
    elif cfg.spans == "hard":
        content, report = _with_checkpoint(cfg, partial)
    else:
        content, report = pipeline.run(cfg, partial, metrics.progress_bar, workers=workers)
    wanted = {name: INDICES[name] for name in cfg.indices} | (FRESH if content["newer"] else {})
    report["indices"] = _build_indices(wanted, retrieval, partial, vectors)
    report["seconds"]["indices"] = round(sum(index["seconds"] for index in report["indices"].values()), 2)
    report["seconds"]["all"] = round(time.perf_counter() - started, 2)

    # ---- manifest, then the one rename that makes it count ----
    (partial / "report.json").write_text(json.dumps(report, indent=1))
    files = [path for path in partial.rglob("*") if path.is_file()]
    written = manifest.write(partial, {"settings": recorded, **content}, files)
    shutil.rmtree(data_dir, ignore_errors=True)
    partial.rename(data_dir)
    shutil.rmtree(vectors, ignore_errors=True)
    shutil.rmtree(shards, ignore_errors=True)
    print(json.dumps(report, indent=1))
    print(f"{data_dir}: prepared in {report['seconds']['all']:.0f} s")
    return written


def _with_model(cfg: Any, data_dir: Path, cache_file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline with a model's spans; the cache stands beside W/data, so that a run that starts anew has it."""
    from masksearch_jax.prep import annotated, pipeline, spans

    client = language_model.connect(cfg.llm, cache_file)
    asking = SpanFinder(client, language_model.sampling(cfg.llm))

    def finder(passage_text: str, title: str, *_: Any) -> list[spans.Span]:
        return spans.select(passage_text, title, [spans.Span(*found) for found in asking(passage_text, title)])

    def ahead(found: Iterable[annotated.Linked]) -> Iterator[annotated.Linked]:
        return asking.ahead(found, lambda linked: (linked[0].text, linked[0].title))

    try:
        content, report = pipeline.run(cfg, data_dir, metrics.progress_bar, lambda _: finder, ahead)
    finally:
        client.close()
    return content, report | {"llm": asking.stats}


def _with_checkpoint(cfg: Any, data_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline with the hardest spans of a checkpoint."""
    from masksearch_jax import hard_spans
    from masksearch_jax.prep import annotated, pipeline

    score, tokenizer = hard_spans.of_checkpoint(cfg.hard.start)
    made: list[hard_spans.HardSpans] = []

    def choose(rules: Callable[..., Any]) -> Callable[..., Any]:
        made.append(hard_spans.HardSpans(rules, score, tokenizer, cfg.hard.share))
        return made[0]

    def ahead(found: Iterable[annotated.Linked]) -> Iterator[annotated.Linked]:
        return made[0].ahead(found, lambda linked: linked[0].text)

    content, report = pipeline.run(cfg, data_dir, metrics.progress_bar, choose, ahead)
    return content, report | {"hard": dict(made[0].stats)}


def _beam(cfg: Any, folder: Path) -> Any:
    """Returns the prep.pipeline.Workers of Apache Beam; raises ValueError without Beam, or for settings that cannot
    work."""
    try:
        from masksearch_jax.prep.beam import pipeline as beam
    except ImportError as error:
        raise ValueError(
            f"beam.runner={cfg.beam.runner!r} needs Apache Beam ({error}), which has an environment of its own: "
            "bash launch/setup.sh beam, then .venv-beam/bin/python -m masksearch_jax.prepare .."
        ) from None
    beam.check(cfg)
    return beam.Workers(cfg, folder)


def _build_indices(
    wanted: dict[str, tuple[str, ...]], settings: index_settings.IndexSettings, data_dir: Path, vectors: Path
) -> dict[str, Any]:
    store, reports = PassageStore(data_dir / "passages.array_record"), {}
    for name, splits in wanted.items():
        held = SplitPassages(store, splits)
        with _bars(f"index {name}") as progress:
            reports[name] = index_build.build(data_dir / "index" / name, held, settings, progress, vectors / name)
    return reports


@contextlib.contextmanager
def _bars(label: str) -> Iterator[index_build.Progress]:
    """One progress bar for each stage that reports, the one before closed when the next begins."""
    with contextlib.ExitStack() as stack:
        current: dict[str, Callable[[int], None]] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in current:
                stack.close()
                current.clear()
                current[stage] = stack.enter_context(metrics.progress_bar(total, f"{label}: {stage}"))
            current[stage](done)

        yield show


if __name__ == "__main__":
    entry.start(run, "configs/prepare.py")
