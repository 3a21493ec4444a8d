"""Entry: compiles the programs of a job for a TPU slice on a machine without one, and says if they fit.

    python -m masksearch_jax.compile --config=configs/dapo.py:qwen2.5-7b --topology=v5p:4x4x4 [--json=FILE]

In: a page whose `model` names its vocab_size, and a slice (topology.py); by default the page's own. libtpu is needed
(pip install -c launch/constraints.txt -e '.[tpu]'), a TPU is not, nor any data. Out: the programs that training runs,
built by the same functions from shapes alone (trainers/sft.py, trainers/dapo.py, rollout/decode.py), compiled by the
TPU's own compiler, and per program and phase: HBM a chip, FLOPs a chip, collectives, seconds to compile.

A phase counts everything that stays on the chip while its programs run: master weights (with adapters, these and their
frozen base) and optimizer always, the key-value cache of the slots always (the engine keeps it between rollouts), the
decode copy of the weights while sampling.
Exit status 1, naming program and amount, when a phase exceeds the chip. Counted per chip, in bytes: the compiler's own
numbers for arguments, results and temporaries; executables and the runtime's own reserve are beyond them.
Left out: elementwise FLOPs, and time: what a compiler says of it is no measurement.
"""

import os

# Before jax is imported: without these libtpu asks a metadata server that is not there, and locks out a second process.
os.environ.update({
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
})  # fmt: skip

import dataclasses  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from masksearch_jax import costs, entry, hlo, sharding, topology  # noqa: E402
from masksearch_jax.model import cache as kv  # noqa: E402
from masksearch_jax.model import lora, packed_attention, transformer  # noqa: E402
from masksearch_jax.model.config import ModelConfig, from_config, lora_from_config  # noqa: E402
from masksearch_jax.rl.batch import UpdateBatch  # noqa: E402
from masksearch_jax.rollout import decode, shapes  # noqa: E402
from masksearch_jax.text.stops import StopTable  # noqa: E402
from masksearch_jax.trainers import dapo, sft  # noqa: E402
from masksearch_jax.trainers import optimizer as optimizer_lib  # noqa: E402
from masksearch_jax.trainers import state as state_lib  # noqa: E402

# What a decode step looks up to see a turn's end has this size with Qwen's vocabulary; its entries have no cost.
_STOPS = (44, 17)
# A page without a named model takes its vocabulary from the data; the embedded toy's (configs/prepare.py) stands in.
_TOY_VOCABULARY = 1362
_INT_FIELDS = ("ids", "positions", "segments", "targets")
_UPDATE_DTYPES = {**dict.fromkeys((*_INT_FIELDS, "versions"), jnp.int32), "mask": jnp.bool_}


class TooLargeError(ValueError):
    """A program, with what is resident beside it, exceeds the memory of the chip."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One program to compile. lower: () -> jax.stages.Lowered. uses: names of the resident trees among its arguments.
    trips: how often a loop runs whose length depends on data, at most."""

    name: str
    phase: str
    lower: Callable[[], Any]
    uses: tuple[str, ...]
    trips: int = 1


@dataclasses.dataclass(frozen=True)
class Job:
    """resident: name -> tree of ShapeDtypeStructs. phases: phase -> names of what is resident in it."""

    programs: list[Program]
    resident: dict[str, Any]
    phases: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What one compiled program needs on a chip, in bytes and FLOPs.

    arguments, temporaries: as the compiler says. results: those that reuse no argument's memory. resident: what
    the phase keeps on the chip. beside: the part of it that is no argument of this program. collectives: kind ->
    (count, bytes), see hlo.Work. compile_seconds: wall time; compile_cpu_seconds: of this process, which is what wall
    time would be with a core to itself.
    """

    name: str
    phase: str
    arguments: int
    results: int
    temporaries: int
    resident: int
    beside: int
    flops: float
    collectives: dict[str, tuple[float, float]]
    compile_seconds: float
    compile_cpu_seconds: float

    @property
    def hbm_bytes(self) -> int:
        """Of the program alone."""
        return self.arguments + self.results + self.temporaries

    @property
    def peak_bytes(self) -> int:
        """Of the chip while it runs."""
        return self.beside + self.hbm_bytes


def model_config(cfg: Any, mesh: jax.sharding.Mesh) -> ModelConfig:
    """The page's model and adapters, with a stand-in where the vocabulary is the tokenizer's, and with the attention
    backend that the job takes on this mesh. Raises ValueError if the page names one that cannot compute its rows."""
    override = {} if "vocab_size" in cfg.model else {"vocab_size": _TOY_VOCABULARY}
    found = from_config(cfg.model, lora=lora_from_config(cfg.lora), **override)
    return packed_attention.choose(found, mesh, cfg.dapo.row_lengths if cfg.job == "dapo" else (cfg.sft.row_length,))


def make_mesh(cfg: Any, slice_: topology.Topology) -> jax.sharding.Mesh:
    """The page's mesh over described devices. Raises ValueError without libtpu, or if the mesh does not fit."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed: pip install -c launch/constraints.txt -e '.[tpu]'")
    options: dict[str, Any] = {"chips_per_host_bounds": slice_.host_bounds}
    if slice_.generation.name == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on the others
    if cfg.mesh.dcn_data > 1:
        options["num_slices"] = cfg.mesh.dcn_data
    devices = topologies.get_topology_desc(platform="tpu", topology_name=slice_.name, **options).devices
    return sharding.make_mesh(**cfg.mesh.to_dict(), devices=devices)


