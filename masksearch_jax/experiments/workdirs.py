"""Workdirs of the cells of an experiment: each a folder of its own, over the data of one."""

from pathlib import Path


def shared_workdir(folder: Path, over: Path, *names: str) -> Path:
    """Makes `folder`, in which `data`, and whatever else `names` says, is a link to that of `over`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("data", *names):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to((over / name).resolve(), target_is_directory=True)
    return folder
