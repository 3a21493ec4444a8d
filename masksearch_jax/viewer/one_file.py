"""The viewer as one HTML file with a sample of the episodes inside, to send or to keep.

Enters: runs. Leaves: a page of a bounded size. Whole groups are taken in the order of a hash of their task, the same
order in every source, so that the evaluations of two policies hold the same tasks.
"""

import hashlib
import json
from pathlib import Path

from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.viewer import metric_curves, static_files
from masksearch_jax.viewer.library import Library, Source
from masksearch_jax.viewer.sources import Runs

MOST_BYTES = 8 << 20  # of the episodes, as JSON
_MOST_GROUPS = 200  # of a source


def write(path: Path, runs: Runs, most_bytes: int = MOST_BYTES) -> Path:
    """Write the page atomically, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(static_files.joined_page(contents(runs, most_bytes)), encoding="utf-8")
    partial.replace(path)
    return path


def contents(runs: Runs, most_bytes: int) -> JsonObject:
    """Return what the page holds: the overview, the curves, and a sample of whole episodes."""
    library = Library(runs)
    overview = library.overview()
    sources = [Source(run["run"], one["name"]) for run in overview["runs"] for one in run["sources"]]
    orders = {source: _in_order(library.groups(source)) for source in sources}
    episodes: list[JsonObject] = []
    used = 0
    for place in range(_MOST_GROUPS):
        for source in sources:
            if place < len(orders[source]) and used < most_bytes:
                found = library.group(source, orders[source][place])
                used += len(json.dumps(found))
                episodes += found
    return {"overview": overview, "curves": metric_curves.stages(runs.found), "episodes": episodes}


def _in_order(groups: list[tuple[str, int]]) -> list[int]:
    """Return the ids of (task id, group) pairs in the order in which they are taken."""
    ordered = sorted(groups, key=lambda one: (hashlib.sha256(one[0].encode()).digest(), one[1]))
    return [group for _, group in ordered]
