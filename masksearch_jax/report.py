"""Write report.html for a run or an experiment, and print its path; or show every episode of a run in a viewer.

python -m masksearch_jax.report --workdir=W
python -m masksearch_jax.report --workdir=W --charts=FOLDER     every chart as an SVG file as well
python -m masksearch_jax.report --serve --workdir=W             the viewer, on http://127.0.0.1:8421
python -m masksearch_jax.report --serve --workdir=W --compare=W2
python -m masksearch_jax.report --file --workdir=W              W/viewer.html: the viewer with a sample, in one file
"""

from pathlib import Path

from absl import app, flags

from masksearch_jax.runtime import cli


def main(argv: list[str]) -> None:
    from masksearch_jax.workflows import (
        command_summary,
        reporting,
        viewing,
    )  # imported here, so that --help appears at once

    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    try:
        folder, other = Path(flags.FLAGS.workdir), flags.FLAGS.compare
        if flags.FLAGS.serve:
            viewing.serve(folder, other, flags.FLAGS.port)
            return
        if flags.FLAGS.file:
            page, made = viewing.write_file(folder, other), "the viewer with a sample of the episodes, in one file"
        else:
            page, made = reporting.write(folder, flags.FLAGS.charts), "one page with every number and chart"
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"report: {cli.sentence(error)}") from error
    print(page, flush=True)
    command_summary.reported(page, made)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A run, one of its stages, or an experiment.", required=True)
    flags.DEFINE_string("charts", "", "Folder for the charts as SVG files.")
    flags.DEFINE_bool("serve", False, "Show every episode of the run in a viewer, on this machine.")
    flags.DEFINE_integer("port", 8421, "Port of the viewer; 0 takes a free one.", 0, 65535)
    flags.DEFINE_bool("file", False, "Write the viewer with a sample of the episodes to W/viewer.html.")
    flags.DEFINE_string("compare", "", "A second run, which the viewer shows beside the first.")
    cli.run(main)
