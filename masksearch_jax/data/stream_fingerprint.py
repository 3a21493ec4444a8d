"""The fingerprint of a data stream, so that a saved position is never used with another stream.

A Grain state is a few integers, and any pipeline of the same structure loads it without an error. So the fingerprint is
stored beside the state and compared on resume.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from masksearch_jax.data import records as record_files
from masksearch_jax.runtime.types import Json, JsonObject

# ArrayRecord rounds files up to 64 KiB, so the size says little. Head and tail are hashed too; the tail holds the
# offsets of all records. Hashing whole files would take minutes at the size of Wikipedia.
_EDGE = 64 * 1024


def describe_file(path: Path) -> JsonObject:
    """Return {'name', 'bytes', 'records', 'edges'} of an ArrayRecord file, without its folder so that it can move."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        digest.update(file.read(_EDGE))
    reader = record_files.open_file(path)
    records = reader.num_records()
    record_files.close(reader)
    return {"name": path.name, "bytes": size, "records": records, "edges": digest.hexdigest()[:16]}


def fingerprint(files: Mapping[str, Sequence[Path]], **settings: Json) -> str:
    """Return canonical JSON of the files of each task and of every setting that affects the stream."""
    described = {
        task: [describe_file(file) for path in paths for file in record_files.files(path)]
        for task, paths in sorted(files.items())
    }
    return json.dumps({"files": described, **settings}, sort_keys=True)


def check_fingerprint(saved: str, current: str) -> None:
    """Raise ValueError if the fingerprints differ. It names each differing field with both values."""
    if saved == current:
        return
    old, new = json.loads(saved), json.loads(current)
    differences = [
        f"  {name}: the checkpoint has {_short(old.get(name))}, this run has {_short(new.get(name))}"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]
    raise ValueError(
        "the data pipeline is not the one this checkpoint was saved with, so its position means nothing here:\n"
        + "\n".join(differences)
        + "\nrestore these settings and files, or start afresh with another --workdir"
    )


def _short(value: Json) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 400 else f"{text[:380]}... ({len(text)} characters)"
