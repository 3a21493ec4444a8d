"""The journal of a synthesis: the outcome of each task, on disk as soon as it is known, so a killed run can resume.

Each kind of example ('ramp_1', ..) has two files, NAME.accepted.jsonl and NAME.rejected.jsonl. They hold one record per
task, one per line, in the order in which the tasks finished, readable by people. A task is in one of the files, once. A
record that a kill cut off is removed, and its task is done again. settings.json beside them keeps records of other
settings from being mixed in.
"""

import json
import threading
from pathlib import Path

from masksearch_jax.runtime.json_files import parse_json, read_json_object, write_json
from masksearch_jax.runtime.types import JsonObject


class Journal:
    """The journal of one kind of example. Thread-safe; one process at a time."""

    def __init__(self, folder: Path, name: str, settings: JsonObject):
        """Read the records that exist. Raises ValueError if other settings made them, and for a damaged record."""
        folder.mkdir(parents=True, exist_ok=True)
        _check(folder / "settings.json", settings)
        self._lock = threading.Lock()
        self._files = {done: folder / f"{name}.{done}.jsonl" for done in ("accepted", "rejected")}
        self._open = {done: path.open("a+b") for done, path in self._files.items()}
        self._places: dict[str, tuple[str, int]] = {}  # task id: (file, offset)
        for done in self._files:
            self._read(done)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._places

    def accepted(self, task_id: str) -> bool:
        """Return whether a task that is in the journal was accepted."""
        return self._places[task_id][0] == "accepted"

    def add(self, line: JsonObject) -> None:
        """Append the record of a task.

        line: JSON data with 'task_id' and 'rejected', the reason or ''. Raises ValueError if the task is in already."""
        done = "rejected" if line["rejected"] else "accepted"
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            if line["task_id"] in self._places:
                raise ValueError(f"task {line['task_id']} is in {self._files[done].parent} already")
            file = self._open[done]
            place = file.seek(0, 2)
            file.write(data)
            file.flush()
            self._places[line["task_id"]] = done, place

    def get(self, task_id: str) -> JsonObject:
        """Return the record of a task."""
        with self._lock:
            done, place = self._places[task_id]
            self._open[done].seek(place)
            return json.loads(self._open[done].readline())

    def close(self) -> None:
        for file in self._open.values():
            file.close()

    def _read(self, done: str) -> None:
        file, place = self._open[done], 0
        file.seek(0)
        for number, data in enumerate(file, 1):
            if not data.endswith(b"\n"):
                file.truncate(place)
                break
            try:
                line = parse_json(data)
                task_id, _ = line["task_id"], line["rejected"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self._files[done]}, line {number}: damaged ({error}); remove the line") from error
            if task_id in self._places:
                raise ValueError(f"{self._files[done]}, line {number}: task {task_id} stands twice; remove one")
            self._places[task_id] = done, place
            place += len(data)


def _check(path: Path, settings: JsonObject) -> None:
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, settings)
    elif (found := read_json_object(path, "remove its folder, and the tasks are asked for again")) != settings:
        names = sorted(found.keys() | settings.keys())
        pairs = [(n, found.get(n), settings.get(n)) for n in names]
        changed = [f"{n} was {before!r}, is {now!r}" for n, before, now in pairs if before != now]
        raise ValueError(
            f"{path.parent} was made with other settings: {'; '.join(changed)}; set them back, remove the folder, or "
            "take another --workdir"
        )
