"""The index folder on disk: names of its parts, index.json with a hash of every file, and its atomic replacement.

Enters: a folder that `build` filled. Leaves: the checked contents of index.json. Its fingerprint covers passages,
encoder and every index file, so that two builds of a ScaNN tree, which differ, are told apart.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from masksearch_jax.data import records
from masksearch_jax.data.records import Passage
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject

Loaded = TypeVar("Loaded")

FORMAT = 2
INDEX_FILE = "index.json"
ENCODER = "encoder"
INDEX = "index"
WORDS = "words"  # of a hybrid index
ROWS = "rows.npz"
NEAR_DUPLICATES = "near_duplicates.npz"

# From <fcntl.h> and <linux/fs.h>; the same on every architecture.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

_AGAIN = "build the index again with `python -m masksearch_jax.prepare`"


def digest(passage: Passage) -> int:
    """Return a 64-bit hash that changes when any field of the passage does."""
    return int.from_bytes(hashlib.blake2b(records.encode(passage), digest_size=8).digest(), "little")


def write_index_file(
    directory: Path, settings: JsonObject, report: JsonObject, passages_sha256: str, encoder_fingerprint: str
) -> None:
    """Write index.json for the files that are in `directory` by now."""
    files = {name: _sha256(directory / name) for name in _files(directory)}
    searched = {name: value for name, value in files.items() if not name.startswith(ENCODER + "/")}
    identity = [FORMAT, passages_sha256, encoder_fingerprint, searched]
    contents = {
        "format": FORMAT,
        "fingerprint": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        "passages_sha256": passages_sha256,
        "encoder_fingerprint": encoder_fingerprint,
        "settings": settings,
        "report": report,
        "files": files,
    }
    (directory / INDEX_FILE).write_text(json.dumps(contents, indent=1) + "\n")


def read_index_file(directory: Path, only: Sequence[str] | None = None) -> JsonObject:
    """Return index.json after checking every file, or those in `only`, against its hash.

    Raises FileNotFoundError or ValueError that names the file and the next command.
    """
    path = directory / INDEX_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {_AGAIN}")
    contents = read_json_object(path, _AGAIN)
    if contents.get("format") != FORMAT:
        raise ValueError(f"{path}: format is {contents.get('format')!r}, this version reads {FORMAT}; {_AGAIN}")
    files = contents.get("files")
    if not isinstance(files, dict) or not {*(only or ())} <= files.keys():
        raise ValueError(f"{path} does not name its files; {_AGAIN}")
    for name, expected in files.items() if only is None else [(name, files[name]) for name in only]:
        if not (directory / name).exists():
            raise FileNotFoundError(f"{directory / name} is missing; {_AGAIN}")
        if _sha256(directory / name) != expected:
            raise ValueError(f"{directory / name} has changed since the index was built; {_AGAIN}")
    return contents


def replace(partial: Path, directory: Path) -> None:
    """Put the finished folder `partial` in the place of `directory`, atomically if the file system can.

    A reader then finds the old folder or the new one, never none. A reader that has mapped the old files keeps them.
    """
    if not directory.exists():
        partial.rename(directory)
    elif _exchange(partial, directory):
        shutil.rmtree(partial)
    else:
        old = directory.with_name(directory.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        partial.rename(directory)
        shutil.rmtree(old)


def settled(directory: Path, load: Callable[[], Loaded]) -> Loaded:
    """Return load(), called again if `directory` was replaced while it ran.

    It may then have read files of both the old and the new folder.
    """
    while True:
        before = _generation(directory)
        try:
            loaded = load()
        except (OSError, ValueError):
            if _generation(directory) == before:
                raise
            continue
        if _generation(directory) == before:
            return loaded


def _generation(directory: Path) -> tuple[int, int, int] | None:
    if not directory.exists():
        return None
    stat = directory.stat()
    return stat.st_dev, stat.st_ino, stat.st_ctime_ns


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names with Linux's renameat2; return False if the system or the file system has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _files(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
