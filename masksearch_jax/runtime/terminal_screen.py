"""A live view at the bottom of the terminal: panes that are drawn in place, and above them all that is printed.

Enters: panes, which are asked for what they show twice a second. While one is shown, the descriptors of stdout and
stderr lead to a process (screen_process.py) that writes their text above the panes, so that nothing that prints, be it
C++ code or a child process, garbles the view or is lost. A command shows panes only on a terminal; `usable` tells.
"""

import atexit
import contextlib
import io
import os
import select
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group, RenderableType

from masksearch_jax.runtime.types import Setting

_REFRESH_SECONDS = 0.5
_END_SECONDS = 5.0  # how long the end waits for the last text to be written
_DRAIN_SECONDS = 1.0  # how long text may take to come when the process that should read it is gone
_NOTEBOOK = "JPY_PARENT_PID"  # set by Jupyter and Colab for a kernel, and so for its `!command`


class Pane(Protocol):
    """Something that a live view shows."""

    def render(self, width: int, height: int) -> RenderableType:
        """Return what to show now, in at most this many columns and lines. Another thread calls this."""
        ...


class _Screen:
    """The panes that are shown, and the process that writes them to the terminal."""

    def __init__(self, terminal: int):
        """terminal: a descriptor of the terminal; it is duplicated."""
        self.panes: list[Pane] = []
        self._terminal = os.dup(terminal)
        self._lock, self._stopped, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._modes: list[Setting] | None = None
        with contextlib.suppress(termios.error):
            self._modes = termios.tcgetattr(self._terminal)
        self._text, text_writer = os.pipe()
        frames, self._frames = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable, "-I", "-S", str(Path(__file__).with_name("screen_process.py")), str(frames),
                str(os.getpgrp()),
            ],
            stdin=self._text, stdout=subprocess.DEVNULL, stderr=self._terminal, pass_fds=(frames,),
            process_group=0,  # Ctrl-C and Ctrl-Z are for the run
        )  # fmt: skip
        os.close(frames)  # the end of the text stays open: what prints must not fail if the process is killed
        # The descriptors that lead to the terminal now, and where they led before.
        self._before = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
        _flush()
        for number in self._before:
            os.dup2(text_writer, number)
        os.close(text_writer)
        self._thread = threading.Thread(target=self._refresh, name="live view", daemon=True)
        self._thread.start()

    def draw(self) -> None:
        """Send what the panes show now."""
        with self._lock, contextlib.suppress(OSError):
            if self._stopped.is_set():
                return
            try:
                data = self._rendered().encode()
            except Exception:  # a pane that changed while it was drawn; the next frame shows it
                return
            data = struct.pack("!I", len(data)) + data
            while data:  # a signal may end a write early
                data = data[os.write(self._frames, data) :]

    def _rendered(self) -> str:
        try:
            size = os.get_terminal_size(self._terminal)
        except OSError:
            size = os.terminal_size((80, 24))
        return rendered(self.panes, size.columns or 80, size.lines or 24)

    def _refresh(self) -> None:
        while not self._stopped.wait(_REFRESH_SECONDS):
            self.draw()
            if self._process.poll() is not None:  # somebody killed it; the run goes on without a view
                self.stop()

    def stop(self) -> None:
        """Draw a last time, and lead stdout and stderr to the terminal again once all text is written."""
        self.draw()
        with self._lock:
            first = not self._stopped.is_set()
            self._stopped.set()
            if first:
                # Without a reader a thread may hold the lock of a stream while its write waits: a flush would wait too.
                if self._process.poll() is None:
                    _flush()
                for number, former in self._before.items():
                    os.dup2(former, number)
                    os.close(former)
                os.close(self._frames)
        if not first:  # another thread does it, and the process must not end before it is done
            self._ended.wait(_END_SECONDS)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):  # a child process that goes on may hold its input
            self._process.wait(_END_SECONDS)
        if self._process.returncode:
            self._take_over()
        os.close(self._text)
        os.close(self._terminal)
        self._ended.set()

    def _take_over(self) -> None:
        """Write what the process, which somebody killed, has left unread, and let keys be shown again."""
        with contextlib.suppress(OSError, termios.error):
            if self._modes is not None:
                termios.tcsetattr(self._terminal, termios.TCSANOW, self._modes)
            os.write(self._terminal, b"\x1b[0m\x1b[?7h\r\n")
            # A write that waits for room fills the pipe again as soon as it is read.
            while select.select([self._text], [], [], _DRAIN_SECONDS)[0] and (data := os.read(self._text, 1 << 16)):
                while data:
                    data = data[os.write(self._terminal, data) :]


def rendered(panes: list[Pane], width: int, height: int) -> str:
    """Return the lines of panes as text with colours, at most height - 1 lines of `width` columns."""
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", width=width, height=height, highlight=False,
        markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    with console.capture() as capture:
        console.print(Group(*(pane.render(width, height) for pane in panes)), crop=True)
    return "\n".join(capture.get().rstrip("\n").split("\n")[: max(1, height - 1)])


_screen: _Screen | None = None
_opening = threading.Lock()


def usable() -> bool:
    """Return True if stderr is a terminal that can show a view, and this process runs in its foreground.

    A cell `!command` of a notebook gives its command a terminal, but shows each frame below the last one.
    """
    try:
        terminal = sys.stderr.fileno()
        if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb" or _NOTEBOOK in os.environ:
            return False
        return _screen is None and os.tcgetpgrp(terminal) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


@contextlib.contextmanager
def shown(pane: Pane) -> Iterator[None]:
    """Show a pane during the block. Panes that are shown at the same time stand below one another.

    If the system has no process or descriptor left for it, nothing is shown.
    """
    global _screen
    with _opening:
        if _screen is None:
            with contextlib.suppress(OSError):
                _screen = _Screen(sys.stderr.fileno())
        screen = _screen
        if screen is not None:
            screen.panes = [*screen.panes, pane]
    if screen is None:
        yield
        return
    screen.draw()
    try:
        yield
    finally:
        with _opening:
            last = screen.panes == [pane]
            if not last:
                screen.panes = [one for one in screen.panes if one is not pane]
        if last:
            close()


@atexit.register
def close() -> None:
    """End the view, if there is one; what is printed from here on stands below it."""
    global _screen
    with _opening:
        screen, _screen = _screen, None
    if screen is not None:
        screen.stop()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
