"""The files of a sharded preparation, in one folder that all workers reach: a local folder or a bucket (gs://).

Enters: names and local files. Leaves: the same files under the folder. A file appears there complete or not at all:
what a killed worker left has a temporary name. Paths with '://' go through Beam's file systems, which are imported only
for such paths.
"""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from masksearch_jax.runtime.types import Json

if TYPE_CHECKING:
    from apache_beam.io.filesystems import FileSystems

_BLOCK = 1 << 22


def is_remote(path: Path | str) -> bool:
    """Return whether a path is a URL, such as gs://bucket/folder."""
    return "://" in str(path)


def size(path: str) -> int:
    """Return the bytes of a file; raise FileNotFoundError, naming the file, if there is none."""
    if not is_remote(path):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return Path(path).stat().st_size
    systems = _systems()
    if not systems.exists(path):
        raise FileNotFoundError(f"{path}: no such file, or no right to read it")
    return systems.match([path])[0].metadata_list[0].size_in_bytes


def open_read(path: str) -> BinaryIO:
    """Open a file for its own bytes, not decompressed. The file can seek."""
    return _systems().open(path, compression_type="uncompressed") if is_remote(path) else open(path, "rb")


def _systems() -> "type[FileSystems]":
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


class Store:
    """Files by name under `root`. Small and picklable: each worker has its own copy."""

    def __init__(self, root: Path | str):
        self.root = str(root)
        self._remote = is_remote(self.root)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def has(self, name: str) -> bool:
        return _systems().exists(self.path(name)) if self._remote else os.path.exists(self.path(name))

    def put(self, local: Path, name: str) -> None:
        """Copy a local file to `name`, replacing what is there."""
        waiting = self.path(f"{name}.partial-{uuid.uuid4().hex}")
        if not self._remote:
            Path(waiting).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local, waiting)
            os.replace(waiting, self.path(name))
            return
        systems = _systems()
        with local.open("rb") as source, systems.create(waiting, compression_type="uncompressed") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        # Two workers may do the same shard. Both write the same bytes, so it does not matter which comes last.
        if self.has(name):
            systems.delete([self.path(name)])
        systems.rename([waiting], [self.path(name)])

    def get(self, name: str, local: Path) -> Path:
        """Make `name` available as the local file `local`: by a hard link where possible, otherwise by a copy."""
        local.parent.mkdir(parents=True, exist_ok=True)
        if not self._remote:
            try:
                os.link(self.path(name), local)
                return local
            except OSError:  # another disk
                pass
        with open_read(self.path(name)) as source, local.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        return local

    def read(self, name: str) -> Json:
        """Return the content of a JSON file, or None if it does not exist."""
        if not self.has(name):
            return None
        with open_read(self.path(name)) as file:
            return json.loads(file.read())

    def write(self, name: str, content: Json, scratch: Path) -> Json:
        """Write a JSON file by way of the local folder `scratch`; return its content."""
        waiting = scratch / f"{uuid.uuid4().hex}.json"
        waiting.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        self.put(waiting, name)
        waiting.unlink()
        return content
