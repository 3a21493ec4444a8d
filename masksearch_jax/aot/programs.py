"""Compile the programs of a stage for a TPU slice on a machine without one, and say if they fit.

Enters: a config and a slice (aot/topologies.py). This needs libtpu (pip install -c launch/constraints.txt -e '.[tpu]'),
but no TPU and no data. Leaves: the programs that training runs, built from shapes alone by the same functions
(trainers/sft.py, trainers/dapo_programs.py, rollout/device_programs.py) and compiled by the TPU's own compiler. For
each program and phase it reports HBM per chip, FLOPs per chip, collectives, and seconds to compile.

A phase counts everything that stays on the chip while its programs run: always the master weights (with adapters, these
and their frozen base) and the optimizer; in DAPO also the weights it started from and the key-value cache of the slots
(the engine keeps it between rollouts); while sampling, and with staleness during updates too, the decode copy of the
weights.
A phase that exceeds the chip ends the command with exit status 1 and names program and amount. Bytes are counted per
chip, from the compiler's own numbers for arguments, results and temporaries. These do not include executables and the
runtime's own reserve.
Left out: elementwise FLOPs, and time, because a compiler's estimate of it is not a measurement.
"""

import dataclasses
import importlib.util
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from masksearch_jax.aot import costs, hlo
from masksearch_jax.aot import topologies as topology
from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model import packed_attention, transformer
from masksearch_jax.model.config import from_config, lora_from_config
from masksearch_jax.model.policy import Policy
from masksearch_jax.rl.update_batch import UpdateBatch
from masksearch_jax.rollout import bucketing, device_programs
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import ConfigSection, JsonObject, Leaf, Pytree
from masksearch_jax.text.stop_automaton import StopTable
from masksearch_jax.trainers import dapo_programs, sft, updates
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import state as state_lib

# The shape of the stop automaton's table, by which a decode step sees the end of a turn, with Qwen's vocabulary. The
# values of its entries do not change the cost.
_STOPS = (44, 17)
# A config without a named model takes its vocabulary from the data. The size of the built-in toy's vocabulary
# (configs/prepare.py) stands in for it.
_TOY_VOCABULARY = 1362
_INT_FIELDS = ("ids", "positions", "segments", "targets")
_TREE_FIELDS = ("ends", "sources", "sequences")
_UPDATE_DTYPES = {**dict.fromkeys((*_INT_FIELDS, *_TREE_FIELDS, "versions"), jnp.int32), "mask": jnp.bool_}


class TooLargeError(ValueError):
    """Raised when a program and what is resident beside it exceed the memory of the chip."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One program to compile.

    lower: () -> jax.stages.Lowered. uses: names of the resident trees among its arguments. trips: the most often that a
    loop whose length depends on data can run.
    """

    name: str
    phase: str
    lower: Callable[[], jax.stages.Lowered]
    uses: tuple[str, ...]
    trips: int = 1


@dataclasses.dataclass(frozen=True)
class StagePrograms:
    """The programs of a stage, and the arrays that stay on the chip.

    resident: name -> tree of ShapeDtypeStructs. phases: phase -> names of the trees that are resident in it.
    """

    programs: list[Program]
    resident: JsonObject
    phases: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What one compiled program needs on a chip, in bytes and FLOPs.

    arguments, temporaries: as the compiler reports them. results: only those that do not reuse an argument's memory.
    resident: what the phase keeps on the chip. beside: the part of `resident` that is not an argument of this program.
    collectives: kind -> (count, bytes), see hlo.Work. compile_seconds: wall time. compile_cpu_seconds: CPU time of this
    process, which would be the wall time if it had a core to itself.
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
        """HBM of the program alone."""
        return self.arguments + self.results + self.temporaries

    @property
    def peak_bytes(self) -> int:
        """HBM in use on the chip while the program runs."""
        return self.beside + self.hbm_bytes


def policy_of(cfg: ConfigSection, mesh: jax.sharding.Mesh) -> Policy:
    """Return the config's model and adapters on a mesh, with the attention backend that the stage takes there.

    A vocabulary size that would come from the tokenizer is replaced by a stand-in. Raises ValueError if the config
    names a backend that cannot compute its rows.
    """
    override = {} if "vocab_size" in cfg.model else {"vocab_size": _TOY_VOCABULARY}
    found = from_config(cfg.model, lora=lora_from_config(cfg.lora), **override)
    row_lengths = cfg.dapo.row_lengths if cfg.stage == "dapo" else (cfg.sft.row_length,)
    trees = cfg.stage == "dapo" and cfg.dapo.share_prefixes
    return Policy(packed_attention.choose(found, mesh, row_lengths, trees), mesh)


