"""Wall time of the stages of a line, kept over restarts."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class Clock:
    """Wall seconds of each stage, added up over restarts in W/seconds.json."""

    def __init__(self, workdir: Path):
        self._path = workdir / "seconds.json"
        self.seconds: dict[str, float] = json.loads(self._path.read_text()) if self._path.exists() else {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        print(f"==== {stage} ====", file=sys.stderr, flush=True)
        began = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - began, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.seconds))
