"""Typed views of the config sections that the trainers read. configs/dapo.py and configs/common.py say what each does.

A section stays what the config made it, an ml_collections.ConfigDict. Through a view, mypy knows the name and the type
of each setting. Values are checked before a run starts (workflows/setting_ranges.py).
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from masksearch_jax.runtime.types import ConfigSection

# Phases in order: (examples or None, ((task, weight), ..)).
Phases: TypeAlias = Sequence[tuple[int | None, Sequence[tuple[str, float]]]]


class SftSettings(Protocol):
    """The section `sft` of a config."""

    steps: int
    rows: int
    row_length: int
    micro_batches: int
    curriculum: Phases
    share: float
    augment: bool
    seed_offset: int
    optimizer: ConfigSection
    log_every: int


class DapoSettings(Protocol):
    """The section `dapo` of a config."""

    # Rollout batch and dynamic sampling.
    prompts: int
    group_size: int
    groups: int
    dynamic_sampling: bool
    max_generations: int
    carry_over: bool
    temperature: float
    curriculum: Phases
    augment: bool
    # Reward and loss.
    reward: ConfigSection
    advantage: str
    clip_low: float
    clip_high: float
    dual_clip: float
    aggregation: str
    old_logprobs: str
    tis_cap: float
    staleness: int
    # Update.
    minibatches: int
    share_prefixes: bool
    row_lengths: Sequence[int]
    rows: int
    micro_batches: Sequence[int]
    optimizer: ConfigSection
    show_every: int


class AlarmSettings(Protocol):
    """A section of `alarms`, that of one alarm."""

    threshold: float
    window: int
    action: str


class RollbackSettings(Protocol):
    """The section `rollback` of a stage."""

    after: int
    most: int
    learning_rate_scale: float


class StageSettings(Protocol):
    """What the sections of all stages hold; `steps` or `iterations` is read by name."""

    optimizer: ConfigSection
    eval_every: int
    checkpoint_every: int
    max_without_update: int
    rollback: RollbackSettings