def job(cfg: Any, mesh: jax.sharding.Mesh) -> Job:
    """What `cfg.job` runs: of each ladder of shapes the largest, which needs the most."""
    make = {"sft": _sft, "dapo": _dapo}
    if cfg.job not in make:
        raise ValueError(f"job={cfg.job!r} is none of {', '.join(make)}: give a page such as configs/dapo.py")
    return make[cfg.job](cfg, model_config(cfg, mesh), mesh)


def _sft(cfg, model_cfg, mesh) -> Job:
    settings, (trained, frozen) = cfg.sft, lora.split(transformer.abstract_params(model_cfg, mesh))
    tx = optimizer_lib.build(settings.optimizer, trained)
    state = state_lib.abstract_state(model_cfg, tx, mesh)
    shape, layout = (settings.rows, settings.row_length), sharding.batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=layout) for name in _INT_FIELDS}
    batch["loss_mask"] = jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=layout)
    step = sft.make_step(model_cfg, tx, mesh, settings.micro_batches)
    resident = {"state": state} | dict(zip(("base",), frozen, strict=False))
    kept = uses = tuple(resident)
    if settings.eval_every:
        resident["validation_cache"] = _cache(cfg, model_cfg, mesh)
        kept += ("validation_cache",)
    program = Program("sft_step", "sft", lambda: step.lower(state, batch, *frozen), uses)
    return Job([program], resident, {"sft": kept})


def _dapo(cfg, model_cfg, mesh) -> Job:
    settings, rollout = cfg.dapo, cfg.rollout
    trained, frozen = lora.split(transformer.abstract_params(model_cfg, mesh))
    tx = optimizer_lib.build(settings.optimizer, trained)
    state = state_lib.abstract_state(model_cfg, tx, mesh)
    whole = sharding.replicated(mesh)
    base = ("base",) * len(frozen)
    copy, params = state_lib.decode_copy(model_cfg, mesh, bool(settings.staleness)), lora.join(state.params, *frozen)
    weights = jax.tree.map(
        lambda struct, layout: jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=layout),
        jax.eval_shape(copy, params),
        transformer.param_shardings(model_cfg.merged, mesh, sharding.DECODE),
    )
    time_, slots = cfg.episode.total_tokens, rollout.slots
    length = max(shapes.to_the_end(rollout.prompt_lengths, time_))
    rows, tokens = max(shapes.clipped(rollout.append_rows, slots)), max(shapes.clipped(rollout.append_tokens, time_))
    cache, prefix = _cache(cfg, model_cfg, mesh), kv.abstract_cache(model_cfg, rollout.prompt_rows, length, mesh)
    sampling = decode.Sampling(settings.temperature, rollout.top_p, rollout.top_k)
    stops = StopTable(np.zeros(model_cfg.vocab_size, np.uint8), np.zeros(_STOPS, np.int32))
    device = decode.Programs(model_cfg.merged, mesh, slots, _ends(cfg), rollout.steps, sampling, stops)

    def ints(*shape, layout=whole):
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=layout)

    registers = ints(slots, decode.REGISTERS, layout=sharding.batch_sharding(mesh))
    greedy = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
    old_logprobs, step = dapo.make_programs(model_cfg, settings, tx, mesh)
    dapo.batch_shape(settings, time_, mesh)
    shape = (max(settings.micro_batches), settings.rows, max(settings.row_lengths))
    update = UpdateBatch(**{
        field.name: jax.ShapeDtypeStruct(
            shape, _UPDATE_DTYPES.get(field.name, jnp.float32), sharding=dapo.update_sharding(mesh)
        )
        for field in dataclasses.fields(UpdateBatch)
    })  # fmt: skip
    programs = [
        Program("decode_copy", "copy", lambda: copy.lower(params), ("params", *base)),
        Program(
            "prefill",
            "rollout",
            lambda: device.prefill.lower(weights, ints(rollout.prompt_rows, length), ints(rollout.prompt_rows)),
            ("weights",),
        ),
        Program(
            "admit", "rollout", lambda: device.admit.lower(cache, prefix, ints(rows), ints(rows)), ("cache", "prefix")
        ),
        Program(
            "append",
            "rollout",
            lambda: device.append.lower(weights, cache, ints(rows), ints(rows, tokens), ints(rows)),
            ("weights", "cache"),
        ),
        Program(
            "decode",
            "rollout",
            lambda: device.decode.lower(weights, cache, registers, greedy),
            ("weights", "cache"),
            rollout.steps,
        ),
        Program("old_logprobs", "update", lambda: old_logprobs.lower(state.params, update, *frozen), ("params", *base)),
        Program("dapo_step", "update", lambda: step.lower(state, update, *frozen), ("params", "optimizer", *base)),
    ]
    resident = {
        "params": state.params,
        "optimizer": dataclasses.replace(state, params=None),
        "start": state.params,  # the warm start: the caller of dapo.run holds on to it; a frozen base is the same one
        "weights": weights,
        "cache": cache,
        "prefix": prefix,  # the newest batch of prompts, kept until its last request is admitted
    }
    resident |= dict(zip(base, frozen, strict=True))
    always = ("params", "optimizer", "start", *base, "cache")
    if settings.eval_every:
        resident["validation_cache"] = cache
        always += ("validation_cache",)
    rollouts = (*always, "weights", "prefix")
    phases = {"copy": always, "rollout": rollouts, "update": rollouts if settings.staleness else always}
    return Job(programs, resident, phases)


