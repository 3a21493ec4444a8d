"""The process that writes to the terminal while a live view is shown; terminal_screen.py starts it.

Descriptor 0: text, which is everything that the run and its libraries print. The descriptor of the first argument:
frames, each a length of four bytes and the lines of the view. Descriptor 2: the terminal. Text is written above the
newest frame, so that it scrolls by as usual and the frame stays at the bottom. The writer is a process of its own for
the sake of text that is printed while the run dies: it is still shown. The process ends when both inputs end.
While the run is stopped (Ctrl-Z) or in the background, the terminal belongs to the shell: the view is not drawn, keys
are shown again, and text is written as any program writes it. The second argument is the process group of the run.
Imports only the standard library, and nothing of ours, because it has to start at once.
"""

import collections
import contextlib
import os
import re
import select
import signal
import struct
import sys
import termios

_CHECK_SECONDS = 0.25  # how often the size of the terminal is read
_LONGEST_PARTIAL = 1 << 16  # characters of a line without its end
_KEPT_LINES = 500  # printed again when the size of the terminal changes
# Escape sequences that move the cursor, clear, or talk to the terminal; those of colours (..m) stay.
_MOVES = re.compile(
    rb"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-ln-~]|\x1b[ -/]*[0-Z\\^-~]|\x1b(?!\[)"
    rb"|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]"
)
_BEGIN, _END = b"\x1b[?2026h", b"\x1b[?2026l"  # terminals that know it draw what lies between at once
_NO_WRAP, _WRAP = b"\x1b[?7l", b"\x1b[?7h"
_RESET = b"\x1b[0m"


class Screen:
    """What the terminal shows: text that scrolls, and below it the lines of a frame."""

    def __init__(self, terminal: int):
        self._terminal = terminal
        self._frame: list[bytes] = []
        self._drawn = 0  # lines of the frame that the terminal shows now
        self._partial = b""
        self._kept: collections.deque[bytes] = collections.deque(maxlen=_KEPT_LINES)
        self._size = self._read_size()
        self._hidden = False

    def print(self, data: bytes) -> None:
        """Write text above the frame. The end of a line that has not come yet is waited for."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial.rpartition(b"\r")[2]  # a counter that rewrites its line
        if len(self._partial) > _LONGEST_PARTIAL:
            lines, self._partial = [*lines, self._partial], b""
        cleaned = [_cleaned(line) for line in lines]
        if cleaned:
            self._kept.extend(cleaned)
            self._write(self._erased() + b"".join(line + _RESET + b"\r\n" for line in cleaned) + self._drawing())

    def show(self, frame: bytes) -> None:
        """Show these lines at the bottom in place of those before."""
        self._frame = frame.split(b"\n") if frame else []
        self._write(self._erased() + self._drawing())

    def hide(self, hidden: bool) -> None:
        """Leave the lines of the frame where they are and draw no more of them, or draw the frame again."""
        if hidden == self._hidden:
            return
        self._hidden, self._drawn = hidden, 0
        if not hidden and self._frame:
            self._write(b"\r\n" + self._drawing())

    def check_size(self) -> None:
        """Draw everything again if the terminal has another size: it may have moved or broken the lines."""
        size = self._read_size()
        if size == self._size:
            return
        self._size = size
        if self._hidden:
            return
        room = max(0, size.lines - len(self._frame) - 1)
        text = list(self._kept)[-room:] if room else []
        self._drawn = 0
        again = b"".join(line + _RESET + b"\r\n" for line in text)
        self._write(b"\x1b[H\x1b[2J" + again + self._drawing())

    def end(self) -> None:
        """Leave the last frame where it is, and the cursor on a line of its own."""
        if self._partial:
            self.print(b"\n")
        if self._drawn:
            self._write(b"\r\n")
        self._frame, self._drawn = [], 0

    def _read_size(self) -> os.terminal_size:
        try:
            found = os.get_terminal_size(self._terminal)
        except OSError:
            return os.terminal_size((80, 24))
        return found if found.lines and found.columns else os.terminal_size((80, 24))

    def _erased(self) -> bytes:
        if not self._drawn:
            return b""
        up = f"\x1b[{self._drawn - 1}A".encode() if self._drawn > 1 else b""
        self._drawn = 0
        return b"\r" + up + b"\x1b[J"

    def _drawing(self) -> bytes:
        lines = [] if self._hidden else self._frame[: max(1, self._size.lines - 1)]
        self._drawn = len(lines)
        return _NO_WRAP + (_RESET + b"\r\n").join(lines) + _RESET + _WRAP if lines else b""

    def _write(self, data: bytes) -> None:
        data = _BEGIN + data + _END
        with contextlib.suppress(OSError):  # the terminal is gone; the run goes on
            while data:
                data = data[os.write(self._terminal, data) :]


def _cleaned(line: bytes) -> bytes:
    line = line.removesuffix(b"\r").rpartition(b"\r")[2]
    return _MOVES.sub(b"", line)


def run(text: int, frames: int, terminal: int, group: int) -> None:
    """Show frames and text until both inputs end. group: the process group of the run."""
    screen, echo, waiting, open_inputs = Screen(terminal), Echo(terminal), b"", [text, frames]
    try:
        while open_inputs:
            in_front = is_in_front(terminal, group)
            screen.hide(not in_front)
            echo.set_off(in_front)
            ready = select.select(open_inputs, [], [], _CHECK_SECONDS)[0]
            if text in ready:
                data = os.read(text, 1 << 16)
                screen.print(data)
                if not data:
                    open_inputs.remove(text)
            elif frames in ready:  # text first: what was printed before a frame stands above it
                data = os.read(frames, 1 << 16)
                if not data:
                    open_inputs.remove(frames)
                    screen.end()
                waiting += data
                frame, waiting = _newest(waiting)
                if frame is not None:
                    screen.show(frame)
            screen.check_size()
        screen.end()
    finally:
        echo.set_off(False)


def _newest(waiting: bytes) -> tuple[bytes | None, bytes]:
    """Return the last whole frame of the bytes, None if there is none, and the bytes after it."""
    frame = None
    while len(waiting) >= 4:
        (length,) = struct.unpack("!I", waiting[:4])
        if len(waiting) < 4 + length:
            break
        frame, waiting = waiting[4 : 4 + length], waiting[4 + length :]
    return frame, waiting


def is_in_front(terminal: int, group: int) -> bool:
    """Return True if this process group has the terminal, or if nobody can tell."""
    try:
        return os.tcgetpgrp(terminal) == group
    except OSError:
        return True


class Echo:
    """Keeps keys that are pressed from moving the frame; Ctrl-C works as usual."""

    def __init__(self, terminal: int):
        self._terminal = terminal
        self._quiet: list | None = None  # the modes that were set here; None while keys are shown
        self._before = 0  # whether keys were shown before

    def set_off(self, off: bool) -> None:
        """Show no keys, or show them again if nobody else, such as the shell, has set other modes meanwhile."""
        if off == (self._quiet is not None):
            return
        with contextlib.suppress(termios.error):
            modes = termios.tcgetattr(self._terminal)
            if off:
                self._before = modes[3] & termios.ECHO
                modes[3] &= ~termios.ECHO
                termios.tcsetattr(self._terminal, termios.TCSANOW, modes)
                self._quiet = modes
            elif modes == self._quiet:
                modes[3] |= self._before
                termios.tcsetattr(self._terminal, termios.TCSANOW, modes)
        if not off:
            self._quiet = None


if __name__ == "__main__":
    # A group in the background that sets modes of its terminal is stopped otherwise.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    run(0, int(sys.argv[1]), 2, int(sys.argv[2]))
