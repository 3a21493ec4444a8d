"""Metrics of a run: exact accumulation, and a jsonl log that survives a kill.

Enters: (sum, count) pairs and finished values. Leaves: `metrics.jsonl`, and the same rows to whatever else shows them
(`Tracker`). Only the primary process writes; callers say which one that is, so that nothing here needs JAX.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
from numpy.typing import ArrayLike

from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import Json, JsonObject

_BINS = 64


class Mean:
    """Means over many steps, divided only once: the sum of sums over the sum of counts."""

    def __init__(self):
        self._parts: dict[str, list[tuple[ArrayLike, ArrayLike]]] = {}

    def add(self, pairs: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
        """Add {name: (sum, count)}, scalars of any kind. Device arrays are not waited for until `result`."""
        for name, pair in pairs.items():
            self._parts.setdefault(name, []).append(pair)

    def result(self) -> dict[str, float]:
        """Return the means and start over; a name whose counts add up to 0 is left out."""
        means = {}
        for name, parts in self._parts.items():
            total = math.fsum(float(np.asarray(part)) for part, _ in parts)
            count = math.fsum(float(np.asarray(part)) for _, part in parts)
            if count:
                means[name] = total / count
        self._parts = {}
        return means

    def get_state(self) -> dict[str, list[list[float]]]:
        """Return exactly what was added since the last result, as JSON data."""
        return {
            name: [[float(np.asarray(value)) for value in pair] for pair in parts]
            for name, parts in self._parts.items()
        }

    def set_state(self, state: Mapping[str, Iterable[Iterable[float]]]) -> None:
        """Continue from what `get_state` returned."""
        self._parts = {name: [(total, count) for total, count in parts] for name, parts in state.items()}


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How often values fell between edges. edges: float64 [n + 1], ascending. counts: int64 [n]."""

    edges: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: ArrayLike) -> "Histogram | None":
        """Return the histogram of the finite values in 64 bins from the least to the greatest; None without any."""
        flat = np.asarray(values, np.float64).ravel()
        flat = flat[np.isfinite(flat)]
        if not flat.size:
            return None
        counts, edges = np.histogram(flat, _BINS)
        return cls(edges, counts)


class Tracker(Protocol):
    """Something beside metrics.jsonl that shows the rows of a stage: TensorBoard, Weights & Biases, the live view."""

    def cut(self, step: int) -> None:
        """Begin, or begin again: hide what was written for later steps than `step`."""
        ...

    def write(self, step: int, row: Mapping[str, Json]) -> None:
        """Take a row of metrics.jsonl as it is written there."""
        ...

    def samples(self, step: int, texts: Mapping[str, str], histograms: Callable[[], Mapping[str, Histogram]]) -> None:
        """Take samples of text and distributions. histograms: makes them, and is called only if they are shown."""
        ...

    def close(self) -> None: ...


class MetricsLog:
    """Writes the rows of `<directory>/metrics.jsonl`, each {'step': n, 'time': unix seconds, name: value, ..}."""

    def __init__(self, directory: Path | str, primary: bool = True, trackers: Sequence[Tracker] = ()):
        """primary: False makes every method do nothing. trackers: get the same rows; `close` closes them."""
        self.path = Path(directory) / "metrics.jsonl"
        self._primary, self._trackers = primary, trackers if primary else ()
        self._file: TextIO | None = None

    def cut(self, step: int) -> int:
        """Drop the rows after `step` and a half-written last line, atomically; return how many lines were dropped.

        Called at each start of a stage, so that the log reads as if the run had never been killed.
        """
        if not self._primary:
            return 0
        dropped = self._dropped(step)
        for tracker in self._trackers:
            tracker.cut(step)
        return dropped

    def _dropped(self, step: int) -> int:
        if not self.path.exists():
            return 0
        if self._file is not None:
            self._file.close()
            self._file = None
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _row_step(line) <= step]
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_bytes(b"".join(kept))
        os.replace(partial, self.path)
        return len(lines) - len(kept)

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """Append one row and flush it. Values that are not finite become the strings 'nan', 'inf', '-inf'.

        Raises FileNotFoundError if the file was removed since the first row.
        """
        if not self._primary:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        elif not self.path.exists():
            raise FileNotFoundError(
                f"{self.path} was removed while the run wrote to it, and its rows are lost; start the same line again: "
                "it goes on from its newest checkpoint"
            )
        row = {"step": int(step), "time": round(time.time(), 3)}
        row.update({name: _plain(value) for name, value in values.items()})
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.write(int(step), row)

    def samples(
        self,
        step: int,
        texts: Mapping[str, str],
        histograms: Callable[[], Mapping[str, Histogram]] = dict,
    ) -> None:
        """Hand samples to the trackers (`Tracker.samples`); metrics.jsonl does not hold them."""
        for tracker in self._trackers:
            tracker.samples(step, texts, histograms)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        for tracker in self._trackers:
            tracker.close()


def read_rows(path: Path | str) -> list[JsonObject]:
    """Return the rows of a metrics.jsonl; raise ValueError that names file and line if a line is not JSON."""
    rows = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; start its stage again, which cuts its log") from error
    return rows


def _row_step(line: bytes) -> float:
    """Return the step of a line, infinity for a line that is damaged or was not written to its end."""
    try:
        return parse_json(line)["step"] + 0 if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _plain(value: Json) -> Json:
    """Return the value as JSON can hold it: without arrays of JAX or numpy, and without NaN and infinities."""
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    array = np.asarray(value)
    if array.ndim:
        return [_plain(item) for item in array.tolist()]
    scalar = array.item()
    return str(scalar) if isinstance(scalar, float) and not math.isfinite(scalar) else scalar