def _cache(cfg, model_cfg, mesh):
    return kv.abstract_cache(model_cfg, cfg.rollout.slots, _ends(cfg), mesh)


def _ends(cfg):
    """The whole cache: the program of the longest context, which costs most, is the one compiled."""
    total = cfg.episode.total_tokens
    return shapes.to_the_end(cfg.rollout.context_lengths, total)


def per_chip(tree: Any) -> int:
    """Bytes on one chip of a tree of ShapeDtypeStructs with shardings, in the compiler's layouts: padding included."""
    leaves = jax.tree.leaves(tree)
    compiled = jax.jit(lambda *_: jnp.zeros(()), keep_unused=True).lower(*leaves).compile()
    return compiled.memory_analysis().argument_size_in_bytes


def compile_job(
    cfg: Any, slice_: topology.Topology, only: str = "", show: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, int], list[Report]]:
    """Compiles the job's programs; returns bytes a chip of each resident tree, and a report for each program.

    only: a regular expression of the names to compile. show: is told each line of the table as it is known.
    Raises TooLargeError for a program that the compiler cannot fit in a chip, or that does not fit beside what is
    resident (once all are compiled), and ValueError for a page whose mesh or shapes do not fit the slice.
    """
    mesh, limit = make_mesh(cfg, slice_), slice_.generation.hbm_bytes
    work = job(cfg, mesh)
    with jax.set_mesh(mesh):
        sizes = {}
        for name, tree in work.resident.items():
            same = next((other for other in sizes if work.resident[other] is tree), None)
            sizes[name] = sizes[same] if same else per_chip(tree)
        show(_model_line(cfg, slice_, mesh))
        for phase, names in work.phases.items():
            kept = ", ".join(f"{name} {_gib(sizes[name])}" for name in names)
            show(f"{phase}: resident {_gib(sum(sizes[n] for n in names))} GiB a chip ({kept})")
        show(_HEAD)
        reports = []
        for program in work.programs:
            if not re.search(only, program.name):
                continue
            kept = {name: sizes[name] for name in work.phases[program.phase]}
            reports.append(_compile(program, kept, slice_))
            show(_row(reports[-1], limit))
    largest = max(reports, key=lambda report: report.peak_bytes)
    if largest.peak_bytes > limit:
        raise TooLargeError(
            f"{largest.name} needs {_gib(largest.peak_bytes)} GiB on a chip with what is resident beside it"
            f" ({_gib(largest.beside)}); {slice_.name} has {_gib(limit)}, {_gib(largest.peak_bytes - limit)} too few:"
            " take more chips, fewer slots or rows, shorter rows, or remat='full'"
        )
    return sizes, reports


