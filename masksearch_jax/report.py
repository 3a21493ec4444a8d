"""Write report.html for a run or an experiment, and print its path.

python -m masksearch_jax.report --workdir=W
python -m masksearch_jax.report --workdir=W --charts=FOLDER     every chart as an SVG file as well
"""

from pathlib import Path

from absl import app, flags

from masksearch_jax.runtime import cli


def main(argv: list[str]) -> None:
    from masksearch_jax.workflows import command_summary, reporting  # imported here, so that --help appears at once

    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    try:
        page = reporting.write(Path(flags.FLAGS.workdir), flags.FLAGS.charts)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"report: {cli.sentence(error)}") from error
    print(page, flush=True)
    command_summary.reported(page)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A run, one of its stages, or an experiment.", required=True)
    flags.DEFINE_string("charts", "", "Folder for the charts as SVG files.")
    cli.run(main)
