"""Checkpoints: one atomic folder per step with arrays, facts and the data position.

Enters: a pytree of arrays, a JSON dict of facts (config, hashes, counters) and a data state. Leaves: numbered folders,
each complete or absent, whenever the process is killed. This is a thin layer over Orbax's CheckpointManager.
Several processes write their shards of one step into one folder that all see, and any number of processes may read it
back. Process 0 hashes everything they wrote before the step gets its name. So each step has checksums, and nothing is
restored before they are verified. The last step that is known to be good, because training continued from it, is never
deleted.
Left out: when to save, and what belongs into a checkpoint; the trainers decide that. Whether a resumed run is the same
run is checked elsewhere: its settings (settings_history.py), its data (data/stream_fingerprint.py), its index,
tokenizer and seed (trainers/position.py).
"""

import base64
import hashlib
import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

from masksearch_jax.runtime import checksums, distributed, json_files
from masksearch_jax.runtime.types import Json, JsonObject, Pytree

_log = logging.getLogger(__name__)
_BYTES = "base64"
_KNOWN_GOOD = "known_good.json"
_CHECKSUMS, _LATE_CHECKSUMS = "checksums.json", "checksums_late.json"
# Orbax writes these files after the checksums: it marks a folder as committed and adds the time to its own metadata.
# They get checksums of their own, written when `wait` finds the save finished.
_LATE = ("commit_success.txt", "_CHECKPOINT_METADATA")
T = TypeVar("T")


class MismatchError(ValueError):
    """Raised for a checkpoint that is whole but holds another tree or other shapes than asked for."""


class DamagedError(ValueError):
    """Raised when the files of a checkpoint are not those that were written."""


