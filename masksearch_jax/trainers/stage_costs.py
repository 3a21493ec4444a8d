"""What a row of metrics.jsonl says about the machine: speed, model FLOPs, their share of the peak, memory, programs.

Enters: seconds, model FLOPs (model/flops.py) and tokens of the work since the last row. Leaves: numbers by name, as
docs/metrics.md lists them. FLOPs are those of all processes, and so are the devices whose peak they are compared with.
Memory and compilations are those of this process.
"""

from collections.abc import Mapping

import jax

from masksearch_jax.runtime import compile_counter, device_peaks, peak_memory
from masksearch_jax.runtime.types import JsonObject

_NOT_WORK = "since_last"  # checkpoints and evaluations


class StageCosts:
    """Measures a stage on the devices of `mesh`."""

    def __init__(self, mesh: jax.sharding.Mesh):
        peak = device_peaks.peak_flops(mesh.devices.flat[0].device_kind)
        self._peak = peak * mesh.devices.size if peak else None
        self._counter = compile_counter.counter()
        self._compiled = (self._counter.programs, self._counter.seconds)

    def row(self, seconds: Mapping[str, float], flops: Mapping[str, float], tokens: float) -> JsonObject:
        """Return the costs since the last row.

        seconds: by part of the work; `since_last` is no work. flops: model FLOPs by part. tokens: that the work is
        measured in.
        """
        spent = sum(value for name, value in seconds.items() if name != _NOT_WORK)
        done = sum(flops.values())
        found: JsonObject = {f"{name}/flops": value for name, value in flops.items()}
        if spent:
            found |= {"tokens_per_s": round(tokens / spent, 1), "flops_per_s": done / spent}
        if spent and self._peak:
            found["mfu"] = done / spent / self._peak
            timed = {name: value for name, value in flops.items() if seconds.get(name)}
            found |= {f"{name}/mfu": value / seconds[name] / self._peak for name, value in timed.items()}
        now = (self._counter.programs, self._counter.seconds)
        found |= {"compile/programs": now[0] - self._compiled[0], "compile/seconds": now[1] - self._compiled[1]}
        self._compiled = now
        return found | {f"memory/{name}": value for name, value in peak_memory.peak_bytes().items()}
