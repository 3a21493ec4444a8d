"""Metrics of a run: exact accumulation, a jsonl log that survives a kill, and progress for a person.

Enters: (sum, count) pairs and finished values. Leaves: `metrics.jsonl`, TensorBoard events if asked for, and progress
lines. Only the primary process writes or prints; callers say which one that is, so that nothing here needs JAX.
"""

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import Json, JsonObject

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

T = TypeVar("T")
_PLAIN_SECONDS = 10.0


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


class MetricsLog:
    """Writes the rows of `<directory>/metrics.jsonl`, each {'step': n, 'time': unix seconds, name: value, ..}."""

    def __init__(self, directory: Path | str, primary: bool = True, tensorboard: bool = False):
        """primary: False makes every method do nothing. tensorboard: write events to `<directory>/tensorboard` too."""
        self.path = Path(directory) / "metrics.jsonl"
        self._primary, self._tensorboard = primary, tensorboard
        self._file: TextIO | None = None
        self._writer: SummaryWriter | None = None
        if primary and tensorboard:
            _summary_writer()

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
        if self._tensorboard:
            self._write_events(step, row)

    def _write_events(self, step: int, row: Mapping[str, Json]) -> None:
        if self._writer is None:
            # purge_step hides the events after it that a killed run left behind.
            self._writer = _summary_writer()(str(self.path.parent / "tensorboard"), purge_step=step)
        for name, value in row.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def cut(self, step: int) -> int:
        """Drop the rows after `step` and a half-written last line, atomically; return how many lines were dropped.

        Called on resume, so that the log reads as if the run had never been killed.
        """
        if not self._primary or not self.path.exists():
            return 0
        self.close()
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _row_step(line) <= step]
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_bytes(b"".join(kept))
        os.replace(partial, self.path)
        return len(lines) - len(kept)

    def close(self) -> None:
        for file in (self._file, self._writer):
            if file is not None:
                file.close()
        self._file = self._writer = None


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


def _summary_writer() -> type:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard=True needs tensorboardX: pip install -c launch/constraints.txt '.[tensorboard]'"
        ) from error
    return SummaryWriter


def progress(
    iterable: Iterable[T],
    total: int | None,
    label: str,
    primary: bool = True,
    note: "Note | None" = None,
) -> Iterator[T]:
    """Yield from `iterable` and show how many items are done.

    total: how many items there are, None if unknown. note: text shown after the count on the same line.
    """
    with progress_bar(total, label, primary) as done:
        for count, item in enumerate(iterable, start=1):
            yield item
            done(count, note.text if note else "")


@dataclasses.dataclass
class Note:
    """The text that a stage shows beside its progress count, such as its loss and tokens per second."""

    text: str = ""


def say(label: str, text: str, primary: bool = True) -> None:
    """Print one line for a person, on stderr: what a stage begins, continues from, or has made."""
    if primary:
        print(f"{label}: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bar(total: int | None, label: str, primary: bool = True) -> Iterator[Callable[..., None]]:
    """Show the progress of a long step, with an ETA.

    Yields a function to call with the number of things done so far, and optionally with a note that is shown beside it.
    On a terminal it shows a bar, elsewhere a line every ten seconds and one at the end. It prints to stderr, as stdout
    is for results.
    """
    if not primary:
        yield lambda done, note="": None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(label, total=total)
            yield lambda done, note="": bar.update(task, completed=done, description=f"{label} {note}".strip())
    else:
        lines = _Lines(total, label)
        try:
            yield lines.update
        finally:
            # Also when the step is left early, so that the last line says how far it came.
            lines.show(ended=True)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


class _Lines:
    """Progress as plain lines, for pipes and log files."""

    def __init__(self, total: int | None, label: str):
        self._total, self._label = total, label
        self._done, self._note = 0, ""
        self._start = self._shown = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        self._done, self._note = done, note
        if time.monotonic() - self._shown >= _PLAIN_SECONDS:
            self.show(ended=False)

    def show(self, ended: bool) -> None:
        now = self._shown = time.monotonic()
        seconds = now - self._start
        line = f"{self._label}: {self._done}" + ("" if self._total is None else f"/{self._total}")
        line += f" in {_clock(seconds)}"
        if not ended and self._total is not None and self._done:
            line += f", eta {_clock(seconds * (self._total - self._done) / self._done)}"
        print(line + (f", {self._note}" if self._note else ""), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
