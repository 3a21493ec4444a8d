"""Print where the time of a trace goes: stages on the host, programs on the devices, named parts of the programs.

    python -m masksearch_jax.train --config=configs/dapo.py --config.profile=10:13 --workdir=W
    python -m benchmarks.trace --trace=W/dapo/profile

Reads the newest *.xplane.pb below the folder. Times of operations are added over devices, so several devices take
several seconds a second. xprof shows the same and more; this needs nothing but JAX. A trace says which operation ran
when, and keeps the compiled programs beside that, in which each operation has its named scopes. JAX has no reader for
the latter, so the few protocol buffer fields that lead there are read here (xplane.proto, hlo.proto).
"""

import collections
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import app, flags

_TRACE = flags.DEFINE_string("trace", None, "Folder of traces, such as W/dapo/profile.", required=True)
_TOP = flags.DEFINE_integer("top", 12, "Rows of a table.")

STAGES = (
    "reshard", "rollout", "logprobs", "update", "data", "step", "evaluation", "checkpoint", "prefill", "extend",
    "decode", "search_wait", "overlap",
)  # fmt: skip
SCOPES = (
    "embed", "norm", "attention", "attend", "mlp", "lora", "logits", "log_probs", "loss", "optimizer", "sample",
)  # fmt: skip
_CONTAINERS = ("while", "call", "conditional")  # their time is that of the operations inside them


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of each field of a protocol buffer message; messages and strings are bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, data[at : at + size]
        at += size


def _all(data: bytes, *path: int) -> Iterator[bytes]:
    """Yield the messages that a path of field numbers leads to."""
    for number, value in fields(data):
        if number == path[0] and isinstance(value, bytes):
            yield from _all(value, *path[1:]) if path[1:] else [value]


def operations(space: bytes) -> dict[tuple[str, str], tuple[str, str]]:
    """Return {(program, operation): (opcode, its scopes)} of the compiled programs that a trace keeps.

    space: the bytes of an XSpace. A program that was compiled for several shapes stands once, with all operations.
    """
    found = {}
    for plane in _all(space, 1):
        if next(_all(plane, 2), b"") != b"/host:metadata":
            continue
        # event_metadata, its value, a stat of bytes, HloProto.hlo_module
        for module in _all(plane, 4, 2, 5, 6, 1):
            program = next(_all(module, 1), b"").decode()
            for instruction in _all(module, 3, 2):
                parts = dict(fields(instruction))
                scopes = next(_all(parts.get(7, b""), 2), b"").decode()
                found[program, parts[1].decode()] = (parts[2].decode(), scopes)
    return found


def part_of(scopes: str) -> str:
    """Return the innermost named part of an operation's scopes, 'backward' added for a gradient."""
    names = [re.sub(r"^(?:[\w.]+\()*([\w.]+)\)*$", r"\1", name) for name in scopes.split("/")]
    part = next((name for name in reversed(names) if name in SCOPES), "other")
    return f"{part}, backward" if "transpose(" in scopes else part


def measure(path: Path) -> dict[str, collections.Counter[str]]:
    """Return seconds of stages, programs, parts of the programs and operations, from one *.xplane.pb."""
    known = operations(path.read_bytes())
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                seconds = event.duration_ns / 1e9
                if event.name in STAGES:
                    found["stage"][event.name] += seconds
                    continue
                if not event.duration_ns or event.name.startswith(("end: ", "ThreadpoolListener")):
                    continue
                stats = dict(event.stats)
                if "hlo_op" not in stats:
                    continue
                program, operation = str(stats["hlo_module"]), str(stats["hlo_op"])
                opcode, scopes = known.get((program, operation), ("", ""))
                if opcode in _CONTAINERS:
                    continue
                found["program"][program] += seconds
                found["part"][f"{program}: {part_of(scopes)}"] += seconds
                found["operation"][f"{program}: {operation} ({scopes.rpartition(')/')[2][-60:]})"] += seconds
    return found


def main(_) -> None:
    paths = sorted(Path(_TRACE.value).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise SystemExit(f"{_TRACE.value} holds no *.xplane.pb; train with --config.profile=FROM:TO first")
    print(f"{paths[-1]}, {paths[-1].stat().st_size / 1e6:.1f} MB")
    for kind, seconds in measure(paths[-1]).items():
        print(f"\n{'seconds':>9}  share  {kind}")
        whole = sum(seconds.values()) if kind != "stage" else 0.0
        for name, value in seconds.most_common(_TOP.value):
            print(f"{value:9.3f}  {f'{value / whole:5.1%}' if whole else '     '}  {name}")


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
