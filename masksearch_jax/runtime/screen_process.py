"""The process that writes to the terminal while a live view is shown; terminal_screen.py starts it.

Descriptor 0: text, which is everything that the run and its libraries print. The descriptor of the first argument:
frames, each a length of four bytes and the lines of the view. Descriptor 2: the terminal. Text is written above the
newest frame, so that it scrolls by as usual and the frame stays at the bottom. The writer is a process of its own for
the sake of text that is printed while the run dies: it is still shown. The process ends when both inputs end.
Imports only the standard library, and nothing of ours, because it has to start at once.
"""

import collections
import contextlib
import os
import re
import select
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

    def check_size(self) -> None:
        """Draw everything again if the terminal has another size: it may have moved or broken the lines."""
        size = self._read_size()
        if size == self._size:
            return
        self._size = size
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
        lines = self._frame[: max(1, self._size.lines - 1)]
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


def run(text: int, frames: int, terminal: int) -> None:
    """Show frames and text until both inputs end."""
    screen, waiting, open_inputs = Screen(terminal), b"", [text, frames]
    while open_inputs:
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


def _newest(waiting: bytes) -> tuple[bytes | None, bytes]:
    """Return the last whole frame of the bytes, None if there is none, and the bytes after it."""
    frame = None
    while len(waiting) >= 4:
        (length,) = struct.unpack("!I", waiting[:4])
        if len(waiting) < 4 + length:
            break
        frame, waiting = waiting[4 : 4 + length], waiting[4 + length :]
    return frame, waiting


@contextlib.contextmanager
def no_echo(terminal: int):
    """Keep keys that are pressed from moving the frame; Ctrl-C works as usual."""
    try:
        before = termios.tcgetattr(terminal)
    except termios.error:
        yield
        return
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)


if __name__ == "__main__":
    with no_echo(2):
        run(0, int(sys.argv[1]), 2)