def make_mesh(cfg: ConfigSection, slice_: topology.Topology) -> jax.sharding.Mesh:
    """Return the config's mesh over devices that are only described.

    Raises ValueError without libtpu, or if the mesh does not fit the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed: pip install -c launch/constraints.txt -e '.[tpu]'")
    options: JsonObject = {"chips_per_host_bounds": slice_.host_bounds}
    if slice_.generation.name == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as in the other generations
    if cfg.mesh.dcn_data > 1:
        options["num_slices"] = cfg.mesh.dcn_data
    devices = topologies.get_topology_desc(platform="tpu", topology_name=slice_.name, **options).devices
    return mesh_lib.make_mesh(**cfg.mesh.to_dict(), devices=devices)


def stage_programs(cfg: ConfigSection, mesh: jax.sharding.Mesh) -> StagePrograms:
    """Return the programs of `cfg.stage`, each only for the largest of its shapes, which needs the most memory."""
    make = {"sft": _sft, "dapo": _dapo}
    if cfg.stage not in make:
        raise ValueError(f"stage={cfg.stage!r} is none of {', '.join(make)}: give a config such as configs/dapo.py")
    return make[cfg.stage](cfg, policy_of(cfg, mesh))


def _sft(cfg, policy) -> StagePrograms:
    settings, base = cfg.sft, policy.abstract_base
    tx = optimizer_lib.build_optimizer(settings.optimizer, policy.abstract_trainable)
    state = state_lib.abstract_state(policy, tx)
    shape, layout = (settings.rows, settings.row_length), mesh_lib.batch_sharding(policy.mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=layout) for name in _INT_FIELDS}
    batch["loss_mask"] = jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=layout)
    step = sft.make_step(policy, tx, settings.micro_batches)
    resident = {"state": state} | ({"base": base} if base else {})
    kept = uses = tuple(resident)
    if settings.eval_every:
        resident["validation_cache"] = _cache(cfg, policy)
        kept += ("validation_cache",)
    program = Program("sft_step", "sft", lambda: step.lower(state, batch, base), uses)
    return StagePrograms([program], resident, {"sft": kept})


def _dapo(cfg, policy) -> StagePrograms:
    settings, rollout, mesh, sampled = cfg.dapo, cfg.rollout, policy.mesh, policy.config.merged
    tx = optimizer_lib.build_optimizer(settings.optimizer, policy.abstract_trainable)
    state, base = state_lib.abstract_state(policy, tx), policy.abstract_base
    whole = mesh_lib.replicated(mesh)
    held = {"base": base} if base else {}
    copy, params = policy.decode_copy(bool(settings.staleness)), policy.merge(state.params, base)
    weights = jax.tree.map(
        lambda struct, layout: jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=layout),
        jax.eval_shape(copy, params),
        transformer.param_shardings(sampled, mesh, mesh_lib.DECODE),
    )
    time_, slots = cfg.episode.total_tokens, rollout.slots
    length = max(bucketing.to_the_end(rollout.prompt_lengths, time_))
    rows, tokens = (
        max(bucketing.clipped(rollout.extend_rows, slots)),
        max(bucketing.clipped(rollout.extend_tokens, time_)),
    )
    cache, prefix = _cache(cfg, policy), kv.abstract_cache(sampled, rollout.prompt_rows, length, mesh)
    sampling = device_programs.Sampling(settings.temperature, rollout.top_p, rollout.top_k)
    stop_table = StopTable(np.zeros(sampled.vocab_size, np.uint8), np.zeros(_STOPS, np.int32))
    device = device_programs.Programs(sampled, mesh, slots, _ends(cfg), rollout.steps, sampling, stop_table)

    def ints(*shape, layout=whole):
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=layout)

    decode_state = ints(slots, device_programs.STATE_COLUMNS, layout=mesh_lib.batch_sharding(mesh))
    greedy = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
    old_logprobs, step = dapo_programs.make_programs(policy, settings, tx)
    updates.batch_shape(settings, time_, mesh)
    shape = (max(settings.micro_batches), settings.rows, max(settings.row_lengths))
    update = UpdateBatch(**{
        field.name: jax.ShapeDtypeStruct(
            shape, _UPDATE_DTYPES.get(field.name, jnp.float32), sharding=updates.update_sharding(mesh)
        )
        for field in dataclasses.fields(UpdateBatch)
        if settings.share_prefixes or field.name not in _TREE_FIELDS
    })  # fmt: skip
    programs = [
        Program("decode_copy", "copy", lambda: copy.lower(params), ("params", *held)),
        Program(
            "prefill",
            "rollout",
            lambda: device.prefill.lower(weights, ints(rollout.prompt_rows, length), ints(rollout.prompt_rows)),
            ("weights",),
        ),
        Program(
            "insert", "rollout", lambda: device.insert.lower(cache, prefix, ints(rows), ints(rows)), ("cache", "prefix")
        ),
        Program(
            "extend",
            "rollout",
            lambda: device.extend.lower(weights, cache, ints(rows), ints(rows, tokens), ints(rows)),
            ("weights", "cache"),
        ),
        Program("copy_slots", "rollout", lambda: device.copy_slots.lower(cache, ints(rows), ints(rows)), ("cache",)),
        Program(
            "decode",
            "rollout",
            lambda: device.decode.lower(weights, cache, decode_state, greedy),
            ("weights", "cache"),
            rollout.steps,
        ),
        Program("old_logprobs", "update", lambda: old_logprobs.lower(state.params, update, base), ("params", *held)),
        Program("dapo_step", "update", lambda: step.lower(state, update, base), ("params", "optimizer", *held)),
    ]
    resident = {
        "params": state.params,
        "optimizer": dataclasses.replace(state, params={}),
        "start": state.params,  # the warm start, which the caller of dapo.run keeps; a frozen base is not held twice
        "weights": weights,
        "cache": cache,
        "prefix": prefix,  # the newest batch of prompts, kept until its last request is inserted
    }
    resident |= held
    always = ("params", "optimizer", "start", *held, "cache")
    if settings.eval_every:
        resident["validation_cache"] = cache
        always += ("validation_cache",)
    rollouts = (*always, "weights", "prefix")
    phases = {"copy": always, "rollout": rollouts, "update": rollouts if settings.staleness else always}
    return StagePrograms(programs, resident, phases)


def _cache(cfg, policy):
    return kv.abstract_cache(policy.config.merged, cfg.rollout.slots, _ends(cfg), policy.mesh)


def _ends(cfg):
    """Return the block ends of the whole cache: the program of the longest context, which costs most, is compiled."""
    total = cfg.episode.total_tokens
    return bucketing.to_the_end(cfg.rollout.context_lengths, total)


def _memory(compiled: jax.stages.Compiled) -> Leaf:
    """Return the compiler's jaxlib CompiledMemoryStats. Raises RuntimeError for a platform that has none."""
    found = compiled.memory_analysis()
    if found is None:
        raise RuntimeError("the compiler of this platform does not say how much memory a program needs")
    return found


