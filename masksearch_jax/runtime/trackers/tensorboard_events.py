"""TensorBoard: the rows of metrics.jsonl as scalars, distributions as histograms, sampled text as text.

Leaves events in W/<stage>/tensorboard. `tensorboard --logdir=W` shows the stages of a run side by side.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from masksearch_jax.runtime.metrics import Histogram
from masksearch_jax.runtime.types import Json

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class TensorBoard:
    """Writes the events of one stage; a `metrics.Tracker`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._hidden_after: int | None = None

    def cut(self, step: int) -> None:
        """Make TensorBoard hide the events after `step`, which a killed start left behind."""
        self.close()
        self._hidden_after = step

    def write(self, step: int, row: Mapping[str, Json]) -> None:
        writer = self._open(step)
        for name, value in row.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                writer.add_scalar(name, value, step)
        writer.flush()

    def samples(self, step: int, texts: Mapping[str, str], histograms: Callable[[], Mapping[str, Histogram]]) -> None:
        writer = self._open(step)
        for name, text in texts.items():
            # Four spaces make it a block of code: no character of it is read as markdown.
            writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), step)
        for name, one in histograms().items():
            middles = (one.edges[:-1] + one.edges[1:]) / 2
            writer.add_histogram_raw(
                name, min=float(one.edges[0]), max=float(one.edges[-1]), num=int(one.counts.sum()),
                sum=float(np.dot(middles, one.counts)), sum_squares=float(np.dot(middles**2, one.counts)),
                bucket_limits=one.edges[1:].tolist(), bucket_counts=one.counts.tolist(), global_step=step,
            )  # fmt: skip
        writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, step: int) -> "SummaryWriter":
        if self._writer is None:
            after = step - 1 if self._hidden_after is None else self._hidden_after
            from tensorboardX import SummaryWriter

            # The name of a file has the second in it; two starts within one second must not share a file.
            suffix = f".{time.time_ns()}"
            self._writer = SummaryWriter(str(self._folder), purge_step=after + 1, filename_suffix=suffix)
        return self._writer
