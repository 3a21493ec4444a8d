"""Checksums of the files in a folder, in a file beside them, so that damaged or lost files are noticed before use.

SHA-256 by blocks, one file per thread, since hashing releases Python's lock: 1.8 GB/s on one core with SHA
instructions. It cannot notice a bit that flips between the write of a file and its read for the hash.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from masksearch_jax.runtime import json_files
from masksearch_jax.runtime.types import JsonObject

_BLOCK = 1 << 22
_THREADS = 4


def list_files(folder: Path) -> list[str]:
    """Return the paths of the files below `folder`, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write_checksums(folder: Path, names: Sequence[str], file: str) -> None:
    """Hash the files `names` below `folder`, and write the result atomically to `file` in it."""
    files = _hash_all(folder, names)
    json_files.write_json(folder / file, {"files": files, "own": _own(files)})


def verify_checksums(folder: Path, names: Sequence[str], file: str) -> list[str]:
    """Return what is wrong with the files `names` below `folder`, one sentence per fault.

    The list is empty if these are exactly the files that `write_checksums` hashed and they hold the same bytes. `file`
    holds a checksum of itself, which is checked too.
    """
    path = folder / file
    if not path.is_file():
        return [f"{path} is missing, so nothing vouches for the other files"]
    try:
        text = path.read_text(encoding="utf-8")
        said = json_files.parse_json(text)
        listed = said["files"]
        if said["own"] != _own(listed) or text != json.dumps(said, indent=1, ensure_ascii=False) + "\n":
            raise ValueError("was changed")
    except (ValueError, KeyError, TypeError, OSError) as error:
        return [f"{path} is damaged ({error})"]
    there = {name for name in names if (folder / name).is_file()}
    faults = [f"{folder / name} is missing" for name in sorted(set(listed) - there)]
    faults += [f"{folder / name} was not part of it" for name in sorted(there - set(listed))]
    try:
        found = _hash_all(folder, sorted(there & set(listed)))
    except OSError as error:
        return [*faults, f"{error.filename} cannot be read ({error.strerror})"]
    for name, now in found.items():
        if now["bytes"] != listed[name]["bytes"]:
            faults.append(f"{folder / name} has {now['bytes']} bytes, and {listed[name]['bytes']} were written")
        elif now != listed[name]:
            faults.append(f"{folder / name} holds other bytes than were written")
    return faults


def _hash_all(folder: Path, names: Sequence[str]) -> dict[str, JsonObject]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _hash_file(folder / name), names), strict=True))


def _hash_file(path: Path) -> JsonObject:
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            count += len(block)
    return {"bytes": count, "sha256": digest.hexdigest()}


def _own(files: JsonObject) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
