"""The suites that an evaluation has scored so far, kept on disk.

A killed evaluation resumes with its next suite, and a finished one is only read.
Enters: the folder of a policy, and what decides its rows (`identity`: weights, tasks, settings).
Leaves, in that folder: suites/<suite>.jsonl while the evaluation runs, and at its end rows.jsonl, scores.json and
identity.json, and sampled.jsonl where episodes were sampled. An evaluation with another identity starts anew, and
replaces the finished one only at its own end. In a folder that was named it is refused instead.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals import runner
from masksearch_jax.runtime import settings_history
from masksearch_jax.runtime.json_files import read_json_object, write_json
from masksearch_jax.runtime.types import Json, JsonObject

_IDENTITY = "identity.json"
_SAMPLED = "sampled.jsonl"


class EvaluatedSuites:
    """The scored suites of one policy.

    identity: JSON data. None, for parameters that are in no file, keeps nothing for a resumed or later evaluation.
    keep: never replace another evaluation in this folder, finished or not; raise ValueError that says what differs.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Json] | None, keep: bool = False):
        self._folder, self._parts = folder, folder / "suites"
        self._identity = None if identity is None else json.loads(json.dumps(identity))
        if keep:
            self._check_free()
        if self._identity is None or _read(self._parts / _IDENTITY) != self._identity:
            shutil.rmtree(self._parts, ignore_errors=True)

    def _check_free(self) -> None:
        there = _read(self._folder / _IDENTITY) or _read(self._parts / _IDENTITY)
        if there is None and not (self._folder / "scores.json").exists():
            return
        if there is None or there != self._identity:
            before, now = (dict(settings_history.leaves(found or {})) for found in (there, self._identity))
            different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
            raise ValueError(
                f"{self._folder} holds another evaluation, which stays as it is; take another --name. What differs: "
                + (", ".join(different[:8]) or "it does not say what it scored")
            )

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

    def finish(
        self, rows: Sequence[runner.Row], scores: Mapping[str, Json], sampled: Sequence[runner.Row] = ()
    ) -> None:
        """Write rows.jsonl, sampled.jsonl if there are such rows, scores.json, and last identity.json, which marks them
        as finished."""
        (self._folder / _IDENTITY).unlink(missing_ok=True)
        if sampled:
            runner.write_rows(self._folder / _SAMPLED, sampled)
        else:
            (self._folder / _SAMPLED).unlink(missing_ok=True)
        runner.write_rows(self._folder / "rows.jsonl", rows)
        runner.write_json(self._folder / "scores.json", scores)
        if self._identity is not None:
            write_json(self._folder / _IDENTITY, self._identity)
        shutil.rmtree(self._parts, ignore_errors=True)


def _read(path: Path) -> JsonObject | None:
    return read_json_object(path, "remove it, and evaluate again") if path.exists() else None
