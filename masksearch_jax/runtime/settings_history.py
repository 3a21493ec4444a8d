"""The settings of every start of a training stage: which ones a resumed stage has to keep, and what has changed.

`W/<stage>/history.jsonl` gets a row for each start: time, the step that it resumes from, package version, all settings,
the model, and what differs from the previous start. A rollback (trainers/rollback.py) adds a row of its own.
`W/<stage>/config.json` holds the current settings and model. A stage with a checkpoint has to keep the settings that
its weights, its place in the data and its saved groups depend on (`FIXED`); a difference there is refused. Everything
else may change, and the change is printed. The data is compared by data/stream_fingerprint.py, and index, tokenizer and
seed by trainers/position.py.
"""

import datetime
import fnmatch
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import masksearch_jax
from masksearch_jax.runtime import json_files
from masksearch_jax.runtime.types import Json, JsonObject

# Pattern of setting names -> what depends on them. `sft.` and `dapo.` stand for the section of a stage of that kind.
FIXED = {
    "model.param_dtype": "the saved weights",
    "model.*": "what the saved weights compute",
    "*.optimizer.kind": "the saved state of the optimizer",
    "seed": "the order of the data and all random draws",
    "*.curriculum": "the place in the data",
    "*.augment": "what the data shows",
    "sft.seed_offset": "the order of the data",
    "sft.share": "the place in the data",
    "sft.rows": "the place in the data",
    "sft.row_length": "the place in the data",
    "search.hits": "what an episode sees",
    "search.exclusion": "what an episode sees",
    "tools.*": "what an episode may do",
    "episode.turns": "what an episode may do",
    "episode.turn_tokens": "what an episode may do",
    "episode.observation_tokens": "what an episode sees",
    "episode.total_tokens": "what an episode may do",
}
# Fixed where groups of episodes are kept from one rollout batch to the next, as they are in the checkpoint too.
FIXED_WITH_SAVED_GROUPS = {
    "dapo.group_size": "the size of the saved groups",
    "dapo.temperature": "the log-probs of the saved groups",
}
# Settings of `model` that may change, because they only say how the same model is computed.
FREE = ("model.dtype", "model.remat", "model.attention", "model.scan_unroll")
# Not compared here: a checkpoint records the settings of its adapters, and model/adapter_facts.py compares them.
_LEFT_OUT = ("model.lora", "model.lora.*")
# The settings and sections that every stage reads beside its own section.
_SHARED = (
    "seed", "search", "tools", "episode", "rollout", "mesh", "cpu_devices", "pretrained", "start", "adapters",
    "tensorboard", "wandb", "validation_episodes", "validation_tasks", "alarms",
)  # fmt: skip

Differences = dict[str, tuple[Json, Json]]


