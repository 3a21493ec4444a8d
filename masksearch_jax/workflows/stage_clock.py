"""Wall time of the stages of a workflow, kept over restarts."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from masksearch_jax.runtime.json_files import read_json_object, write_json


class Clock:
    """Wall time of each stage in seconds, summed over restarts in W/seconds.json."""

    def __init__(self, workdir: Path):
        self._path = workdir / "seconds.json"
        self.seconds: dict[str, float] = {}
        if self._path.exists():
            self.seconds = read_json_object(self._path, "remove it: it holds wall times alone")

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        print(f"==== {stage} ====", file=sys.stderr, flush=True)
        began = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - began, 1)
        write_json(self._path, self.seconds)
