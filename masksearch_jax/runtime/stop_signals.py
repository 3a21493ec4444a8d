"""Being told to stop: SIGTERM (a preempted machine) and SIGINT (Ctrl-C) end a run with exit status 75, start me again.

By default the first signal raises `PreemptedError` in the main thread at once: data, demonstrations and evaluation go
on from their own files. Within `deferred` it only sets a flag, which a training loop asks for where its state can be
saved. Whatever the main thread does, the process ends in time for the launchers, which kill 120 s after their signal: a
thread counts the seconds, since Python runs a signal handler only between two steps of the main thread, and one call of
a compiler may take minutes. A second Ctrl-C ends the process at once.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

RETRY = 75  # EX_TEMPFAIL of sysexits.h: launchers start the run again
_INTERRUPTED = 130  # as shells give it after SIGINT
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAVE_SECONDS = 100.0  # to reach a step and write its checkpoint
_QUICK_SECONDS = 15.0  # to leave work that saves nothing at its end


class PreemptedError(BaseException):
    """The run was told to stop, and what it has is saved; start it again. No Exception, as KeyboardInterrupt is none:
    code that goes on after a damaged file or a failed request must not go on after this."""


class _Listener:
    """The signals of this process, from the first one to its end."""

    def __init__(self):
        self.asked = threading.Event()
        self.depth = 0  # of `deferred`
        self._raised = False
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        self._woken, writer = socket.socketpair()
        writer.setblocking(False)
        self._writer = writer
        self._wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop signals", daemon=True).start()

    def close(self) -> None:
        """Gives the signals back to whoever had them."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if not self.asked.is_set():  # else the end of the process is what the thread waits for
            self._writer.close()

    def _handle(self, number: int, _frame: object) -> None:
        self.asked.set()
        if not self.depth and not self._raised:
            self.stop()

    def stop(self) -> None:
        self._raised = True
        raise PreemptedError("told to stop; start the same line again, and it goes on")

    def _watch(self) -> None:
        """Reads a byte for each signal, the moment it comes."""
        ends, interrupts = None, 0
        while True:
            self._woken.settimeout(None if ends is None else max(0.0, ends - time.monotonic()))
            try:
                received = self._woken.recv(64)
            except (TimeoutError, BlockingIOError):
                _say("the work did not come to its end in time; what was saved before counts")
                os._exit(RETRY)
            if not received:
                return
            interrupts += received.count(signal.SIGINT)
            if interrupts > 1:
                _say("ended by a second Ctrl-C")
                os._exit(_INTERRUPTED)
            if ends is None and any(number in received for number in _SIGNALS):
                ends = time.monotonic() + (_SAVE_SECONDS if self.depth else _QUICK_SECONDS)
                _say(
                    f"told to stop: the run saves what it has and ends with exit status {RETRY}; the same line goes on "
                    "from there (Ctrl-C once more ends it at once)"
                )


_listener: _Listener | None = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Takes SIGTERM and SIGINT as the module's head says until the end of the block; main thread only."""
    global _listener
    _listener = listener = _Listener()
    try:
        yield
    finally:
        listener.close()
        _listener = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it a signal is only noted: the block asks `requested` where its state can be saved, and raises
    `PreemptedError` itself. Where it has not done so by its end, this does."""
    listener = _listener
    if listener is None:
        yield
        return
    listener.depth += 1
    try:
        yield
    finally:
        listener.depth -= 1
    if listener.asked.is_set() and not listener.depth:
        listener.stop()


def requested() -> bool:
    """True once this process was told to stop."""
    return _listener is not None and _listener.asked.is_set()


def pass_interrupts_on() -> None:
    """Turns SIGINT into SIGTERM, where JAX's service of several processes has taken SIGTERM for itself and tells all
    of them."""
    if _listener is not None:
        signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _forget() -> None:
    """In a forked process: its signals are its own, and not those of the process that it comes from."""
    global _listener
    if _listener is not None:
        _listener = None
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(f"\n{text}", file=sys.stderr, flush=True)
