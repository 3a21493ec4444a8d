"""Read and write JSON files in one way: whole, without repeated keys, and named in every error.

A file of ours may have been truncated, edited or damaged, and a file from a user may hold anything. All JSON in the
project is read through this module, so that every error says which file is bad and what to do next.
"""

import json
import os
from pathlib import Path

from masksearch_jax.runtime.types import Json, JsonObject


def read_json(path: Path | str, next_step: str) -> Json:
    """Return the value in a UTF-8 JSON file, with or without a byte-order mark.

    next_step: what the user should do about a bad file, such as the command that makes it again; it ends the message.
    Raises FileNotFoundError that names a missing file, and ValueError that names a file which cannot be read, is not
    JSON, or has an object with two equal keys.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; {next_step}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); {next_step}") from error
    try:
        return parse_json(data)
    except ValueError as error:
        raise ValueError(f"{path} {error}; {next_step}") from error


def read_json_object(path: Path | str, next_step: str, required: tuple[str, ...] = ()) -> JsonObject:
    """Return the object in a JSON file, as `read_json` does.

    Raises ValueError also for a file whose value is not an object, and for an object that lacks a key of `required`.
    """
    found = read_json(path, next_step)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {_kind(found)} where an object belongs; {next_step}")
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"{path} has no {', '.join(map(repr, missing))}; {next_step}")
    return found


def parse_json(text: str | bytes) -> Json:
    """Return the value of JSON text (bytes are UTF-8).

    Raises ValueError whose message is meant to follow the name of the source: "is not JSON (..)".
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_without_repeats)
    except _RepeatedKeyError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error


def write_json(path: Path | str, value: Json, indent: int | None = 1) -> None:
    """Write JSON atomically, so that the file is never seen half-written. Parent folders are made.

    Raises ValueError that names the file if it cannot be written.
    """
    path = Path(path)
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error}); free or unlock its folder") from error


class _RepeatedKeyError(ValueError):
    """Raised when an object has two equal keys, because one of the values would be lost."""


def _without_repeats(pairs: list[tuple[str, Json]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _RepeatedKeyError(f"has two entries {name!r} in one object, of which one would be lost")
            seen.add(name)
    return found


def _kind(value: Json) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