class Checkpointer:
    """Saves and restores the steps of one directory. Every process of a run makes one, and all make the same calls."""

    def __init__(
        self,
        directory: Path | str,
        keep: int = 3,
        background: bool = True,
        read_only: bool = False,
        in_flight_bytes: int | None = None,
    ):
        """keep: how many of the newest steps stay, beside the one known to be good; at least 2, so that there is a step
        to fall back to when the newest is damaged.
        background: `save` returns once the arrays are copied off the device; writing and hashing continue in a thread.
        read_only: for readers beside a running trainer; creates and cleans up nothing, and takes the newest step or
        none.
        in_flight_bytes: how many bytes of the arrays are packed and written at a time; it must exceed any device's part
        of a single array. By default all are written at once, which took half of the parameters' size in extra memory.
        """
        if keep < 2:
            raise ValueError(f"keep={keep}: at least 2, or a damaged newest checkpoint would leave none")
        self.directory = Path(directory).absolute()
        self._read_only = read_only
        if read_only and not self.directory.is_dir():
            raise FileNotFoundError(f"{self.directory} does not exist: no checkpoint was saved there")
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_is_no_raised_error)
        self._saving = -1
        self._verified: set[int] = set()
        self.held: Sequence[int] = ()  # steps that stay as well, because one of them may turn out to be the good one
        self._background = background
        self.known_good = self._read_known_good()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else _Preserve(self, keep),
            enable_async_checkpointing=background,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal) if background else None,
            # Removes what a killed save left behind. Not for readers, since it may belong to a running trainer.
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        limited = in_flight_bytes and ocp.BasePyTreeCheckpointHandler(save_concurrent_bytes=in_flight_bytes)
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(handler_impl=limited),
            "meta": ocp.JsonCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.directory, item_handlers=handlers, options=options)

    def save(self, step: int, state: Pytree, meta: Mapping[str, Json], data_state: Mapping[str, Json] | bytes) -> None:
        """Save one step, all of it or nothing. Raises what an earlier background save raised.

        state: pytree of arrays. meta: JSON data; 'step' is added. data_state: JSON data or bytes.
        """
        if isinstance(data_state, bytes):
            data_state = {_BYTES: base64.b64encode(data_state).decode("ascii")}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            meta=ocp.args.JsonSave({**meta, "step": step}),
            data=ocp.args.JsonSave(dict(data_state)),
        )
        self.wait()  # one step at a time is written and hashed
        self._saving = step
        if not self._manager.save(step, args=items, force=True):
            raise RuntimeError(f"Orbax refused to save step {step} in {self.directory}")
        if not self._background and ocp.multihost.is_primary_host(0):
            self._seal()

    def confirm(self, step: int) -> None:
        """Record that step `step` is good: training continued from it with finite gradients.

        The step is kept until a later one is known to be good.
        """
        if step == self.known_good:
            return
        self.known_good = step
        if ocp.multihost.is_primary_host(0):
            json_files.write_json(self.directory / _KNOWN_GOOD, {"step": step})

    def set_aside_doubtful(self) -> int | None:
        """Rename the steps after the one known to be good to `diverged-<step>`; return the good one, or None.

        If no step is known to be good, all are renamed.
        """
        self.set_aside_after(-1 if self.known_good is None else self.known_good)
        return self.known_good

    def set_aside_after(self, step: int) -> None:
        """Rename the steps after `step` to `diverged-<step>`."""
        self._set_aside([later for later in self.steps() if later > step], "diverged")

    def latest(self) -> int | None:
        """Return the newest complete step, None if there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Return all complete steps, ascending; wait for a background save in progress.

        Several processes all return what process 0 sees, because a shared folder may show a step later elsewhere.
        """
        self.wait()
        seen = json.dumps(sorted(self._manager.all_steps()))
        return json.loads(distributed.gather_bytes(seen.encode())[0])

    def newest_whole(self) -> int | None:
        """Return the newest step if its files are those that were written; else log what is wrong and return None."""
        latest = self.latest()
        try:
            if latest is not None:
                self._verify(latest)
        except DamagedError as error:
            _log.error("%s", error)
            return None
        return latest

    def fingerprint(self, step: int) -> str:
        """Return the sha256 of a step's checksum file, which identifies its files; '' for a step without checksums."""
        path = self.directory / str(step) / _CHECKSUMS
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def meta(self, step: int | None = None) -> JsonObject:
        """Return the facts of a step (None: the newest readable one), for callers that build their state from them."""
        return self._newest_readable(step, self._load_meta)[1]

    def restore(
        self, step: int | None, abstract_state: Pytree, partial: bool = False
    ) -> tuple[Pytree, JsonObject, JsonObject | bytes]:
        """Restore (state, meta, data_state); meta['step'] says which step it was.

        step: None takes the newest step. If that cannot be read, it falls back to older ones, with an error in the log;
        once one was read, the unreadable newer ones are renamed to `damaged-<step>`. A given step is never replaced by
        another, and a reader (read_only) never falls back from the newest.
        abstract_state: pytree of jax.ShapeDtypeStruct with the shardings wanted (not those of the saver).
        partial: abstract_state may leave out branches of the saved tree, such as the optimizer.
        Raises FileNotFoundError if there is no such step, MismatchError if the tree or a shape is not the saved one,
        DamagedError if the files are not those that were written.
        """
        found, result = self._newest_readable(step, lambda at: self._load(at, abstract_state, partial))
        if step is None and not self._read_only:
            self._set_aside([newer for newer in self.steps() if newer > found], "damaged")
        return result

    def wait(self) -> None:
        """Block until background saves are on disk; raise what one of them raised."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        folder = self.directory / str(self._saving)
        if self._saving >= 0 and ocp.multihost.is_primary_host(0) and folder.exists():
            checksums.write_checksums(folder, _files(folder)[1], _LATE_CHECKSUMS)
        self._saving = -1

    def close(self) -> None:
        """Wait for background saves, then free the threads."""
        self.wait()
        self._manager.close()

    def _newest_readable(self, step: int | None, load: Callable[[int], T]) -> tuple[int, T]:
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise FileNotFoundError(f"{self.directory} holds {wanted}; steps there: {steps}")
        if self._read_only and step is None:
            step = steps[-1]
        if step is not None:
            self._verify(step)
            return step, load(step)
        faults = []
        for candidate in reversed(steps):
            error = None
            try:
                self._verify(candidate)
                result = load(candidate)
            except Exception as caught:  # whatever the readers raise for a damaged file
                error = caught
            if not distributed.every(not isinstance(error, MismatchError)):  # all processes stop, not this one alone
                raise error or MismatchError(f"{self.directory}/{candidate} does not fit the run of another process")
            if not distributed.every(error is None):  # all processes continue from the same step
                error = error or RuntimeError(f"another process cannot read {self.directory}/{candidate}")
                faults.append(_head(error))
                _log.error("checkpoint %s/%d cannot be read: %s", self.directory, candidate, _head(error))
                continue
            if faults:
                _log.error("FELL BACK from step %d to step %d of %s", steps[-1], candidate, self.directory)
            return candidate, result
        raise DamagedError(
            f"{self.directory} holds no checkpoint that can be read ({'; '.join(faults)}). Put a copy of one back, or "
            f"remove {self.directory.parent} and start again, which trains this stage anew"
        )

    def _seal(self) -> None:
        """Write the checksums of the step being saved; runs on process 0 after all have written, before the rename."""
        unnamed = sorted(self.directory.glob(f"{self._saving}.orbax-checkpoint-tmp*"))
        folder = unnamed[-1] if unnamed else self.directory / str(self._saving)
        checksums.write_checksums(folder, _files(folder)[0], _CHECKSUMS)

    def _verify(self, step: int) -> None:
        """Raise DamagedError, on all processes, unless the files of a step are those that were written."""
        if step in self._verified:
            return
        faults = []
        if ocp.multihost.is_primary_host(0):
            folder = self.directory / str(step)
            early, late = _files(folder)
            faults = checksums.verify_checksums(folder, early, _CHECKSUMS)
            if (folder / _LATE_CHECKSUMS).exists():  # missing if a kill came between the two
                faults += checksums.verify_checksums(folder, late, _LATE_CHECKSUMS)
        said = json.dumps(faults).encode()
        faults = json.loads(distributed.gather_bytes(said)[0])
        if faults:
            more = f", and {len(faults) - 1} more files" if len(faults) > 1 else ""
            raise DamagedError(f"checkpoint {self.directory}/{step} is damaged: {faults[0]}{more}")
        self._verified.add(step)

    def _read_known_good(self) -> int | None:
        """Return the step in the file _KNOWN_GOOD as process 0 reads it; None without one."""
        found = -1
        if ocp.multihost.is_primary_host(0) and (self.directory / _KNOWN_GOOD).exists():
            try:
                found = int(json_files.read_json_object(self.directory / _KNOWN_GOOD, "remove it")["step"])
            except (ValueError, KeyError, TypeError) as error:
                _log.error("no checkpoint is known to be good: %s", error)
        found = distributed.decide(found)
        return found if found >= 0 else None

    def _load(self, step: int, abstract_state: Pytree, partial: bool) -> tuple[Pytree, JsonObject, JsonObject | bytes]:
        self._check_tree(step, abstract_state, partial)
        state_args = ocp.args.PyTreeRestore(
            abstract_state,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_state),
            partial_restore=partial,
        )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=state_args, meta=ocp.args.JsonRestore(), data=ocp.args.JsonRestore())
        )
        data_state = restored["data"]
        if set(data_state) == {_BYTES}:
            data_state = base64.b64decode(data_state[_BYTES])
        return restored["state"], restored["meta"], data_state

    def _check_tree(self, step: int, abstract_state: Pytree, partial: bool) -> None:
        saved = _leaves(self._manager.item_metadata(step)["state"].tree)
        wanted = _leaves(abstract_state)
        wrong = [f"{name}: only in this run" for name in sorted(set(wanted) - set(saved))]
        if not partial:
            wrong += [f"{name}: only in the checkpoint" for name in sorted(set(saved) - set(wanted))]
        wrong += [
            f"{name}: shape {tuple(saved[name].shape)} in the checkpoint, {tuple(wanted[name].shape)} in this run"
            for name in sorted(set(saved) & set(wanted))
            if tuple(saved[name].shape) != tuple(wanted[name].shape)
        ]
        if wrong:
            more = f"\n  .. and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise MismatchError(
                f"checkpoint {self.directory}/{step} is of another model or optimizer:\n  "
                + "\n  ".join(wrong[:10])
                + more
                + "\nrestore the configuration it was made with, or start afresh with another --workdir"
            )

    def _load_meta(self, step: int) -> JsonObject:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def _set_aside(self, steps: Sequence[int], why: str) -> None:
        if not steps:
            return
        if ocp.multihost.is_primary_host(0):
            for step in steps:
                source = self.directory / str(step)
                target = self.directory / f"{why}-{step}"
                attempt = 1
                while target.exists():
                    attempt += 1
                    target = self.directory / f"{why}-{step}-{attempt}"
                source.rename(target)
                _log.error("%s was renamed to %s", source, target.name)
        self._verified.difference_update(steps)  # a step of the same number may be saved again
        ocp.multihost.sync_global_processes("masksearch_jax:set_aside")
        self._manager.reload()


def _is_no_raised_error(record: logging.LogRecord) -> bool:
    """Return False for an error of Orbax that is logged with a traceback. `wait` raises it, so that it is said once."""
    frames = traceback.walk_tb(record.exc_info[2] if record.exc_info else None)
    return not any("/orbax/checkpoint/" in frame.f_code.co_filename for frame, _ in frames)


def _files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files of a step that are complete before it gets its name, and those that Orbax writes after that."""
    names = [name for name in checksums.list_files(folder) if name not in (_CHECKSUMS, _LATE_CHECKSUMS)]
    late = [name for name in names if Path(name).name in _LATE]
    return [name for name in names if name not in late], late


class _Preserve:
    """Orbax's preservation policy: keep the newest `keep` steps, the one known to be good, and those that are held."""

    def __init__(self, owner: Checkpointer, keep: int):
        self._owner, self._keep = owner, keep

    def should_preserve(
        self, checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo], *, context: object
    ) -> list[bool]:
        first = len(checkpoints) - self._keep
        kept = {self._owner.known_good, *self._owner.held}
        return [i >= first or info.step in kept for i, info in enumerate(checkpoints)]


def _leaves(tree: Pytree) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the leaves by path.

    A namedtuple or dataclass and the plain container that Orbax stored it as have equal paths.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_key(entry) for entry in path): leaf for path, leaf in leaves}


def _key(entry: Json) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _head(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + " ..."
