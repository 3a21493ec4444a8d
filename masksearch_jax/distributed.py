"""Several processes as one run: joining, agreeing, exchanging host data, and ending together.

Each host runs the same program; what they must know of each other goes through the functions here, which every process
calls alike, in the same order. With one process they do nothing or return what they were given, at no cost.

How a run of several ends:
* done: exit status 0.
* 75 (`RETRY`): it cannot go on for a reason that starting all of them again may cure: a peer is gone, was preempted or
  never came, or nothing moved for `stall_s` seconds, in which case the stacks of all threads stand in the log.
* 134 (SIGABRT): JAX's own service found a peer gone first, within `heartbeat_s`. To be retried as well.
* 1: an error of the settings, the data or the code; the message names it. Starting again would meet it again.
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
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from masksearch_jax.runtime import stop_signals
from masksearch_jax.runtime.stop_signals import RETRY, PreemptedError

# What errors of JAX say, of whatever type they are, when a peer or the network failed and not the program.
_TRANSIENT = re.compile(
    r"^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)\b|\bGloo .*failed|[Cc]oordination ?[Ss]ervice"
)
_SHUTDOWN_SECONDS = 60
_MARGIN_SECONDS = 30  # how much longer than our own limits the ones behind them are: ours have the better messages


class Watchdog:
    """Ends the process when `alive` was not called for too long: stacks of all threads, a message, exit status 75."""

    def __init__(self, seconds: float, log: TextIO | None = None, end: Callable[[int], Any] = os._exit):
        """log: an open file with a descriptor, by default stderr. end: what to call with the exit status."""
        self._log, self._end = log or sys.stderr, end
        self._stopped = threading.Event()
        self.alive("start", seconds)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def alive(self, doing: str, seconds: float | None = None) -> None:
        """Starts the clock anew. doing: what comes next, for the message. seconds: a new limit."""
        if seconds is not None:
            self._limit = seconds
        self._doing, self._heard = doing, time.monotonic()

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._limit / 4)):
            # A thread that holds the interpreter for ever stops this one too; that timer needs no interpreter.
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
    """Tells the watchdog, if there is one, that the run moves. doing: what it does next."""
    if _watchdog is not None:
        _watchdog.alive(doing)


# --- From the start of a run to its end ------------------------------------------------------------------------------


@contextlib.contextmanager
def processes(settings: Any) -> Iterator[None]:
    """Joins the processes of `settings` (configs/common.py, `distributed`) on entry and ends this one on an error.

    With one process it does nothing. With several, no error leaves it: the message is printed and the process ends at
    once, with the exit status of the module's head, because an orderly exit would wait for the others.
    """
    if settings.processes == 1:
        yield
        return
    try:
        start(settings)
        yield
        alive("the end of the other processes")
        jax.distributed.shutdown()
        _watchdog.stop()
    except BaseException as error:
        _end(error)


def start(settings: Any) -> None:
    """Joins the other processes, checks that all are there, and sets the watchdog; before JAX is used for anything.

    settings.coordinator: host:port of process 0, or '' where the platform tells (Cloud TPU), process ids included.
    Raises ValueError for settings that cannot work or another number of processes than `settings.processes`.
    """
    global _watchdog
    faulthandler.enable()  # JAX's service ends a process by SIGABRT: let the log say what it was doing
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
    # The first program of all: each process says how many devices it holds.
    devices = multihost_utils.process_allgather(np.int32(jax.local_device_count())).tolist()
    if len(set(devices)) > 1:
        raise ValueError(f"processes hold different numbers of devices, {devices}; give every host the same kind")
    _watchdog.alive("start", settings.stall_s)


def check_count(wanted: int, processes: int, local: int, total: int) -> None:
    """Raises ValueError unless this process sees `wanted` processes and the devices of them all."""
    if processes != wanted or total != wanted * local:
        raise ValueError(
            f"distributed.processes={wanted}, but this process sees {processes} process(es) and {total} devices, "
            f"{local} of them its own; is the line running on every host of the slice, once, with the same "
            "distributed.coordinator?"
        )


def check_shared(folder: Path) -> None:
    """Raises ValueError on every process unless all see one and the same `folder`, which is made if it is missing."""
    if jax.process_count() == 1:
        return
    mark = folder / f".shared-{decide(secrets.randbits(31)):08x}"
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    every(True)  # nobody looks before it is there
    blind = [number for number, seen in enumerate(_gather(np.bool_(mark.exists()))) if not seen]
    if jax.process_index() == 0:
        mark.unlink()
    if blind:
        raise ValueError(
            f"{folder} of process 0 is not what process(es) {blind} see there: checkpoints need one folder that all "
            "hosts share (NFS, Filestore, a mounted bucket); give it as --workdir"
        )


def preempted() -> bool:
    """True, for all processes at the same call, once one of them was told to stop (SIGTERM, or Ctrl-C) before it.

    To be called where the state can be saved, by all processes alike.
    """
    if jax.process_count() == 1:
        return stop_signals.requested()
    return multihost_utils.reached_preemption_sync_point(next(_asked))


def stop_if_preempted() -> None:
    """Raises `PreemptedError`, in all processes at the same call, once one was told to stop: for work that nothing is
    lost of when it is given up and done again. Nothing happens within `unbroken`."""
    if not _unbroken and preempted():
        raise PreemptedError("told to stop; start the same line again, and it goes on")


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Work within it changes what could not be restored: `stop_if_preempted` lets it come to its end."""
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
    """The exit status that tells a launcher whether to start again."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, PreemptedError | TimeoutError | ConnectionError):
        return RETRY
    while error is not None:
        if isinstance(error, RuntimeError | ValueError) and _TRANSIENT.search(str(error)):
            return RETRY
        error = error.__cause__ or error.__context__
    return 1


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"distributed.coordinator={coordinator!r} has to be host:port of process 0, such as 10.0.0.2:8476"
        )
    return host.strip("[]"), int(port)


def _reach(host: str, port: int, seconds: float) -> None:
    """Waits until process 0 listens; JAX would end the process without a word about the address."""
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


# --- What all know alike ---------------------------------------------------------------------------------------------


def primary() -> bool:
    """True on the one process that writes logs and prints progress."""
    return jax.process_index() == 0


def decide(value: int) -> int:
    """Process 0's `value`, below 2**31: for decisions that rest on a file system or a clock, which differ by host."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def every(ok: bool) -> bool:
    """True on all processes if it is true on each of them; waits for all."""
    return ok if jax.process_count() == 1 else bool(_gather(np.bool_(ok)).all())


def total(value: int) -> int:
    """The sum over processes."""
    return value if jax.process_count() == 1 else int(_gather(np.int32(value)).sum())


def same(what: str, facts: Mapping[str, Any]) -> None:
    """Raises ValueError on every process unless all give equal facts (JSON data); names those that differ."""
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
    """The bytes of every process, by process."""
    if jax.process_count() == 1:
        return [data]
    lengths = _gather(np.int32(len(data)))
    # Few sizes: the exchange is a program, compiled once for each.
    padded = np.zeros(1 << int(max(lengths.max(), 1) - 1).bit_length(), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = _gather(padded)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def _gather(value: np.ndarray | np.generic) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(value))


# --- Arrays ----------------------------------------------------------------------------------------------------------


def put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """A tree of numpy arrays that all processes hold alike, as global arrays; each copies its own shards only."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), sharding, np.asarray(x).__getitem__), tree)


def fetch(array: jax.Array) -> np.ndarray:
    """A global array on every host, whole."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
