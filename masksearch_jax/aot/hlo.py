"""Count the matrix FLOPs and the collectives of an optimized XLA program from its text, loops as often as they run.

Enters: `compiled.as_text()` of one SPMD program, so every shape is that of one chip. Leaves: a `Work`. XLA's own
cost_analysis counts the body of a loop once, whatever its length (a scan over 8 layers: 1/8 of the FLOPs), and does not
name collectives; hence this reader. The text does not show what a Pallas kernel computes. The only one in our programs
is splash attention (model/packed_attention.py), whose products are counted from the shapes of its call. Left out: FLOPs
of elementwise operations and reductions.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
# Matrix products per tile of queries and tile of keys. fwd: q k and p v. dkv: q k, dp and the gradients of k and v. dq:
# q k, dp and the gradient of q. Together these are 9 where a plain program takes 6, because each backward kernel
# computes q k and dp again.
_SPLASH = re.compile(r"splash_m[hq]a_(fwd|dkv|dq)_")
_SPLASH_PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}


@dataclasses.dataclass(frozen=True)
class Work:
    """What one run of a program does on one chip.

    flops: FLOPs of matrix products, two per multiply-add. collectives: kind -> (count, bytes), where the bytes of a
    collective are those of its operands or of its results on the chip, whichever are larger. open_loops: the number of
    loops whose length depends on data; they were counted `trips` times.
    """

    flops: float = 0.0
    collectives: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    open_loops: int = 0

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        """Return the sum of this and `times` the other."""
        merged = dict(self.collectives)
        for kind, (count, size) in other.collectives.items():
            before = merged.get(kind, (0.0, 0.0))
            merged[kind] = (before[0] + times * count, before[1] + times * size)
        return Work(self.flops + times * other.flops, merged, self.open_loops + other.open_loops)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    arguments: str
    attributes: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.arguments)

    def called(self, attribute: str) -> str | None:
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found and found[1]


_Computation = dict[str, _Instruction]


def work(text: str, trips: int = 1) -> Work:
    """Return the work of the program in this HLO text. trips: how often a loop of unknown length is assumed to run."""
    computations, entry = _parse(text)

    @functools.cache
    def total(name: str) -> Work:
        result = Work()
        computation = computations.get(name, {})
        started = set()  # an async collective appears as a start, an update and a done, each with the same channel
        for one in computation.values():
            if one.opcode == "while":
                times = _trip_count(one, computation, computations)
                result = result.plus(total(one.called("body")), trips if times is None else times)
                result = result.plus(Work(open_loops=int(times is None)))
            elif one.opcode == "conditional":
                names = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
                branches = (
                    _NAME.findall(names[1]) if names else [one.called(f"{x}_computation") for x in ("true", "false")]
                )
                result = result.plus(max(map(total, branches), key=lambda branch: branch.flops))
            elif one.opcode in ("fusion", "call", "async-start"):
                inner = one.called("calls") or one.called("to_apply")
                channel = _channel(computations.get(inner or "", {}))
                if channel is None or channel not in started:
                    result = result.plus(total(inner))
                else:
                    result = result.plus(dataclasses.replace(total(inner), collectives={}))
                started.add(channel)
            elif one.opcode in ("convolution", "dot"):
                result = result.plus(Work(_matrix_flops(one, computation)))
            elif one.opcode == "custom-call" and (kernel := _SPLASH.match(one.name)):
                result = result.plus(Work(_splash_flops(kernel[1], one, computation)))
            elif (kind := one.opcode.removesuffix("-start")) in COLLECTIVES:
                size = _collective_bytes(one, computation)
                result = result.plus(Work(collectives={kind: (1.0, size)}))
        return result

    return total(entry)


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" "):
            header = _HEADER.match(line)
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif current is not None and " = " in line:
            one = _instruction(line)
            if one:
                current[one.name] = one
    if not entry:
        raise ValueError("this is no HLO text: it has no ENTRY computation")
    return computations, entry


def _instruction(line: str) -> _Instruction | None:
    left, _, right = line.strip().partition(" = ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    opcode = _OPCODE.match(right, end)
    if not opcode:
        return None
    close = _closing(right, opcode.end() - 1)
    root = left.startswith("ROOT ")
    name = left.removeprefix("ROOT ").lstrip("%")
    return _Instruction(name, right[:end], opcode[1], right[opcode.end() : close], right[close + 1 :], root)


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if not depth:
            return at
    return len(text)


def _arrays(type_: str) -> Iterator[tuple[str, list[int]]]:
    for dtype, dims in _ARRAY.findall(type_):
        yield dtype, [int(size) for size in dims.split(",") if size]


def _found(pattern: str, text: str) -> re.Match[str]:
    """Return the first match. Raises ValueError for HLO that is not written as XLA writes it."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"HLO has no {pattern!r} in {text[:200]!r}")
    return found


