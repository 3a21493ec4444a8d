"""Workdirs for the cells of an experiment: separate folders that share one workdir's data by links."""

from pathlib import Path


def shared_workdir(folder: Path, over: Path, *names: str) -> Path:
    """Make `folder`, with links to the `data` of `over` and to its other entries in `names`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("data", *names):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to((over / name).resolve(), target_is_directory=True)
    return folder
