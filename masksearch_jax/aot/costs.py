"""Estimate the chip-hours of the paper's scale, 10 million trajectories and 14 billion tokens, from compiled programs.

Enters: reports of programs.py and the slice they were compiled for. Leaves: chip-hours by stage; `ASSUMED` says in
words what each of them assumes. Nothing here is measured: FLOPs and bytes of a program come from the compiler, and the
shares of the chip's peak rates that a run reaches are assumptions. Prices are left to the caller. Left out: prefill and
extending, searches that nothing overlaps, idle slots, evaluation, restarts.
"""

from collections.abc import Sequence
from typing import Protocol

from masksearch_jax.aot import topologies
from masksearch_jax.runtime.types import ConfigSection

TOKENS, TRAJECTORIES = 14e9, 10e6
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.4, 0.5

ASSUMED = {
    "training": f"SFT on {TOKENS:.3g} tokens, rows full, at {COMPUTE_SHARE:.0%} of the peak bfloat16 rate",
    "sampling": (
        f"{TRAJECTORIES:.3g} trajectories, all their {TOKENS:.3g} tokens written one by one, slots full, at "
        f"{BANDWIDTH_SHARE:.0%} of the HBM bandwidth"
    ),
}


class Report(Protocol):
    """The part of programs.Report that is needed here: FLOPs and bytes of arguments, both per chip."""

    @property
    def name(self) -> str: ...
    @property
    def flops(self) -> float: ...
    @property
    def arguments(self) -> int: ...


def chip_hours(cfg: ConfigSection, slice_: topologies.Topology, reports: Sequence[Report]) -> dict[str, float]:
    """Return the chip-hours of each stage in ASSUMED whose program was compiled.

    'training' comes from the program sft_step, 'sampling' from the program decode.
    """
    by_name, hours, slices = {report.name: report for report in reports}, {}, cfg.mesh.dcn_data
    if step := by_name.get("sft_step"):
        tokens_a_step = cfg.sft.rows * cfg.sft.row_length
        hours["training"] = slices * training_hours(step, tokens_a_step, TOKENS, slice_, COMPUTE_SHARE)
    if decode := by_name.get("decode"):
        hours["sampling"] = slices * sampling_hours(decode, cfg.rollout.slots, TOKENS, slice_, BANDWIDTH_SHARE)
    return hours


def training_hours(
    report: Report, tokens_a_step: float, tokens: float, slice_: topologies.Topology, share: float
) -> float:
    """Return the chip-hours to train on `tokens`: the compiled FLOPs of a step at `share` of the chip's peak rate.

    tokens_a_step: rows x row length of the whole step; rows are assumed to be full.
    """
    seconds = report.flops / (share * slice_.generation.peak_flops)
    return tokens / tokens_a_step * seconds * slice_.chips / 3600


def sampling_hours(report: Report, slots: int, tokens: float, slice_: topologies.Topology, share: float) -> float:
    """Return the chip-hours to sample `tokens` in `slots` slots.

    A decode step reads all its arguments (weights and cache) once, at `share` of the chip's HBM bandwidth.
    """
    seconds = report.arguments / (share * slice_.generation.hbm_bandwidth)
    return tokens / slots * seconds * slice_.chips / 3600
