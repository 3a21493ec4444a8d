"""Entry: a whole line of stages from one page, resumable at any point; what each writes stands in its module.

    python -m masksearch_jax.experiment --config=configs/quickstart.py --workdir=W    a dump to a before/after table
    python -m masksearch_jax.experiment --config=configs/language_model.py --workdir=W    the same for a published model
    python -m masksearch_jax.experiment --config=configs/evolve.py --workdir=W        self-evolving distillation
    python -m masksearch_jax.experiment --config=configs/table2.py --workdir=W        the methods of the paper's Table 2

At the end W/report.html shows all of it (masksearch_jax.view).
"""

import sys
from pathlib import Path
from typing import Any

from masksearch_jax import entry, view
from masksearch_jax.experiments import evolve, grid, quickstart
from masksearch_jax.runtime import workdir_lock
from masksearch_jax.workflows import language_model

_LINES = {"quickstart": quickstart.run, "language_model": language_model.run, "evolve": evolve.run, "grid": grid.run}


def run(cfg: Any, workdir: Path) -> dict[str, Any]:
    """Runs the line that `cfg.line` names; returns its report. Raises ValueError for another name, or for several
    processes."""
    if cfg.line not in _LINES:
        raise ValueError(f"line={cfg.line!r} is none of {tuple(_LINES)}")
    if cfg.distributed.processes > 1:
        raise ValueError(
            f"distributed.processes={cfg.distributed.processes}: the whole line runs in one process; prepare and "
            "synthesize once, then start `python -m masksearch_jax.train` on every host"
        )
    with workdir_lock.locked(workdir):
        content = _LINES[cfg.line](cfg, workdir)
        show(workdir)
    return content


def show(workdir: Path) -> None:
    """Writes W/report.html and prints its path; where its libraries are missing, says how to get it."""
    try:
        print(f"report: {view.write(workdir)}")
    except ImportError as error:
        again = f"python -m masksearch_jax.view --workdir={workdir}"
        print(f"no report.html: {error}; then `{again}`", file=sys.stderr, flush=True)


if __name__ == "__main__":
    entry.start(run, "configs/quickstart.py")
