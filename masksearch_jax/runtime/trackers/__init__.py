"""Write the metrics of a stage to TensorBoard and Weights & Biases, beside metrics.jsonl and the live view."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.runtime.metrics import Tracker
from masksearch_jax.runtime.trackers.tensorboard_events import TensorBoard
from masksearch_jax.runtime.trackers.wandb_run import MODES, WandbRun
from masksearch_jax.runtime.types import ConfigSection, Json

__all__ = ["MODES", "check_installed", "chosen"]


def check_installed(cfg: ConfigSection) -> None:
    """Raise ValueError that says what to install if a tracker that the config asks for needs a package."""
    for asked, setting, package, extra in (
        (cfg.tensorboard, "tensorboard=True", "tensorboardX", "tensorboard"),
        (cfg.wandb.project, f"wandb.project={cfg.wandb.project!r}", "wandb", "wandb"),
    ):
        if asked and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"{setting} needs the package {package}: pip install -c launch/constraints.txt '.[{extra}]'"
            )


def chosen(cfg: ConfigSection, folder: Path, settings: Mapping[str, Json]) -> list[Tracker]:
    """Return the trackers that `cfg.tensorboard` and `cfg.wandb` ask for.

    folder: of the stage. settings: all settings of the run as plain data, for W&B to show. Raises the
    ValueError of `check_installed`.
    """
    check_installed(cfg)
    found: list[Tracker] = []
    if cfg.tensorboard:
        found.append(TensorBoard(folder / "tensorboard"))
    if cfg.wandb.project:
        found.append(WandbRun(folder, cfg.wandb.project, cfg.wandb.name, cfg.wandb.mode, settings))
    return found
