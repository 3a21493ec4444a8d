"""The settings of every start of a training stage: which a resumed one has to keep, and what changed on the way.

`W/<stage>/history.jsonl` gets a row for each start: time, step that it goes on from, package version, all settings, the
model, and what differs from the start before. `W/<stage>/config.json` holds the current settings and model. A stage
with a checkpoint keeps what its weights, its place in the data and its saved groups mean (`FIXED`); a difference there
is refused. Everything else may change, and is said.
"""

import datetime
import fnmatch
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import masksearch_jax
from masksearch_jax.runtime import json_files

# Patterns of names -> why they are fixed. `sft.` and `dapo.` stand for the section of a stage of that kind.
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
    "episode.turns": "what an episode may do",
    "episode.turn_tokens": "what an episode may do",
    "episode.observation_tokens": "what an episode sees",
    "episode.total_tokens": "what an episode may do",
}
# Fixed while groups of episodes wait from one rollout batch to the next, in the checkpoint too.
FIXED_WITH_SAVED_GROUPS = {
    "dapo.group_size": "the size of the saved groups",
    "dapo.temperature": "the log-probs of the saved groups",
}
# How the same model is computed.
FREE = ("model.dtype", "model.remat", "model.attention", "model.scan_unroll")
# Compared elsewhere (adapters stand in the checkpoint itself), or other on every machine.
_LEFT_OUT = ("model.lora", "model.lora.*")
# The sections that every stage reads beside its own.
_SHARED = (
    "seed", "search", "episode", "rollout", "mesh", "cpu_devices", "pretrained", "start", "adapters", "tensorboard",
    "validation_episodes", "validation_levels",
)  # fmt: skip

Differences = dict[str, tuple[Any, Any]]


class Stage:
    """Settings and model of one stage of a run, and what its folder says of earlier starts."""

    def __init__(
        self, folder: Path, kind: str, settings: Mapping[str, Any], model: Mapping[str, Any], primary: bool = True
    ):
        """kind: 'sft' or 'dapo'; the stage's section of the settings has the name of its folder. settings: all of the
        run, as plain data. model: the fields of the ModelConfig. primary: False on processes that write nothing."""
        self.folder, self.kind, self._primary = Path(folder), kind, primary
        self.settings, self.model = plain(settings), plain(model)

    def differences(self) -> Differences:
        """What differs from the last start: name -> (there, here); {} before the first one.

        Raises ValueError that names what is fixed, if the folder holds a checkpoint, or a damaged file.
        """
        found = self._differences()
        refused = {name: self._why(name, found) for name in found}
        refused = {name: why for name, why in refused.items() if why}
        if refused and self.has_checkpoint():
            listed = "; ".join(f"{name} is {shown(found[name][0])} there and {shown(found[name][1])} here ({why})"
                               for name, why in refused.items())  # fmt: skip
            raise ValueError(
                f"{self.folder} was trained with other settings: {listed}. Give the settings that it has (the last row "
                f"of {self.folder / 'history.jsonl'}), or take another --workdir"
            )
        return found

    def has_checkpoint(self) -> bool:
        """True if the folder holds a step to go on from."""
        saved = self.folder / "checkpoints"
        return saved.is_dir() and any(path.name.isdecimal() for path in saved.iterdir())

    def begin(self, step: int) -> None:
        """Says what differs from the last start, appends this one to the history, and writes config.json.

        step: what the stage goes on from. Raises as `differences`.
        """
        if not self._primary:
            return
        found = self.differences() if step else {}
        if found:
            say_differences(f"{self.folder} goes on from step {step}", found)
        row = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "step": step,
            "version": masksearch_jax.__version__,
            "settings": self.settings,
            "model": self.model,
            "differences": {name: {"there": there, "here": here} for name, (there, here) in found.items()},
        }
        own = {"settings": self.settings.get(self.folder.name, {}), "model": self.model}
        json_files.write_json(self.folder / "config.json", own)
        path = self.folder / "history.jsonl"
        try:
            with path.open("a+b") as file:
                if file.tell() and not _ends_a_line(path):
                    file.write(b"\n")  # a kill cut the row before
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise ValueError(f"{path} cannot be written ({error.strerror or error}); unlock its folder") from error

    def check_present(self) -> None:
        """Raises FileNotFoundError if the folder, which this run writes, was removed under it."""
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
        # What only one of them has is older or newer than the setting; it was trained with its default.
        return {name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]}

    def _last(self) -> dict[str, Any] | None:
        """The last start's row, or what a stage without a history says of itself."""
        path = self.folder / "history.jsonl"
        again = f"remove the file, or move {self.folder} away and train it again"
        if path.exists():
            for line in reversed(path.read_bytes().split(b"\n")):
                try:
                    found = json_files.parse_json(line) if line.strip() else None
                except ValueError:  # cut by a kill
                    continue
                if isinstance(found, dict) and {"settings", "model"} <= found.keys():
                    return found
        path = self.folder / "config.json"
        if not path.exists():
            return None
        found = json_files.read_json_object(path, again, required=("model",))
        return {"settings": {self.folder.name: found.get("settings", {})}, "model": found["model"]}

    def _compared(self, row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
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
        """Why a setting is fixed, '' if it is not."""
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


def changed(folder: Path, settings: Mapping[str, Any]) -> Differences:
    """What differs between the settings that a stage was last started with and `settings`, in all sections that both
    have; {} for a stage that is older than its history."""
    last = Stage(folder, "", settings, {})._last()
    there, here = dict(leaves(last["settings"] if last else {})), dict(leaves(plain(settings)))
    return {name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]}


def say_differences(what: str, found: Differences) -> None:
    """One line on stderr that names each difference."""
    listed = ", ".join(f"{name} {shown(there)} -> {shown(here)}" for name, (there, here) in found.items())
    print(f"{what} with changed settings: {listed}", file=sys.stderr, flush=True)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of nested dicts; lists are values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def plain(value: Any) -> Any:
    """Returns the value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def shown(value: Any) -> str:
    """A value as messages show it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:100]}.. ({len(text)} characters)"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
