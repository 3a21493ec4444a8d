"""Entry: writes report.html of a run or of an experiment, one file to read on any screen, and prints its path.

    python -m masksearch_jax.view --workdir=W
    python -m masksearch_jax.view --workdir=W --charts=FOLDER     every chart as an SVG file as well

W: a workdir with stages, the folder of one stage, or an experiment over seeds or rounds. A run may still be going: the
page shows what there is. `masksearch_jax.experiment` writes the same page at its end.
"""

from pathlib import Path

from absl import app, flags

from masksearch_jax import entry
from masksearch_jax.evals.report import page
from masksearch_jax.evals.report.experiment import experiment_page, is_experiment
from masksearch_jax.evals.report.run import run_page


def write(workdir: Path, charts: str = "") -> Path:
    """Writes W/report.html, and its charts to the folder `charts` unless that is ''; returns the page's path.

    Raises FileNotFoundError that says what to run for a folder with nothing in it, ValueError that names a damaged
    file, ImportError that says what to install.
    """
    content = experiment_page(workdir) if is_experiment(workdir) else run_page(workdir)
    if charts:
        page.write_charts(charts, content)
    return page.write(workdir / "report.html", content)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    try:
        print(write(Path(flags.FLAGS.workdir), flags.FLAGS.charts))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"view: {entry.sentence(error)}") from error


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A run, one of its stages, or an experiment.", required=True)
    flags.DEFINE_string("charts", "", "Folder for the charts as SVG files.")
    app.run(main)
