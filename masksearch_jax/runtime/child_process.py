"""Run our own commands as child processes that end with this process, however it ends.

A process killed by -9 cannot end its children. So each child holds the read end of a pipe whose write end is here. When
this process is gone, the read returns, and the child ends itself. On Linux the kernel is asked to do the same, which
also works for a child whose interpreter is blocked in one long call.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from masksearch_jax.runtime import workdir_lock
from masksearch_jax.runtime.types import Setting

_VARIABLE = "MASKSEARCH_PARENT"  # "<descriptor>:<process id>" for the child
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_is_child = False


def run(
    command: Sequence[str], *, env: dict[str, str] | None = None, **options: Setting
) -> subprocess.CompletedProcess:
    """Run a command of this package like `subprocess.run`; it ends with this process, and inherits its locks."""
    reader, writer = os.pipe()
    given = {_VARIABLE: f"{reader}:{os.getpid()}", workdir_lock.VARIABLE: workdir_lock.tokens()}
    try:
        return subprocess.run(command, env=dict(env or os.environ) | given, pass_fds=(reader,), **options)
    finally:
        os.close(reader)
        os.close(writer)


def end_with_parent() -> None:
    """Make this process end when the process that called `run` is gone; a child calls this before anything else.

    In a process that `run` did not start this does nothing.
    """
    global _is_child
    given = os.environ.pop(_VARIABLE, "")  # so that its own children do not look for the pipe
    if not given:
        return
    _is_child = True
    reader, parent = map(int, given.split(":"))
    os.set_inheritable(reader, False)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent was gone before the kernel was asked
            os._exit(1)
    threading.Thread(target=_watch, args=(reader,), name="parent", daemon=True).start()


def is_child() -> bool:
    """Return True in a process that `run` started, from `end_with_parent` on."""
    return _is_child


def _watch(reader: int) -> None:
    while os.read(reader, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