def _compile(program: Program, kept: dict[str, int], slice_: topology.Topology) -> Report:
    beside = sum(size for name, size in kept.items() if name not in program.uses)
    began, began_cpu = time.perf_counter(), time.process_time()
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "hbm" not in str(error).lower():
            raise
        raise TooLargeError(
            f"{program.name} does not fit a chip of {slice_.name}: {overflow(str(error))}; {_gib(beside)} GiB more are"
            " resident beside it; take more chips, fewer slots or rows, shorter rows, or remat='full'"
        ) from None
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    memory = compiled.memory_analysis()
    done = hlo.work(compiled.as_text(), program.trips)
    return Report(
        name=program.name,
        phase=program.phase,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        resident=sum(kept.values()),
        beside=beside,
        flops=done.flops,
        collectives=done.collectives,
        compile_seconds=seconds,
        compile_cpu_seconds=cpu_seconds,
    )


def overflow(message: str) -> str:
    """What the compiler's message says was needed and was there, in words; its first line where it says neither."""
    found = re.search(r"\(([\d.]+)([MGT])\) exceeds available HBM \(([\d.]+)([MGT])\)", message)
    if not found:
        return message.strip().splitlines()[0]
    unit = {"M": 1 / 1024, "G": 1.0, "T": 1024.0}
    needed, there = float(found[1]) * unit[found[2]], float(found[3]) * unit[found[4]]
    return f"it needs {needed:.2f} GiB and there are {there:.2f}, {needed - there:.2f} too little"


def summary(cfg: Any, name: str, slice_: topology.Topology, sizes: dict[str, int], reports: list[Report]) -> dict:
    """The JSON of --json. resident_bytes, peak_bytes: of the phase that needs the most."""
    largest = max(reports, key=lambda report: report.peak_bytes)
    return {
        "topology": slice_.name,
        "slices": cfg.mesh.dcn_data,
        "chips": cfg.mesh.dcn_data * slice_.chips,
        "config": name,
        "resident": sizes,
        "resident_bytes": largest.resident,
        "peak_bytes": largest.peak_bytes,
        "hbm_limit_bytes": slice_.generation.hbm_bytes,
        "chip_hours": costs.chip_hours(cfg, slice_, reports),
        "phases": {p: max(r.peak_bytes for r in reports if r.phase == p) for p in {r.phase for r in reports}},
        "programs": [dataclasses.asdict(r) | {"hbm_bytes": r.hbm_bytes, "peak_bytes": r.peak_bytes} for r in reports],
    }


_HEAD = "program        arguments  results  temporary  with resident  share  TFLOP/chip  compile  collectives"


def _row(report: Report, limit: int) -> str:
    moved = ", ".join(
        f"{count:.0f} {kind} {size / 1e9:.3g} GB" for kind, (count, size) in sorted(report.collectives.items())
    )
    return (
        f"{report.name:<14} {_gib(report.arguments):>9} {_gib(report.results):>8} {_gib(report.temporaries):>10}"
        f" {_gib(report.peak_bytes):>14} {report.peak_bytes / limit:>6.0%} {report.flops / 1e12:>11.4g}"
        f" {report.compile_seconds:>6.0f} s  {moved or 'none'}"
    )


def _model_line(cfg, slice_, mesh):
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "1 chip"
    slices = f"{cfg.mesh.dcn_data} slices of " if cfg.mesh.dcn_data > 1 else ""
    chips = f"{slice_.chips} chip{'s' * (slice_.chips > 1)} on {slice_.hosts} host{'s' * (slice_.hosts > 1)}"
    attention = model_config(cfg, mesh).attention
    return f"{slices}{slice_.marketing_name} ({slice_.name}, {chips}): mesh {sizes}; attention {attention}"


def _gib(size: float) -> str:
    return f"{size / topology.GIB:.2f}"


_TOPOLOGY = flags.DEFINE_string("topology", None, "A slice, such as v5p:4x4x4 or v6e-8; default: the page's.")
_JSON = flags.DEFINE_string("json", None, "A file to write the numbers to.")
_ONLY = flags.DEFINE_string("only", "", "Compile only programs whose name matches this regular expression.")


def main(cfg: Any, workdir: Path) -> None:
    name = _TOPOLOGY.value or cfg.get("topology")
    if not name:
        raise ValueError("this page names no slice: give --topology=v5p:4x4x4, v6e-8, ..")
    slice_ = topology.parse(name)
    sizes, reports = compile_job(cfg, slice_, _ONLY.value, lambda line: print(line, flush=True))
    for stage, hours in costs.chip_hours(cfg, slice_, reports).items():
        print(f"{hours:,.0f} chip-hours: {costs.ASSUMED[stage]}")
    if _JSON.value:
        page = next((a.partition("=")[2] for a in sys.argv if a.startswith("--config=")), "")
        Path(_JSON.value).write_text(json.dumps(summary(cfg, page, slice_, sizes, reports), indent=1))


if __name__ == "__main__":
    entry.start(main, None, resumable=False)
