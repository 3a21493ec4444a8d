"""The file `manifest.json` of a data directory, written last: it marks the data as finished and says what made them.

Enters: the settings of a preparation and the files that it wrote. Leaves: a manifest, or the answer that there is one
already. Other settings over finished data are refused with an error that names the field.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import masksearch_jax
from masksearch_jax.prep.wiki import dump_files
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import Json, JsonObject

MANIFEST = "manifest.json"
_BLOCK = 1 << 22
_AGAIN = "copy the data again, or remove its folder and prepare with `python -m masksearch_jax.prepare`"


def sha256(*paths: Path | str) -> str:
    """Return the hex digest of a file's bytes; several files are hashed as if they were one."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def size(paths: Sequence[Path | str]) -> int | None:
    """Return the total bytes of files, or None if one of them is not on this machine."""
    found = [Path(path).stat().st_size for path in paths if Path(path).is_file()]
    return sum(found) if len(found) == len(paths) else None


def code_version() -> dict[str, str]:
    """Return the package version, and a hash of the code that decides what is prepared."""
    package = Path(masksearch_jax.__file__).parent
    digest = hashlib.sha256()
    deciding = [*(package / "prep").rglob("*.py"), *(package / "text").glob("*.py"), package / "data" / "records.py"]
    for path in sorted(deciding):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return {"version": masksearch_jax.__version__, "sha256": digest.hexdigest()}


def read(data_dir: Path | str) -> JsonObject | None:
    """Return the manifest of finished data, or None if there is none."""
    path = Path(data_dir) / MANIFEST
    return read_json_object(path, _AGAIN, ("settings", "source")) if path.exists() else None


def is_current(data_dir: Path | str, settings: JsonObject) -> bool:
    """Return True if these settings made the data, False if there are no finished data.

    Raises ValueError if other settings made the data, or if the size of the dump has changed since.
    """
    found = read(data_dir)
    if found is None:
        return False
    changed = [
        f"{name} was {before!r}, is {now!r}" for name, before, now in _differences(found["settings"], _plain(settings))
    ]
    dump, before = found["source"]["path"], found["source"]["bytes"]
    now = dump_bytes(dump)
    if not changed and now is not None and now != before:
        changed = [f"the dump {dump} had {before} bytes, has {now}"]
    if changed:
        raise ValueError(
            f"{data_dir} was prepared with other settings: {'; '.join(changed)}. Take another --workdir, or replace "
            "the data with --config.overwrite=True"
        )
    return True


def dump_bytes(dump: str | Sequence[str]) -> int | None:
    """Return the total bytes of the files that the setting `dump` names, or None if one of them is not here."""
    try:
        return size(dump_files.files(dump))
    except (FileNotFoundError, ValueError):
        return None


def write(data_dir: Path | str, content: JsonObject, files: Iterable[Path]) -> JsonObject:
    """Write the manifest atomically, with size and hash of each file, and return it."""
    data_dir = Path(data_dir)
    listed = {str(f.relative_to(data_dir)): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in sorted(files)}
    content = _plain({**content, "code": code_version(), "files": listed})
    partial = data_dir / (MANIFEST + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.rename(data_dir / MANIFEST)
    return content


def _plain(value: Json) -> Json:
    """Return the value as JSON gives it back, with lists for tuples."""
    return json.loads(json.dumps(value))


def _differences(before: Json, now: Json, name: str = "") -> Iterable[tuple[str, Json, Json]]:
    """Yield (dotted name, before, now) of each leaf that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now
