"""What a data stream was made of, so that a saved position is never read against another stream.

A Grain state is a few integers and loads into any pipeline of the same shape without a word; the fingerprint is
stored beside it and compared on resume.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masksearch_jax.data import records as record_files

# ArrayRecord rounds files up to 64 KiB, so that a size says little: head and tail (the tail holds the offsets of all
# records) are hashed too. Whole files would take minutes at Wikipedia's size.
_EDGE = 64 * 1024


def describe_file(path: Path) -> dict[str, Any]:
    """Returns {'name', 'bytes', 'records', 'edges'} of an ArrayRecord file; the name is relative to survive a move."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        digest.update(file.read(_EDGE))
    reader = record_files.open_file(path)
    records = reader.num_records()
    record_files.close(reader)
    return {"name": path.name, "bytes": size, "records": records, "edges": digest.hexdigest()[:16]}


def fingerprint(files: Mapping[int, Sequence[Path]], **settings: Any) -> str:
    """Returns canonical JSON of the files per level and of every setting that shapes the stream."""
    described = {
        str(level): [describe_file(file) for path in paths for file in record_files.files(path)]
        for level, paths in sorted(files.items())
    }
    return json.dumps({"files": described, **settings}, sort_keys=True)


def check_fingerprint(saved: str, current: str) -> None:
    """Raises ValueError that names each differing field with both values, unless the two are equal."""
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


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 400 else f"{text[:380]}... ({len(text)} characters)"
