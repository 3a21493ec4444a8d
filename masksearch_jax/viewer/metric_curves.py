"""Every number of every metrics.jsonl as curves for the viewer, with few enough points for a screen.

Enters: the workdirs. Leaves: per stage its name, what its x axis counts, and {name: points}. A file is read again when
it has changed.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from masksearch_jax.evals.report import curves
from masksearch_jax.evals.report.run_files import metric_rows, stage_folders
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.viewer.sources import Run

_POINTS = 240  # a screen shows no more; longer curves are means of neighbouring points
_UNITS = {"dapo": "iteration"}


def stages(runs: Sequence[Run]) -> list[JsonObject]:
    """Return the stages of all runs in the order of their start: run, name, unit, last (step), time (UNIX s), series.

    A series is [[step, value], ..]. Stages of nested folders, such as seeds, are not included. A damaged file becomes a
    stage with `problem`, a sentence, in place of series.
    """
    found: list[JsonObject] = []
    for run in runs:
        try:
            folders = stage_folders(run.folder)
        except ValueError as error:
            found.append({"run": run.number, "name": run.name, "problem": str(error)})
            continue
        for folder in folders:
            path = folder / "metrics.jsonl"
            about = path.stat()
            read = _read(path, about.st_size, about.st_mtime_ns)
            if read["series"]:
                found.append({"run": run.number, "name": folder.name, "unit": _UNITS.get(folder.name, "step"), **read})
    return found


@functools.lru_cache(maxsize=64)
def _read(path: Path, size: int, changed: int) -> JsonObject:
    rows = metric_rows(path)
    series = {name: _thinned(points) for name, points in sorted(curves.series(rows).items())}
    times = {"last": rows[-1]["step"], "time": rows[0].get("time", 0.0)} if rows else {}
    return {"series": series, **times}


def _thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    block = -(-len(points) // _POINTS)
    parts = [points[at : at + block] for at in range(0, len(points), block)]
    return [[part[-1][0], float(f"{sum(value for _, value in part) / len(part):.6g}")] for part in parts]
