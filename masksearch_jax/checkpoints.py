"""Checkpoints: one atomic item per step with arrays, facts and the data position (design decision 7).

Enters: a pytree of arrays, a JSON dict of facts (config, hashes, counters) and a data state. Leaves: numbered folders,
each complete or absent, whatever moment the process was killed at. A thin layer over Orbax's CheckpointManager.
Several processes write their shards of one step into one folder that all see, and any number may read it back.
Left out: choosing when to save, and what belongs into a checkpoint; the trainers do that.
"""

import base64
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from masksearch_jax import distributed

_log = logging.getLogger(__name__)
_BYTES = "base64"
T = TypeVar("T")


class MismatchError(ValueError):
    """A checkpoint that is whole but holds another tree or other shapes than asked for."""


class Checkpointer:
    """Saves and restores the steps of one directory. Every process of a run makes one and calls it alike."""

    def __init__(
        self,
        directory: Path | str,
        keep: int = 3,
        background: bool = True,
        read_only: bool = False,
        in_flight_bytes: int | None = None,
    ):
        """keep: newest steps that stay; at least 2, so that a damaged newest one leaves something to fall back to.
        background: `save` returns once the arrays are copied off the device, and writing goes on in a thread.
        read_only: for readers beside a running trainer; creates and cleans nothing.
        in_flight_bytes: how much of the arrays is being packed and written at a time, more than any device's part of
        one; by default all at once, which took half of the parameters' size in memory beside them.
        """
        if keep < 2:
            raise ValueError(f"keep={keep}: at least 2, or a damaged newest checkpoint would leave none")
        self.directory = Path(directory).absolute()
        self._read_only = read_only
        if read_only and not self.directory.is_dir():
            raise FileNotFoundError(f"{self.directory} does not exist: no checkpoint was saved there")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            enable_async_checkpointing=background,
            # What a killed save left behind; never when only reading, since it may belong to a living trainer.
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

    def save(self, step: int, state: Any, meta: Mapping[str, Any], data_state: Mapping[str, Any] | bytes) -> None:
        """Saves one step: all of it or nothing. Raises what a background save before it raised.

        state: pytree of arrays. meta: JSON data; 'step' is added. data_state: JSON data or bytes.
        """
        self._manager.check_for_errors()
        if isinstance(data_state, bytes):
            data_state = {_BYTES: base64.b64encode(data_state).decode("ascii")}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            meta=ocp.args.JsonSave({**meta, "step": step}),
            data=ocp.args.JsonSave(dict(data_state)),
        )
        if not self._manager.save(step, args=items, force=True):
            raise RuntimeError(f"Orbax refused to save step {step} in {self.directory}")

    def latest(self) -> int | None:
        """Returns the newest complete step, None if there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Returns all complete steps, ascending; waits for a background save that is under way.

        Of several processes, all return what process 0 sees: a shared folder may show a step later elsewhere.
        """
        self.wait()
        seen = json.dumps(sorted(self._manager.all_steps()))
        return json.loads(distributed.gather_bytes(seen.encode())[0])

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """Returns the facts of a step (None: the newest readable one), for those who build their state from them."""
        return self._newest_readable(step, self._load_meta)[1]

    def restore(
        self, step: int | None, abstract_state: Any, partial: bool = False
    ) -> tuple[Any, dict[str, Any], dict[str, Any] | bytes]:
        """Restores (state, meta, data_state); meta['step'] says which step it was.

        step: None takes the newest, and falls back to older ones, loudly, while one cannot be read; what could not be
        read is renamed to `damaged-<step>` once an older one could. A step that is named is never replaced by another.
        abstract_state: pytree of jax.ShapeDtypeStruct with shardings, the layout wanted (not that of the saver).
        partial: abstract_state may leave out branches of the saved tree, such as the optimizer.
        Raises FileNotFoundError if there is no such step, MismatchError if the tree or a shape is not the saved one.
        """
        found, result = self._newest_readable(step, lambda at: self._load(at, abstract_state, partial))
        if step is None and not self._read_only:
            self._set_aside([newer for newer in self.steps() if newer > found])
        return result

    def wait(self) -> None:
        """Blocks until background saves are on disk; raises what one of them raised."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits, then frees the threads."""
        self.wait()
        self._manager.close()

    def _newest_readable(self, step: int | None, load: Callable[[int], T]) -> tuple[int, T]:
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise FileNotFoundError(f"{self.directory} holds {wanted}; steps there: {steps}")
        if step is not None:
            return step, load(step)
        first_error: Exception | None = None
        for candidate in reversed(steps):
            error = None
            try:
                result = load(candidate)
            except MismatchError:
                raise
            except Exception as caught:  # whatever a damaged file makes the readers raise
                error = caught
            if not distributed.every(error is None):  # all processes go on from one step
                error = error or RuntimeError(f"another process cannot read {self.directory}/{candidate}")
                first_error = first_error or error
                _log.error("checkpoint %s/%d cannot be read: %s", self.directory, candidate, _head(error))
                continue
            if first_error is not None:
                _log.error("FELL BACK from step %d to step %d of %s", steps[-1], candidate, self.directory)
            return candidate, result
        raise first_error

    def _load(self, step: int, abstract_state: Any, partial: bool) -> tuple[Any, dict, dict | bytes]:
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

    def _check_tree(self, step: int, abstract_state: Any, partial: bool) -> None:
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

    def _load_meta(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def _set_aside(self, steps: Sequence[int]) -> None:
        if not steps:
            return
        if ocp.multihost.is_primary_host(0):
            for step in steps:
                source = self.directory / str(step)
                target = self.directory / f"damaged-{step}"
                attempt = 1
                while target.exists():
                    attempt += 1
                    target = self.directory / f"damaged-{step}-{attempt}"
                source.rename(target)
                _log.error("%s was renamed to %s", source, target.name)
        ocp.multihost.sync_global_processes("masksearch_jax:set_aside")
        self._manager.reload()


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path; a namedtuple or dataclass and the plain container that Orbax stored it as have equal paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_key(entry) for entry in path): leaf for path, leaf in leaves}


def _key(entry: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _head(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + " ..."