def _bytes(type_: str) -> float:
    """Return the size of a type in bytes, summed over tuples, without the padding of tiles."""
    bits = (_BITS.get(d) or int(_found(r"\d+", d)[0]) for d, _ in _arrays(type_))
    return sum(b / 8 * math.prod(dims) for b, (_, dims) in zip(bits, _arrays(type_), strict=True))


def _collective_bytes(one: _Instruction, computation: _Computation) -> float:
    operands = sum(_bytes(computation[name].type) for name in one.operands if name in computation)
    results = _bytes(one.type)
    if one.opcode.endswith("-start") and results > operands and one.opcode != "all-reduce-start":
        results -= operands  # the result type of a start includes its operands
    return max(operands, results)


def _channel(computation: _Computation) -> str | None:
    for one in computation.values():
        if one.opcode.removesuffix("-start") in COLLECTIVES:
            found = re.search(r"channel_id=(\d+)", one.attributes)
            return found and found[1]
    return None


def _trip_count(loop: _Instruction, computation: _Computation, computations: dict[str, _Computation]) -> int | None:
    """Return how often a counted loop (`for i in range(start, end)`) runs; None for any other loop."""
    known = re.search(r"known_trip_count[^0-9]*(\d+)", loop.attributes)
    if known:
        return int(known[1])
    condition = computations.get(loop.called("condition") or "", {})
    initial = computation.get(loop.operands[0]) if loop.operands else None

    def constant(one: _Instruction | None) -> int | None:
        while one is not None and one.opcode in ("copy", "bitcast", "copy-done", "copy-start") and one.operands:
            one = computation.get(one.operands[0])
        if one is None or one.opcode != "constant" or not re.fullmatch(r"-?\d+", one.arguments):
            return None
        return int(one.arguments)

    def value(one: _Instruction | None) -> int | None:
        """Return the value of an instruction of the condition before the first iteration, None if unknown."""
        if one is None:
            return None
        if one.opcode == "constant" and re.fullmatch(r"-?\d+", one.arguments):
            return int(one.arguments)
        if one.opcode == "get-tuple-element" and initial is not None and initial.opcode == "tuple":
            index = int(_found(r"index=(\d+)", one.attributes)[1])
            return constant(computation.get(initial.operands[index]))
        return None

    root = next((one for one in condition.values() if one.root), None)
    inputs = [condition.get(name) for name in root.operands] if root else []
    if root and root.opcode == "fusion":
        inner = computations.get(root.called("calls") or "", {})
        root = next((one for one in inner.values() if one.root), None)
        by_number = {
            one.name: inputs[int(one.arguments)]
            for one in inner.values()
            if one.opcode == "parameter" and int(one.arguments) < len(inputs)
        }
        inputs = [by_number.get(name) or inner.get(name) for name in root.operands] if root else []
    if not root or root.opcode != "compare" or len(inputs) != 2:
        return None
    direction = _found(r"direction=(\w+)", root.attributes)[1]
    first, second = map(value, inputs)
    if direction == "GT":
        first, second, direction = second, first, "LT"
    if direction != "LT" or second is None or inputs[0] is None:
        return None
    step: int | None = 1
    if inputs[0].opcode == "get-tuple-element":
        step = _step(
            computations.get(loop.called("body") or "", {}), int(_found(r"index=(\d+)", inputs[0].attributes)[1])
        )
    return None if not step else max(0, math.ceil((second - (first or 0)) / step))


