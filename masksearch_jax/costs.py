"""The paper's scale in chip-hours: 10 million trajectories and 14 billion tokens, from compiled programs.

In: reports of compile.py and the slice they were compiled for. Out: chip-hours by stage, each with what it takes for
granted in words. Nothing here is measured: a program's FLOPs and bytes are the compiler's, the shares of the chip's
peak rates that a run reaches are assumptions, and a price is the caller's. Left out: prefill and appends, searches
that nothing overlaps, idle slots, evaluation, restarts.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from masksearch_jax import topology

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
    """The part of compile.Report that is needed here: FLOPs and bytes of arguments, a chip."""

    name: str
    flops: float
    arguments: int


def chip_hours(cfg: Any, slice_: topology.Topology, reports: Sequence[Report]) -> dict[str, float]:
    """Chip-hours of each stage of ASSUMED whose program was compiled: 'training' by SFT, 'sampling' by a policy."""
    by_name, hours, slices = {report.name: report for report in reports}, {}, cfg.mesh.dcn_data
    if step := by_name.get("sft_step"):
        tokens_a_step = cfg.sft.rows * cfg.sft.row_length
        hours["training"] = slices * training_hours(step, tokens_a_step, TOKENS, slice_, COMPUTE_SHARE)
    if decode := by_name.get("decode"):
        hours["sampling"] = slices * sampling_hours(decode, cfg.rollout.slots, TOKENS, slice_, BANDWIDTH_SHARE)
    return hours


def training_hours(
    report: Report, tokens_a_step: float, tokens: float, slice_: topology.Topology, share: float
) -> float:
    """Chip-hours to train on `tokens`: compiled FLOPs of a step at `share` of the chip's peak rate.

    tokens_a_step: rows x row length of the whole step, all taken to hold tokens.
    """
    seconds = report.flops / (share * slice_.generation.peak_flops)
    return tokens / tokens_a_step * seconds * slice_.chips / 3600


def sampling_hours(report: Report, slots: int, tokens: float, slice_: topology.Topology, share: float) -> float:
    """Chip-hours to write `tokens` in `slots` slots: a decode step reads all its arguments (weights and cache) once, at
    `share` of the chip's HBM bandwidth."""
    seconds = report.arguments / (share * slice_.generation.hbm_bandwidth)
    return tokens / slots * seconds * slice_.chips / 3600
