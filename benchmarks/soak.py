"""Soak: DAPO on the toy for hours, and whether anything grows that should not.

    python -m benchmarks.soak --minutes=120 --workdir=W

Trains like `masksearch_jax.train`, and writes what the process holds into W/soak.jsonl every few seconds: resident
memory, Python's blocks of memory, open files, threads, compiled programs, arrays on the devices, searches that are out,
and the bytes of caches. At the end it prints a table with the growth after warm-up and a verdict for each, writes the
plot W/soak.svg, and prints one JSON line. Exit status 1 if anything grew. A workdir of an earlier soak goes on from its
checkpoint; `--judge` judges the samples that are there, without training.
"""

import dataclasses
import json
import os
import signal
import statistics
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags, logging

from benchmarks.drills import toy
from masksearch_jax.evals.report import svg_charts
from masksearch_jax.evals.report.sections import Chart, Curve
from masksearch_jax.retrieval import tool
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.rollout.tool_queue import ToolQueue
from masksearch_jax.runtime import json_files, stop_signals
from masksearch_jax.workflows import training

# The bound of the query cache is lowered, so that it is full before warm-up ends: a cache that fills looks like a leak.
_CACHED_BYTES = 256 << 10
_COLOURS = """svg { --ink: #222; --paper: #fff; --rule: #ddd; --s0: #1f6feb; --s1: #d1242f; --s2: #1a7f37 }
svg { --s3: #9a6700; --s4: #8250df; --s5: #0a7ea4; --s6: #bc4c00; --s7: #57606a }
"""


@dataclasses.dataclass(frozen=True)
class Series:
    """What is sampled. grows: how much more at the end than after warm-up is still flat: (share, absolute)."""

    name: str
    unit: str
    scale: float
    grows: tuple[float, float]


# An allocator keeps a few percent, and a checkpoint is sometimes being written: hence shares of memory, and a few
# files. Python's blocks count all small objects, so they see a leak long before resident memory does.
SERIES = (
    Series("resident", "MB", 1e-6, (0.05, 20e6)),
    Series("python_blocks", "thousands", 1e-3, (0.03, 20_000)),
    Series("files", "open", 1, (0.0, 4)),
    Series("threads", "running", 1, (0.0, 4)),
    Series("compiled", "programs", 1, (0.0, 0.5)),
    Series("arrays", "on devices", 1, (0.02, 20)),
    Series("array_bytes", "MB", 1e-6, (0.02, 1e6)),
    Series("searches_out", "calls", 1, (0.0, 16)),
    Series("cache_bytes", "MB", 1e-6, (0.02, 50e3)),
)


def config():
    """Return the settings of the soak: the drills' toy, with so many iterations that it never ends by itself.

    SFT is long enough for a policy that searches.
    """
    found = toy.drill_config()
    found.sft.update({"steps": 400, "checkpoint_every": 200, "log_every": 20, "eval_every": 0})
    found.sft.optimizer.update({"warmup": 20, "total_steps": 400})
    # An iteration of the toy takes a tenth of a second. A long run saves every few minutes, and so does this: each save
    # leaves some 50 KB, because tensorstore keeps the lists and dicts that it returns (docs/results/robustness.md).
    found.dapo.update({"iterations": 1_000_000, "eval_every": 20, "checkpoint_every": 2000, "dynamic_sampling": True})
    found.dapo.max_without_update = 1_000_000  # a policy of the toy that has learnt all is no failure here
    return found


