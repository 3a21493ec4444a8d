"""Run several processes as one: join, agree, exchange host data, and end together.

Each host runs the same program. What hosts must know of each other goes through the functions here, which all processes
call in the same order. With one process they do nothing or return what they were given, at no cost.

How a run of several processes ends:
* 0: the run is done.
* 75 (`RETRY`): the run cannot continue, for a reason that may vanish when all processes are started again: a peer is
  gone, was preempted or never came, or nothing moved for `stall_s` seconds. In the last case the log holds the stacks
  of all threads.
* 3 (`stop_signals.ALARMED`): an alarm with the action stop ended the run, and its state is saved.
* 134 (SIGABRT): JAX's own service noticed first that a peer was gone, within `heartbeat_s`. Retry this as well.
* 1: an error in the settings, the data or the code; the message names it. Starting again would meet it again.
No process waits at its end for others that will not come. Left out: starting the processes (launch/), and meshes.
"""

import contextlib
import faulthandler
import itertools
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from masksearch_jax.runtime import stop_signals
from masksearch_jax.runtime.stop_signals import RETRY, PreemptedError
from masksearch_jax.runtime.types import Json, Pytree

# Matches the messages of JAX errors, of whatever type, that mean that a peer or the network failed, not the program.
_TRANSIENT = re.compile(
    r"^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)\b|\bGloo .*failed|[Cc]oordination ?[Ss]ervice"
)
_SHUTDOWN_SECONDS = 60
_MARGIN_SECONDS = 30  # fallback limits are this much longer than our own, because our messages are better


class Watchdog:
    """Ends the process if `alive` is not called for too long: prints all stacks and a message, exits with status 75."""

    def __init__(self, seconds: float, log: TextIO | None = None, end: Callable[[int], object] = os._exit):
        """log: an open file with a descriptor, by default stderr. end: a function that gets the exit status."""
        self._log, self._end = log or sys.stderr, end
        self._stopped = threading.Event()
        self.alive("start", seconds)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def alive(self, doing: str, seconds: float | None = None) -> None:
        """Restart the clock. doing: what comes next, for the message. seconds: a new limit."""
        if seconds is not None:
            self._limit = seconds
        self._doing, self._heard = doing, time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._limit / 4)):
            # A thread that never releases the interpreter stops this one too. This timer does not need the interpreter.
            faulthandler.dump_traceback_later(self._limit + _MARGIN_SECONDS, exit=True, file=self._log)
            silent = time.monotonic() - self._heard
            if silent > self._limit:
                faulthandler.dump_traceback(file=self._log, all_threads=True)
                _tell(
                    f"nothing moved for {silent:.0f} s during {self._doing!r}; the stacks stand above. A peer that "
                    f"hangs or is gone? Start all processes again: the run goes on from its newest checkpoint",
                    self._log,
                )
                self._end(RETRY)
                return


_watchdog: Watchdog | None = None
_asked = itertools.count()
_unbroken = 0


def alive(doing: str) -> None:
    """Tell the watchdog, if there is one, that the run makes progress. doing: what the run does next."""
    if _watchdog is not None:
        _watchdog.alive(doing)


# --- From the start of a run to its end ------------------------------------------------------------------------------


@contextlib.contextmanager
def processes(settings: ConfigDict) -> Iterator[None]:
    """Join the processes of `settings` (configs/common.py, `distributed`) on entry, and end this one on an error.

    With one process this does nothing. With several, no error leaves the block: the message is printed and the process
    ends at once, with an exit status from the module docstring, because an orderly exit would wait for the others.
    """
    if settings.processes == 1:
        yield
        return
    try:
        join_processes(settings)
        yield
        alive("the end of the other processes")
        jax.distributed.shutdown()
        if _watchdog is not None:
            _watchdog.stop()
    except BaseException as error:
        _end(error)


def join_processes(settings: ConfigDict) -> None:
    """Join the other processes, check that all are there, and start the watchdog; call this before any use of JAX.

    settings.coordinator: host:port of process 0, or '' where the platform provides it and the process ids (Cloud TPU).
    Raises ValueError for settings that cannot work, or if the number of processes is not `settings.processes`, and
    TimeoutError if process 0 does not answer.
    """
    global _watchdog
    faulthandler.enable()  # JAX's service ends a process by SIGABRT; then the log says what it was doing
    _watchdog = Watchdog(settings.timeout_s)
    _watchdog.alive(f"joining {settings.processes} processes at {settings.coordinator or 'the address found'}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    limits = {
        "initialization_timeout": settings.timeout_s + _MARGIN_SECONDS,
        "heartbeat_timeout_seconds": settings.heartbeat_s,
        "shutdown_timeout_seconds": _SHUTDOWN_SECONDS,
    }
    if settings.coordinator:
        host, port = _address(settings.coordinator)
        if not 0 <= settings.process_id < settings.processes:
            raise ValueError(
                f"distributed.process_id={settings.process_id} is not one of {settings.processes} processes, "
                f"0 to {settings.processes - 1}"
            )
        if settings.process_id:
            _reach(host, port, settings.timeout_s)
        jax.distributed.initialize(settings.coordinator, settings.processes, settings.process_id, **limits)
    else:
        jax.distributed.initialize(**limits)
    stop_signals.pass_interrupts_on()
    check_count(settings.processes, jax.process_count(), jax.local_device_count(), jax.device_count())
    # The first joint program: each process says how many devices it holds.
    devices = multihost_utils.process_allgather(np.int32(jax.local_device_count())).tolist()
    if len(set(devices)) > 1:
        raise ValueError(f"processes hold different numbers of devices, {devices}; give every host the same kind")
    _watchdog.alive("start", settings.stall_s)


