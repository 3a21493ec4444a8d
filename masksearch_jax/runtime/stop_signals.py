"""Stop signals: SIGTERM (a preempted machine) and SIGINT (Ctrl-C) end a run with exit status 75, "start me again".

By default the first signal raises `PreemptedError` in the main thread at once, because data, demonstrations and
evaluation resume from their own files. Within `deferred` it only sets a flag, which a training loop checks where its
state can be saved. Whatever the main thread does, the process ends before the launchers kill it, 120 s after their
signal. A thread counts the seconds, since Python runs a signal handler only between two bytecode steps of the main
thread, and one compiler call may take minutes. A second Ctrl-C ends the process at once.
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
ALARMED = 3  # an alarm stopped the run: launchers do not start it again before a person has looked
_INTERRUPTED = 130  # the exit status that shells give after SIGINT
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAVE_SECONDS = 100.0  # to reach a step and write its checkpoint
_QUICK_SECONDS = 15.0  # to leave work that has nothing to save at its end


class PreemptedError(BaseException):
    """Raised when the run was told to stop and its work is saved; starting it again resumes it.

    Like KeyboardInterrupt it is not an Exception: code that continues after a damaged file or a failed request must not
    continue after this.
    """

    status = RETRY


class AlarmError(PreemptedError):
    """Raised when an alarm stopped the run and its work is saved; starting it again resumes it."""

    status = ALARMED


class _Listener:
    """Handles SIGTERM and SIGINT of this process, and ends it in time after the first of them."""

    def __init__(self):
        self.asked = threading.Event()
        self.depth = 0  # how many `deferred` blocks are open
        self._raised = False
        self._before = signal.getsignal(signal.SIGINT)
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        self._woken, writer = socket.socketpair()
        writer.setblocking(False)
        self._writer = writer
        self._wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop signals", daemon=True).start()

    def close(self) -> None:
        """Restore Ctrl-C. SIGTERM stays without effect: the work is done, and its exit status is what counts."""
        signal.set_wakeup_fd(self._wakeup_before)
        signal.signal(signal.SIGINT, self._before)
        signal.signal(signal.SIGTERM, lambda *_: None)
        if not self.asked.is_set():  # else the thread keeps waiting, to end the process in time
            self._writer.close()

    def _handle(self, number: int, _frame: object) -> None:
        self.asked.set()
        if not self.depth and not self._raised:
            self.stop()

    def stop(self) -> None:
        self._raised = True
        raise PreemptedError("told to stop; start the same line again, and it goes on")

    def _watch(self) -> None:
        """Read one byte per signal as soon as it arrives; end the process when its time is up."""
        ends, interrupts = None, 0
        while True:
            self._woken.settimeout(None if ends is None else max(0.0, ends - time.monotonic()))
            try:
                received = self._woken.recv(64)
            except (TimeoutError, BlockingIOError):
                _print_line("the work did not come to its end in time; what was saved before counts")
                os._exit(RETRY)
            if not received:
                return
            interrupts += received.count(signal.SIGINT)
            if interrupts > 1:
                _print_line("ended by a second Ctrl-C")
                os._exit(_INTERRUPTED)
            if ends is None and any(number in received for number in _SIGNALS):
                ends = time.monotonic() + (_SAVE_SECONDS if self.depth else _QUICK_SECONDS)
                _print_line(
                    f"told to stop: the run saves what it has and ends with exit status {RETRY}; the same line goes on "
                    "from there (Ctrl-C once more ends it at once)"
                )


_listener: _Listener | None = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Handle SIGTERM and SIGINT as the module docstring says until the end of the block; main thread only.

    What follows the block should be the end of the process: there SIGTERM changes nothing any more.
    """
    global _listener
    _listener = listener = _Listener()
    try:
        yield
    finally:
        listener.close()
        _listener = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Only record a signal while the block runs.

    The block calls `requested` where its state can be saved, and raises `PreemptedError` itself. If a signal came and
    the block ends without that, this raises it.
    """
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
    """Return True once this process was told to stop."""
    return _listener is not None and _listener.asked.is_set()


def pass_interrupts_on() -> None:
    """Turn SIGINT into SIGTERM, for runs of several processes.

    There JAX's distributed service handles SIGTERM, and tells all processes of it.
    """
    if _listener is not None:
        signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _forget() -> None:
    """Restore default signals in a forked process, which must not handle those of its parent."""
    global _listener
    if _listener is not None:
        _listener = None
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def _print_line(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(f"\n{text}", file=sys.stderr, flush=True)