class Stage:
    """The settings and the model of one stage of a run, and what its folder says about earlier starts."""

    def __init__(
        self, folder: Path, kind: str, settings: Mapping[str, Json], model: Mapping[str, Json], primary: bool = True
    ):
        """kind: 'sft' or 'dapo'. settings: all settings of the run, as plain data; the section of this stage has the
        name of its folder. model: the fields of the ModelConfig. primary: False on processes that write nothing."""
        self.folder, self.kind, self._primary = Path(folder), kind, primary
        self.settings, self.model = plain(settings), plain(model)

    def differences(self) -> Differences:
        """Return what differs from the last start: name -> (there, here); {} before the first start.

        Raises ValueError that names the fixed settings that differ if the folder holds a checkpoint, or that names a
        damaged file.
        """
        found = self._differences()
        refused = {name: self._why(name, found) for name in found}
        refused = {name: why for name, why in refused.items() if why}
        if refused and self.has_checkpoint():
            listed = "; ".join(f"{name} is {shown(found[name][0])} there and {shown(found[name][1])} here ({why})"
                               for name, why in refused.items())  # fmt: skip
            raise ValueError(
                f"{self.folder} was trained with other settings: {listed}. Give the settings that it has (the last "
                f"start in {self.folder / 'history.jsonl'}), or take another --workdir"
            )
        return found

    def has_checkpoint(self) -> bool:
        """Return True if the folder holds a checkpoint to resume from."""
        saved = self.folder / "checkpoints"
        return saved.is_dir() and any(path.name.isdecimal() for path in saved.iterdir())

    def begin(self, step: int) -> None:
        """Print what differs from the last start, append this start to the history, and write config.json.

        step: the step that the stage resumes from; 0 compares nothing. Raises the errors of `differences`, and
        ValueError that names a file which cannot be written.
        """
        if not self._primary:
            return
        found = self.differences() if step else {}
        if found:
            print_differences(f"{self.folder} goes on from step {step}", found)
        own = {"settings": self.settings.get(self.folder.name, {}), "model": self.model}
        json_files.write_json(self.folder / "config.json", own)
        self._append(step, {
            "settings": self.settings,
            "model": self.model,
            "differences": {name: {"there": there, "here": here} for name, (there, here) in found.items()},
        })  # fmt: skip

    def add_rollback(self, record: Mapping[str, Json]) -> None:
        """Append a rollback to the history. record: JSON data with the step `to` which training returns."""
        if self._primary:
            self._append(record["to"], {"rollback": dict(record)})

    def last_rollback(self) -> JsonObject | None:
        """Return the record of the last rollback, None without one."""
        path = self.folder / "history.jsonl"
        for line in reversed(path.read_bytes().split(b"\n") if path.exists() else []):
            try:
                found = json_files.parse_json(line) if line.strip() else None
            except ValueError:  # a row that a kill cut short
                continue
            if isinstance(found, dict) and "rollback" in found:
                return found["rollback"]
        return None

    def _append(self, step: int, facts: Mapping[str, Json]) -> None:
        """Append a row to the history. Raises ValueError that names the file if it cannot be written."""
        row = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "step": step,
            "version": masksearch_jax.__version__,
            **facts,
        }
        path = self.folder / "history.jsonl"
        try:
            with path.open("a+b") as file:
                if file.tell() and not _ends_a_line(path):
                    file.write(b"\n")  # a kill cut the previous row short
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise ValueError(f"{path} cannot be written ({error.strerror or error}); unlock its folder") from error

    def check_present(self) -> None:
        """Raise FileNotFoundError if the folder was removed while this run writes to it."""
        if self._primary and not (self.folder / "config.json").exists():
            raise FileNotFoundError(
                f"{self.folder} was removed or replaced while the run wrote to it, and what it held is lost; start the "
                "same line again: it goes on from what is left"
            )

    def _differences(self) -> Differences:
        last = self._last()
        if last is None:
            return {}
        there, here = (dict(self._compared(row)) for row in (last, {"settings": self.settings, "model": self.model}))
        # A setting that only one of them has was added or removed in between; the other start ran with its default.
        return {name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]}

    def _last(self) -> JsonObject | None:
        """Return the row of the last start; without a history, a row made from config.json; None without either."""
        path = self.folder / "history.jsonl"
        again = f"remove the file, or move {self.folder} away and train it again"
        if path.exists():
            for line in reversed(path.read_bytes().split(b"\n")):
                try:
                    found = json_files.parse_json(line) if line.strip() else None
                except ValueError:  # a row that a kill cut short
                    continue
                if isinstance(found, dict) and {"settings", "model"} <= found.keys():
                    return found
        path = self.folder / "config.json"
        if not path.exists():
            return None
        found = json_files.read_json_object(path, again, required=("model",))
        return {"settings": {self.folder.name: found.get("settings", {})}, "model": found["model"]}

    def _compared(self, row: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
        settings, own = row["settings"], self.folder.name
        shared = [*_SHARED, "llm"] if self._judged() else _SHARED
        parts = {name: settings[name] for name in (*shared, own) if name in settings}
        for name, value in leaves(parts | {"model": row["model"]}):
            if not _matches(name, _LEFT_OUT):
                yield name, value

    def _judged(self) -> bool:
        reward = self.settings.get(self.folder.name, {}).get("reward", {})
        return self.kind == "dapo" and reward.get("answer") == "judge"

    def _why(self, name: str, found: Differences) -> str:
        """Return why a setting is fixed, '' if it is not."""
        if name in FREE:
            return ""
        own = f"{self.folder.name}."
        general = f"{self.kind}.{name.removeprefix(own)}" if name.startswith(own) else name
        fixed = FIXED | (FIXED_WITH_SAVED_GROUPS if self._saves_groups(found) else {})
        return next((why for pattern, why in fixed.items() if fnmatch.fnmatchcase(general, pattern)), "")

    def _saves_groups(self, found: Differences) -> bool:
        section = self.settings.get(self.folder.name, {})
        names = ("carry_over", "staleness")
        return any(found.get(f"{self.folder.name}.{name}", (section.get(name),))[0] for name in names)


def last_settings(folder: Path) -> JsonObject:
    """Return all settings of a stage's last start as plain data, {} for a stage without a history."""
    last = Stage(folder, "", {}, {})._last() if (folder / "history.jsonl").exists() else None
    settings: JsonObject = last["settings"] if last else {}
    return settings if settings.keys() - {folder.name} else {}


def changed(folder: Path, settings: Mapping[str, Json]) -> Differences:
    """Return what differs between a stage's settings at its last start and `settings`, in all sections that both have.

    A stage without a history is compared only by its own section, which config.json holds; {} without either file.
    """
    last = Stage(folder, "", settings, {})._last()
    there, here = dict(leaves(last["settings"] if last else {})), dict(leaves(plain(settings)))
    return {name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]}


def print_differences(what: str, found: Differences) -> None:
    """Print one line on stderr that names each difference."""
    print(f"{what} with changed settings: {listed(found)}", file=sys.stderr, flush=True)


def listed(found: Differences) -> str:
    """Return 'name there -> here' of each difference, with commas between them."""
    return ", ".join(f"{name} {shown(there)} -> {shown(here)}" for name, (there, here) in found.items())


def leaves(value: Json, name: str = "") -> Iterator[tuple[str, Json]]:
    """Yield (dotted name, value) of nested dicts; lists count as values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def plain(value: Json) -> Json:
    """Return the value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def shown(value: Json) -> str:
    """Return a value as messages show it, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:100]}.. ({len(text)} characters)"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
