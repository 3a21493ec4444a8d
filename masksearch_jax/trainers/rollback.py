"""Rollback: a stage that goes wrong returns to its last good checkpoint, and its data move past the bad steps.

Enters: the section `<stage>.rollback`, and the reasons for which steps count as bad. Leaves: a record in the stage's
history.jsonl, and what the stage goes on from.
The record is written before anything else changes. It holds the position in the data, which the checkpoint to which
training returns does not have. A run that is killed between the record and the next checkpoint finds the record at its
next start, finishes the rollback, and goes on with the same bits. A later checkpoint holds the number of rollbacks
before it, so that no record is applied twice.
Left out: which checkpoint counts as good (trainers/divergence.py), and loading it (trainers/stage.py).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.runtime import distributed, json_files, metrics
from masksearch_jax.runtime.settings_history import Stage as History
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.trainers.divergence import DivergedError
from masksearch_jax.trainers.stage_settings import RollbackSettings

# What a checkpoint of DAPO holds of groups that were sampled for the iterations after it, which were the bad ones.
_SAVED_GROUPS = ("carried", "waiting")


class Rollback:
    """The rollbacks of one stage. count: how many there were. wanted: why the stage has to return now, '' if not."""

    def __init__(self, settings: RollbackSettings, history: History, log: Path):
        """history: gets a row for each rollback. log: the stage's metrics.jsonl."""
        self._settings, self._history, self._log = settings, history, log
        self.count, self.wanted = 0, ""

    @property
    def on(self) -> bool:
        return self._settings.after > 0

    @property
    def after(self) -> int:
        """How many steps in a row without a finite gradient are enough."""
        return self._settings.after

    @property
    def exhausted(self) -> bool:
        """True if the stage has returned as often as it may."""
        return self.count >= self._settings.most

    @property
    def scale(self) -> float:
        """What the learning rates are multiplied by after the rollbacks so far."""
        return math.prod([self._settings.learning_rate_scale] * self.count)

    def want(self, error: DivergedError) -> None:
        """Ask for a rollback because of `error`; raise it if rollback is off."""
        if not self.on:
            raise error
        self.wanted = str(error)

    def record(self, at: int, good: int, cursor: Mapping[str, Json]) -> JsonObject:
        """Write down that the stage returns from step `at` to step `good`, and return the record.

        cursor: the position in the data after step `at`. The rows of the log that the return makes void are copied to
        `rollback-<number>.jsonl` beside it.
        """
        record = {"number": self.count + 1, "at": at, "to": good, "why": self.wanted, "cursor": dict(cursor)}
        if distributed.primary() and self._log.exists():
            void = [row for row in metrics.read_rows(self._log) if row["step"] > good]
            kept = self._log.with_name(f"rollback-{record['number']}.jsonl")
            kept.write_text("".join(json.dumps(row) + "\n" for row in void), encoding="utf-8")
        self._history.add_rollback(record)
        return record

    def unfinished(self, count: int) -> JsonObject | None:
        """Return the record of a rollback that the newest checkpoint does not know, None if it knows all.

        count: the number of rollbacks before that checkpoint. All processes get what process 0 reads.
        """
        said = json.dumps(self._history.last_rollback() if distributed.primary() else None).encode()
        record = json_files.parse_json(distributed.gather_bytes(said)[0])
        return record if record and record["number"] > count else None


def moved_past(record: Mapping[str, Json], meta: Mapping[str, Json]) -> tuple[JsonObject, JsonObject]:
    """Return (facts, data position) from which training goes on: those of the good checkpoint, without the bad data.

    meta: the facts of the good checkpoint.
    """
    without: JsonObject = {name: [] for name in _SAVED_GROUPS if name in meta}
    return {**meta, **without, "rollbacks": record["number"]}, dict(record["cursor"])
