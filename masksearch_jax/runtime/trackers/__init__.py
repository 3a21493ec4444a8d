"""What shows the metrics of a stage beside metrics.jsonl and the live view."""

from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.runtime.metrics import Tracker
from masksearch_jax.runtime.trackers.tensorboard_events import TensorBoard
from masksearch_jax.runtime.trackers.wandb_run import MODES, WandbRun
from masksearch_jax.runtime.types import ConfigSection, Json

__all__ = ["MODES", "chosen"]


def chosen(cfg: ConfigSection, folder: Path, settings: Mapping[str, Json]) -> list[Tracker]:
    """Return the trackers that `cfg.tensorboard` and `cfg.wandb` ask for.

    folder: of the stage. settings: all settings of the run as plain data, for W&B to show. Raises ImportError that says
    what to install.
    """
    found: list[Tracker] = []
    if cfg.tensorboard:
        found.append(TensorBoard(folder / "tensorboard"))
    if cfg.wandb.project:
        found.append(WandbRun(folder, cfg.wandb.project, cfg.wandb.name, cfg.wandb.mode, settings))
    return found
