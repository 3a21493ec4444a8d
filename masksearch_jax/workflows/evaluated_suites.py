"""The suites that an evaluation has scored so far, kept on disk.

A killed evaluation resumes with its next suite, and a finished one is only read.
Enters: the folder of a policy, and what decides its rows (`identity`: weights, tasks, settings).
Leaves, in that folder: suites/<suite>.jsonl while the evaluation runs, and at its end rows.jsonl, scores.json and
identity.json. An evaluation with another identity starts anew, and replaces the finished one only at its own end.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals import runner
from masksearch_jax.runtime.json_files import read_json_object, write_json
from masksearch_jax.runtime.types import Json, JsonObject

_IDENTITY = "identity.json"


class EvaluatedSuites:
    """The scored suites of one policy.

    identity: JSON data. None, for parameters that are in no file, keeps nothing for a resumed or later evaluation.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Json] | None):
        self._folder, self._parts = folder, folder / "suites"
        self._identity = None if identity is None else json.loads(json.dumps(identity))
        if self._identity is None or _read(self._parts / _IDENTITY) != self._identity:
            shutil.rmtree(self._parts, ignore_errors=True)

    def finished(self) -> dict[str, JsonObject] | None:
        """Return {suite: summary} of a finished evaluation with this identity, or None."""
        if self._identity is None or _read(self._folder / _IDENTITY) != self._identity:
            return None
        return _read(self._folder / "scores.json")

    def rows(self, suite: str) -> list[runner.Row] | None:
        """Return the rows of a suite that was scored before a kill, or None."""
        path = self._parts / f"{suite}.jsonl"
        return runner.read_rows(path) if path.exists() else None

    def add(self, suite: str, rows: Sequence[runner.Row]) -> None:
        """Keep the rows of a suite until `finish`."""
        if self._identity is not None:
            runner.write_rows(self._parts / f"{suite}.jsonl", rows)
            write_json(self._parts / _IDENTITY, self._identity)

    def finish(self, rows: Sequence[runner.Row], scores: Mapping[str, Json]) -> None:
        """Write rows.jsonl and scores.json, then identity.json, which marks them as finished."""
        (self._folder / _IDENTITY).unlink(missing_ok=True)
        runner.write_rows(self._folder / "rows.jsonl", rows)
        runner.write_json(self._folder / "scores.json", scores)
        if self._identity is not None:
            write_json(self._folder / _IDENTITY, self._identity)
        shutil.rmtree(self._parts, ignore_errors=True)


def _read(path: Path) -> JsonObject | None:
    return read_json_object(path, "remove it, and evaluate again") if path.exists() else None