def _step(body: _Computation, index: int) -> int | None:
    """Return what a loop's body adds to element `index` of its state, such as 2 where XLA unrolled it by two.

    None if unknown.
    """
    root = next((one for one in body.values() if one.root), None)
    one = body.get(root.operands[index]) if root and root.opcode == "tuple" else None
    step = 0
    while one is not None and one.opcode in ("add", "copy", "bitcast"):
        parts = [body.get(name) for name in one.operands]
        constants = [part for part in parts if part is not None and part.opcode == "constant"]
        step += sum(int(part.arguments) for part in constants if part.arguments.isdigit())
        one = next((part for part in parts if part is not None and part.opcode != "constant"), None)
    return step or None


def _matrix_flops(one: _Instruction, computation: _Computation) -> float:
    shapes = [next(_arrays(computation[name].type))[1] for name in one.operands[:2]]
    result = next(_arrays(one.type))[1]
    if one.opcode == "dot":
        contracted = _found(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)[1]
        return 2.0 * math.prod(result) * math.prod(shapes[0][int(i)] for i in contracted.split(",") if i)
    lhs, rhs, out = _found(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes).groups()
    window = re.search(r"window=\{([^}]*)\}", one.attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    flops = 2.0 * result[out.index("b")] * result[out.index("f")] * shapes[1][rhs.index("i")]
    for axis in range(len(lhs) - 2):
        pick = {key: text.split("x")[axis] for key, text in fields.items()}
        flops *= _valid_pairs(
            shapes[0][lhs.index(str(axis))],
            result[out.index(str(axis))],
            int(pick.get("size", 1)),
            int(pick.get("stride", 1)),
            int(pick.get("pad", "0_0").split("_")[0]),
            int(pick.get("lhs_dilate", 1)),
            int(pick.get("rhs_dilate", 1)),
        )
    return flops


def _splash_flops(kernel: str, one: _Instruction, computation: _Computation) -> float:
    """Return the FLOPs of a causal splash kernel.

    It visits all tiles that touch the diagonal or lie below it, as far as the window reaches. Its operands begin with a
    table of tiles, integers [1, tiles of queries, tiles of keys], in which a window has shortened the axis that the
    kernel walks along (queries in dkv, else keys). Then come q [.., S, H] and k [.., T, H]. Tiles are square. Queries
    that are sharded over a mesh axis (S < T) count like those of the last shard, which has the most to do.
    """
    types = [next(_arrays(computation[name].type)) for name in one.operands if name in computation]
    table = next(dims for dtype, dims in types if dtype[0] == "s" and len(dims) == 3)
    q, k = [dims for dtype, dims in types if dtype in ("bf16", "f32") and len(dims) > 2][:2]
    tile = k[-2] // table[2] if kernel == "dkv" else q[-2] // table[1]
    rows, columns = q[-2] // tile, k[-2] // tile
    walked, whole = (table[1], rows) if kernel == "dkv" else (table[2], columns)
    window = walked if walked < whole else columns
    tiles = sum(min(columns - rows + row + 1, window) for row in range(rows))
    return _SPLASH_PRODUCTS[kernel] * 2.0 * math.prod(q[:-2]) * tiles * tile * tile * q[-1]


@functools.cache
def _valid_pairs(inputs: int, outputs: int, size: int, stride: int, pad: int, dilate: int, spread: int) -> int:
    """Count the (output, window) positions that meet an input, not padding and not a gap between dilated inputs.

    XLA writes a batch axis as a dilated window, most of whose positions meet none.
    """
    at = np.arange(outputs)[:, None] * stride + np.arange(size)[None, :] * spread - pad
    return int(((at >= 0) & (at <= (inputs - 1) * dilate) & (at % dilate == 0)).sum())
