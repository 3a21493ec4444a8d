"""Show the episodes of a run, and of a second one beside it: a server on this machine, or one HTML file."""

from pathlib import Path

from masksearch_jax.viewer import one_file, sources


def serve(workdir: Path, compare: str, port: int) -> None:
    """Serve the viewer on 127.0.0.1 until Ctrl-C. compare: the workdir of a second run, '' for none.

    Raises FileNotFoundError that says what to run if a workdir holds nothing to show, ImportError that says what to
    install, OSError if the port is taken.
    """
    try:
        from masksearch_jax.viewer import http_app
    except ImportError as error:
        raise ImportError(
            f"the viewer needs {error.name}: pip install -c launch/constraints.txt -e '.[report]'; without it "
            "`--file` writes the viewer as one file"
        ) from None
    runs = _runs(workdir, compare)
    try:
        http_app.serve(runs, port)
    finally:
        runs.close()


def write_file(workdir: Path, compare: str) -> Path:
    """Write W/viewer.html, the viewer with a sample of the episodes inside, and return its path. Raises as `serve`."""
    runs = _runs(workdir, compare)
    try:
        return one_file.write(workdir / "viewer.html", runs)
    finally:
        runs.close()


def _runs(workdir: Path, compare: str) -> sources.Runs:
    return sources.Runs([workdir, *([Path(compare)] if compare else [])])
