"""Run the workflow that a config names, then write W/report.html. Each workflow's module says what else it writes."""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.runtime import workdir_lock
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.workflows import (
    command_summary,
    custom_benchmark,
    evolve,
    grid,
    language_model,
    quickstart,
    reporting,
)

_WORKFLOWS = {
    "quickstart": quickstart.run,
    "language_model": language_model.run,
    "evolve": evolve.run,
    "grid": grid.run,
}


def run(cfg: ConfigDict, workdir: Path) -> JsonObject:
    """Run the workflow that `cfg.workflow` names, and return its report.

    Raises ValueError for an unknown name, or for several processes.
    """
    if cfg.workflow not in _WORKFLOWS:
        raise ValueError(f"workflow={cfg.workflow!r} is none of {tuple(_WORKFLOWS)}")
    if cfg.distributed.processes > 1:
        raise ValueError(
            f"distributed.processes={cfg.distributed.processes}: the whole workflow runs in one process; prepare and "
            "synthesize once, then start `python -m masksearch_jax.train` on every host"
        )
    custom_benchmark.check_file(cfg)
    with workdir_lock.locked(workdir):
        content = _WORKFLOWS[cfg.workflow](cfg, workdir)
        show(workdir)
        command_summary.ran(cfg.workflow, workdir, content)
    return content


def show(workdir: Path) -> None:
    """Write W/report.html and print its path. If its libraries are missing, print how to install them."""
    try:
        print(f"report: {reporting.write(workdir)}")
    except ImportError as error:
        again = f"python -m masksearch_jax.report --workdir={workdir}"
        print(f"no report.html: {error}; then `{again}`", file=sys.stderr, flush=True)