def per_chip(tree: Pytree) -> int:
    """Return the bytes on one chip of a tree of ShapeDtypeStructs with shardings, with the padding of the layouts."""
    leaves = jax.tree.leaves(tree)
    compiled = jax.jit(lambda *_: jnp.zeros(()), keep_unused=True).lower(*leaves).compile()
    return _memory(compiled).argument_size_in_bytes


def compile_stage(
    cfg: ConfigSection, slice_: topology.Topology, only: str = "", show: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, int], list[Report]]:
    """Compile the stage's programs; return the bytes per chip of each resident tree, and a report for each program.

    only: a regular expression for the names of the programs to compile. show: is called with each line of the table as
    soon as it is known. Raises TooLargeError for a program that the compiler cannot fit in a chip, or (once all are
    compiled) that does not fit beside what is resident. Raises ValueError for a config whose mesh or shapes do not fit
    the slice.
    """
    mesh, limit = make_mesh(cfg, slice_), slice_.generation.hbm_bytes
    work = stage_programs(cfg, mesh)
    with jax.set_mesh(mesh):
        sizes: dict[str, int] = {}
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
            beside = {name: sizes[name] for name in work.phases[program.phase]}
            reports.append(_compile(program, beside, slice_))
            show(_row(reports[-1], limit))
    if not reports:
        raise ValueError(f"--only={only!r} matches none of {', '.join(program.name for program in work.programs)}")
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
    memory = _memory(compiled)
    done = hlo.work(compiled.as_text() or "", program.trips)
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
    """Return in words how much memory the compiler's message says was needed and available; else its first line."""
    found = re.search(r"\(([\d.]+)([MGT])\) exceeds available HBM \(([\d.]+)([MGT])\)", message)
    if not found:
        return message.strip().splitlines()[0]
    unit = {"M": 1 / 1024, "G": 1.0, "T": 1024.0}
    needed, there = float(found[1]) * unit[found[2]], float(found[3]) * unit[found[4]]
    return f"it needs {needed:.2f} GiB and there are {there:.2f}, {needed - there:.2f} too little"


def summary(
    cfg: ConfigSection, name: str, slice_: topology.Topology, sizes: dict[str, int], reports: list[Report]
) -> dict:
    """Return the content of the --json file. resident_bytes, peak_bytes: of the program that needs the most memory."""
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
    attention = policy_of(cfg, mesh).config.attention
    return f"{slices}{slice_.marketing_name} ({slice_.name}, {chips}): mesh {sizes}; attention {attention}"


def _gib(size: float) -> str:
    return f"{size / topology.GIB:.2f}"
