"""Entry: writes demonstrations (accepted trajectories) for supervised training.

    python -m masksearch_jax.synthesize --config=configs/synthesize.py --workdir=W

Reads W/data (tasks, training-time index), writes W/demonstrations/ramp_<k>.array_record (and qa.array_record where
questions are asked for) and, last, manifest.json with the counts of accepted and rejected trajectories and how often
the oracle's top passages hold the answer.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masksearch_jax import entry, job, metrics
from masksearch_jax.agents import lookup, oracle, questions
from masksearch_jax.data import records
from masksearch_jax.data.curriculum import level_name, level_of
from masksearch_jax.retrieval import interface
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.text.interface import Tokenizer

# Tasks that go through the index together: large enough for batched search, small enough to show progress.
_CHUNK = 512


def settings(cfg: Any) -> dict[str, Any]:
    """All that shapes the demonstrations, as JSON data: written to the manifest and compared by whoever reuses them."""
    return {
        "seed": cfg.seed,
        "synthesize": cfg.synthesize.to_dict(),
        "search": cfg.search.to_dict(),
        "episode": cfg.episode.to_dict(),
    }


def run(cfg: Any, workdir: Path, searcher: interface.Searcher) -> dict[str, Any]:
    """Synthesises up to `cfg.synthesize.examples[name]` demonstrations of each level ('ramp_<k>', 'qa'); returns the
    manifest.

    Raises ValueError if no trajectory at all is accepted for some level that was asked for.
    """
    wanted, target = cfg.synthesize, workdir / "demonstrations"
    started = time.perf_counter()
    tokenizer = tokenizer_lib.load(workdir / "data")
    teacher = oracle.OracleConfig(
        styles=dict(wanted.styles),
        retry=wanted.retry,
        attempts=wanted.attempts,
        hits=cfg.search.hits,
        observation_tokens=cfg.episode.observation_tokens,
        total_tokens=cfg.episode.total_tokens,
        seed=cfg.seed,
    )
    associations = oracle.fit_associations(_first(_tasks(workdir, 1), wanted.association_tasks), searcher)
    manifest: dict[str, Any] = {"settings": settings(cfg), "levels": {}}
    for name, count in wanted.examples.items():
        level = level_of(name)
        made = _write_level(workdir, level, count, searcher, tokenizer, associations, teacher) if count else {}
        # How often search can find the answer at all, also for levels that get no demonstrations.
        if level > 0 and (probe := _first(_tasks(workdir, level), wanted.probe_tasks)):
            found = {s: oracle.hit_rate(probe, searcher, associations, s, k=3) for s in oracle.STYLES}
            made["oracle_top3_contains_answer"] = {
                style: {"found": hits, "masks": masks, "rate": hits / masks} for style, (hits, masks) in found.items()
            }
        manifest["levels"][name] = made
    manifest["seconds"] = round(time.perf_counter() - started, 2)
    target.mkdir(parents=True, exist_ok=True)
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return manifest


def _write_level(
    workdir: Path,
    level: int,
    count: int,
    searcher: interface.Searcher,
    tokenizer: Tokenizer,
    associations: oracle.Associations,
    teacher: oracle.OracleConfig,
) -> dict[str, Any]:
    """Writes the first `count` accepted trajectories of one level; returns their counts for the manifest."""
    name, outcomes = level_name(level), Counter[str]()
    teach = {0: questions.synthesize, -1: lookup.synthesize}.get(level, oracle.synthesize)
    accepted: list[records.Demonstration] = []
    source = _tasks(workdir, level)
    with metrics.progress_bar(count, f"synthesize {name}") as bar:
        while len(accepted) < count and (chunk := _first(source, _CHUNK)):
            for outcome in teach(chunk, searcher, tokenizer, associations, teacher):
                outcomes[outcome.rejected or "accepted"] += 1
                if outcome.demonstration:
                    accepted.append(outcome.demonstration)
            bar(min(len(accepted), count))
    accepted = accepted[:count]
    if not outcomes:
        raise ValueError(
            f"{workdir / 'data'} holds no training task of {name}, of which synthesize.examples asks for {count}; "
            "questions come from prepare's --config.questions=FILE, and those about held-out articles are held out"
        )
    if not accepted:
        raise ValueError(
            f"no trajectory of {name} was accepted ({dict(outcomes)}): the index hardly states a fact twice; "
            f"set synthesize.examples.{name}=0, or raise search.hits (now {teacher.hits})"
        )
    records.write(workdir / "demonstrations" / f"{name}.array_record", accepted)
    return {
        "written": len(accepted),
        "outcomes": dict(outcomes),
        "tokens": sum(len(d.ids) for d in accepted),
        "searches": sum(d.searches for d in accepted),
    }


def _tasks(workdir: Path, level: int) -> Iterator[records.Task]:
    """Training tasks of one level, epoch after epoch."""
    for path in sorted((workdir / "data" / "tasks" / "train" / level_name(level)).glob("epoch_*.array_record")):
        yield from records.read(path, records.Task)


def _first(source: Iterator[Any], count: int) -> list[Any]:
    return [item for _, item in zip(range(count), source, strict=False)]


def main(cfg: Any, workdir: Path) -> None:
    searcher = job.Job(cfg, workdir).searcher("train")
    print(json.dumps(run(cfg, workdir, searcher), indent=1))


if __name__ == "__main__":
    entry.start(main, "configs/synthesize.py")
