"""Read the files of a run for a report. Errors name the file that cannot be read."""

from pathlib import Path

from masksearch_jax.runtime.json_files import parse_json, read_json_object
from masksearch_jax.runtime.types import JsonObject


def json_object(path: Path) -> JsonObject | None:
    """Return the object in a JSON file, None if there is no file. Raises ValueError that names a damaged file."""
    if not path.exists():
        return None
    return read_json_object(path, "remove it and run its stage again")


def metric_rows(path: Path) -> list[JsonObject]:
    """Return the rows of a metrics.jsonl; [] if there is no file.

    An incomplete last line, which a running stage may be writing, is left out. Raises ValueError that names any other
    line that is not a row.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = parse_json(line)
            row["step"] + 0
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a row with a step ({error!r}); start the stage again, which cuts its log"
            ) from error
        rows.append(row)
    return rows


def stage_folders(workdir: Path) -> list[Path]:
    """Return the folders of trained stages in a workdir, including itself if it is one, in the order of their start."""
    found = [workdir] if (workdir / "metrics.jsonl").exists() else []
    found += sorted(path.parent for path in workdir.glob("*/metrics.jsonl"))

    def began(folder: Path) -> tuple[float, str]:
        rows = metric_rows(folder / "metrics.jsonl")
        return (rows[0].get("time", 0.0) if rows else 0.0, folder.name)

    return sorted(found, key=began)