class Sampler:
    """Writes a sample every few seconds, from a thread of its own; use as a context manager."""

    def __init__(self, file: Path, workdir: Path, every: float):
        self._file, self._workdir, self._every = file, workdir, every
        self._began, self._stopped = time.monotonic(), threading.Event()
        self._compiled = 0
        self._queues: weakref.WeakSet[ToolQueue] = weakref.WeakSet()
        self._tools: weakref.WeakSet[SearchTool] = weakref.WeakSet()
        _registered(ToolQueue, self._queues)
        _registered(SearchTool, self._tools)
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        self._thread = threading.Thread(target=self._work, name="soak", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _on_event(self, event: str, seconds: float, **about: object) -> None:
        self._compiled += event.endswith("backend_compile_duration")

    def _work(self) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            while not self._stopped.wait(self._every):
                file.write(json.dumps(self.sample()) + "\n")
                file.flush()

    def sample(self) -> dict[str, float]:
        """Return what the process holds now."""
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        arrays = jax.live_arrays()
        return {
            "seconds": round(time.monotonic() - self._began, 1),
            "iteration": _last_step(self._workdir / "dapo" / "metrics.jsonl"),
            "resident": int(status["VmRSS"].split()[0]) * 1024,
            "python_blocks": sys.getallocatedblocks(),
            "files": len(os.listdir("/proc/self/fd")),
            "threads": int(status["Threads"]),
            "compiled": self._compiled,
            "arrays": len(arrays),
            "array_bytes": sum(one.nbytes for one in arrays),
            "searches_out": sum(queue.out for queue in list(self._queues)),
            "cache_bytes": sum(tool._cache.bytes for tool in list(self._tools)),
        }


def _registered(cls: type, into: weakref.WeakSet) -> None:
    """Note each object of a class as it is made."""
    made = cls.__init__

    def noting(self: object, *args: object, **more: object) -> None:
        made(self, *args, **more)
        into.add(self)

    cls.__init__ = noting  # type: ignore[misc]


def _last_step(path: Path) -> int:
    """Return the step of the last whole row of a log, 0 without one."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n") and line[:1] == b"{"]
    return json.loads(lines[-1])["step"] if lines else 0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """after, end: medians of the tenth of the samples after warm-up and of the last tenth. per_hour: slope of the
    least-squares line."""

    series: Series
    after: float
    end: float
    most: float
    per_hour: float

    @property
    def flat(self) -> bool:
        share, absolute = self.series.grows
        return self.end - self.after <= max(share * self.after, absolute)


def judged(samples: Sequence[dict[str, float]]) -> list[Verdict]:
    """Return a verdict for each series, of the samples after warm-up. Raises ValueError for fewer than 10 of them."""
    if len(samples) < 10:
        raise ValueError(f"{len(samples)} samples after warm-up, 10 are needed: train for longer, or sample more often")
    tenth = max(1, len(samples) // 10)
    hours = [one["seconds"] / 3600 for one in samples]
    found = []
    for series in SERIES:
        values = [one[series.name] for one in samples]
        slope = statistics.linear_regression(hours, values).slope
        after, end = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
        found.append(Verdict(series, after, end, max(values), slope))
    return found


def after_warm_up(samples: Sequence[dict[str, float]], share: float) -> list[dict[str, float]]:
    """Return the samples of DAPO's iterations without the first share of them."""
    dapo = [one for one in samples if one["iteration"] > 1]
    return dapo[int(share * len(dapo)) :]


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the table that a person reads."""
    rows = [("held", "after warm-up", "at the end", "most", "slope per hour", "verdict")]
    for one in verdicts:
        scale = one.series.scale
        numbers = [f"{value * scale:,.1f}" for value in (one.after, one.end, one.most)]
        slope = f"{one.per_hour * scale:+,.2f}"
        rows.append((f"{one.series.name} ({one.series.unit})", *numbers, slope, "flat" if one.flat else "GROWS"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def plot(samples: Sequence[dict[str, float]], warm: Sequence[dict[str, float]]) -> str:
    """Return the plot as an SVG document: every series divided by its median after warm-up began."""
    tenth, minutes, curves = max(1, len(warm) // 10), tuple(one["seconds"] / 60 for one in samples), []
    for series in SERIES:
        base = statistics.median(one[series.name] for one in warm[:tenth])
        if base and series.name not in ("cache_bytes", "searches_out"):
            curves.append(Curve(series.name, minutes, tuple(one[series.name] / base for one in samples)))
    chart = Chart("What the process holds", "time (minutes)", "1 = end of warm-up", tuple(curves))
    return svg_charts.file(chart, _COLOURS)


def _train(workdir: Path, seconds: float) -> None:
    """Train for so long, then stop as a preempted run does: with a checkpoint."""
    tool._CACHED_BYTES = _CACHED_BYTES
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        with stop_signals.listening():
            training.run(config(), workdir)
    except stop_signals.PreemptedError as stopped:
        print(f"soak: {stopped}", file=sys.stderr, flush=True)
    finally:
        timer.cancel()


def _read(file: Path) -> list[dict[str, float]]:
    if not file.exists():
        raise SystemExit(f"soak: {file} is not there; run without --judge first")
    return [json_files.parse_json(line) for line in file.read_bytes().splitlines()]


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax logs every call
    workdir = Path(_WORKDIR.value)
    file = workdir / "soak.jsonl"
    if not _JUDGE.value:
        workdir.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # of an earlier process
        with Sampler(file, workdir, _EVERY.value):
            _train(workdir, 60 * _MINUTES.value)
        # A process that was told to stop ends itself soon after, whatever it does then (runtime/stop_signals.py).
        again = ["--judge", f"--workdir={workdir}", f"--warm_up={_WARM_UP.value}"]
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.soak", *again])
    samples = _read(file)
    warm = after_warm_up(samples, _WARM_UP.value)
    try:
        verdicts = judged(warm)
    except ValueError as error:
        raise SystemExit(f"soak: {file}: {error}") from None
    (workdir / "soak.svg").write_text(plot(samples, warm), encoding="utf-8")
    iterations = int(samples[-1]["iteration"])
    print(f"{iterations} iterations, {samples[-1]['seconds'] / 60:.1f} minutes, {len(warm)} samples after warm-up")
    print(table(verdicts))
    grows = [one.series.name for one in verdicts if not one.flat]
    numbers = {
        one.series.name: {"after": one.after, "end": one.end, "per_hour": round(one.per_hour, 3)} for one in verdicts
    }
    print(json.dumps({"benchmark": "soak", "iterations": iterations, "grows": grows, **numbers}))
    if grows:
        raise SystemExit(f"soak: {', '.join(grows)} grew after warm-up; the samples are in {file}")


if __name__ == "__main__":
    # Defined here, because tests import this module beside others that have a flag of the same name.
    _MINUTES = flags.DEFINE_float("minutes", 120.0, "How long to train, preparation included.", lower_bound=0.1)
    _WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
    _EVERY = flags.DEFINE_float("every", 5.0, "Seconds between two samples.", lower_bound=0.1)
    _WARM_UP = flags.DEFINE_float("warm_up", 0.3, "Share of the samples of DAPO that is warm-up.", 0.0, 0.9)
    _JUDGE = flags.DEFINE_bool("judge", False, "Only judge the samples that W has.")
    app.run(main, argv=sys.argv)