def check_count(wanted: int, processes: int, local: int, total: int) -> None:
    """Raise ValueError unless this process sees `wanted` processes and the devices of all of them."""
    if processes != wanted or total != wanted * local:
        raise ValueError(
            f"distributed.processes={wanted}, but this process sees {processes} process(es) and {total} devices, "
            f"{local} of them its own; is the line running on every host of the slice, once, with the same "
            "distributed.coordinator?"
        )


def check_shared(folder: Path) -> None:
    """Raise ValueError on every process unless all of them see the same `folder`, which is made if it is missing."""
    if jax.process_count() == 1:
        return
    mark = folder / f".shared-{decide(secrets.randbits(31)):08x}"
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    every(True)  # no process looks before the file is there
    blind = [number for number, seen in enumerate(_gather(np.bool_(mark.exists()))) if not seen]
    if jax.process_index() == 0:
        mark.unlink()
    if blind:
        raise ValueError(
            f"{folder} of process 0 is not what process(es) {blind} see there: checkpoints need one folder that all "
            "hosts share (NFS, Filestore, a mounted bucket); give it as --workdir"
        )


def preempted() -> bool:
    """Return True, in all processes at the same call, once one of them was told to stop (SIGTERM or Ctrl-C).

    All processes call this together, where the state can be saved.
    """
    if jax.process_count() == 1:
        return stop_signals.requested()
    return multihost_utils.reached_preemption_sync_point(next(_asked))


def stop_if_preempted() -> None:
    """Raise `PreemptedError`, in all processes at the same call, once one of them was told to stop.

    This is for work that can be given up and done again without loss. Within `unbroken` it does nothing.
    """
    if not _unbroken and preempted():
        raise PreemptedError("told to stop; start the same line again, and it goes on")


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Keep `stop_if_preempted` from interrupting the block, which changes state that could not be restored."""
    global _unbroken
    _unbroken += 1
    try:
        yield
    finally:
        _unbroken -= 1


def _end(error: BaseException) -> None:
    status = _status(error)
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            _tell(error.code)
    elif isinstance(error, PreemptedError | TimeoutError) or (
        status != RETRY and isinstance(error, ValueError | FileNotFoundError)
    ):
        _tell(str(error))
    else:
        traceback.print_exception(error)
        if status == RETRY:
            _tell("a peer or the network failed (its own log says more); start all processes again")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _status(error: BaseException) -> int:
    """Return the exit status that tells a launcher whether to start again."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, PreemptedError):
        return error.status
    if isinstance(error, TimeoutError | ConnectionError):
        return RETRY
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError | ValueError) and _TRANSIENT.search(str(cause)):
            return RETRY
        cause = cause.__cause__ or cause.__context__
    return 1


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"distributed.coordinator={coordinator!r} has to be host:port of process 0, such as 10.0.0.2:8476"
        )
    return host.strip("[]"), int(port)


def _reach(host: str, port: int, seconds: float) -> None:
    """Wait until process 0 listens. Without this, JAX would end the process without any message about the address."""
    began = time.monotonic()
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() - began > seconds - 1:
                raise TimeoutError(
                    f"process 0 does not answer at {host}:{port} after {seconds} s ({error}): did it start, is the "
                    "port free there and open to this host?"
                ) from error
            time.sleep(0.2)


def _tell(text: str, log: TextIO | None = None) -> None:
    number = jax.distributed.is_initialized() and jax.process_index()
    print(f"process {number or 0}: {text}", file=log or sys.stderr, flush=True)


# --- Agreement between processes -------------------------------------------------------------------------------------


def primary() -> bool:
    """Return True on the one process that writes logs and prints progress."""
    return jax.process_index() == 0


def decide(value: int) -> int:
    """Return process 0's `value`, below 2**31, for decisions based on a file system or clock, which differ by host."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def every(ok: bool) -> bool:
    """Return True on all processes if `ok` is true on each of them; wait for all."""
    return ok if jax.process_count() == 1 else bool(_gather(np.bool_(ok)).all())


def total(value: int) -> int:
    """Return the sum of `value` over all processes."""
    return value if jax.process_count() == 1 else int(_gather(np.int32(value)).sum())


def same(what: str, facts: Mapping[str, Json]) -> None:
    """Raise ValueError on every process, naming the differences, unless all give equal facts (JSON data)."""
    if jax.process_count() == 1:
        return
    gathered = [json.loads(data) for data in gather_bytes(json.dumps(dict(facts), default=str).encode())]
    names = sorted(set().union(*gathered))
    different = {name: [one.get(name) for one in gathered] for name in names}
    different = {name: values for name, values in different.items() if any(value != values[0] for value in values)}
    if different:
        listed = "; ".join(f"{name}: {', '.join(map(repr, values))}" for name, values in different.items())
        raise ValueError(f"the processes differ in {what}, by process: {listed}. Give all hosts the same")


def gather_bytes(data: bytes) -> list[bytes]:
    """Return the bytes of every process, in the order of processes."""
    if jax.process_count() == 1:
        return [data]
    lengths = _gather(np.int32(len(data)))
    # Padded to a power of two: the exchange is a program that is compiled once per size, so there should be few sizes.
    padded = np.zeros(1 << int(max(lengths.max(), 1) - 1).bit_length(), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = _gather(padded)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def _gather(value: np.ndarray | np.generic) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(value))


# --- Arrays ----------------------------------------------------------------------------------------------------------


def put(tree: Pytree, sharding: jax.sharding.Sharding) -> Pytree:
    """Return a tree of numpy arrays, equal on all processes, as global arrays; each process copies only its shards."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), sharding, np.asarray(x).__getitem__), tree)


def fetch(array: jax.Array) -> np.ndarray:
    """Return a global array on every host, whole, as a numpy array."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
