"""A terminal for tests: runs a command in a pseudo terminal, and knows what a person would see in the end."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

_PART = re.compile(r"\x1b\[([?0-9;]*)([@-~])|(.)", re.S)


class Shown:
    """The lines of a terminal of some size, those that scrolled away included, after it was sent some text."""

    def __init__(self, columns: int, rows: int):
        self.columns, self.rows = columns, rows
        self.lines = [""]
        self._row, self._column, self._wraps, self._waiting = 0, 0, True, ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.unknown: list[str] = []  # escape sequences that this terminal does not know

    def send(self, data: bytes) -> None:
        text = self._waiting + self._decoder.decode(data)
        cut = re.search(r"\x1b(\[[?0-9;]*)?$", text)  # the rest of a sequence comes with the next bytes
        text, self._waiting = (text[: cut.start()], cut[0]) if cut else (text, "")
        for code, final, one in _PART.findall(text):
            if final:
                self._obey(code, final)
            elif one == "\r":
                self._column = 0
            elif one == "\n":
                self._down()
            elif one == "\x1b":
                self.unknown.append("escape")
            else:
                self._write(one)

    @property
    def window(self) -> list[str]:
        """The lines that are seen now."""
        return [line.rstrip() for line in self.lines[-self.rows :]]

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)

    def _top(self) -> int:
        return max(0, len(self.lines) - self.rows)

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")

    def _write(self, one: str) -> None:
        if self._column >= self.columns:
            if not self._wraps:
                return
            self._down()
            self._column = 0
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + one + line[self._column + 1 :]
        self._column += 1

    def _obey(self, code: str, final: str) -> None:
        if final == "A":
            self._row = max(self._top(), self._row - int(code or 1))
        elif final == "J" and code in ("", "0"):
            self.lines[self._row] = self.lines[self._row][: self._column]
            del self.lines[self._row + 1 :]
        elif final == "J" and code == "2":
            self.lines[self._top() :] = [""] * (self._row - self._top() + 1)
        elif final == "H":
            self._row, self._column = self._top(), 0
        elif (code, final) in (("?7", "l"), ("?7", "h")):
            self._wraps = final == "h"
        elif final != "m" and code != "?2026":
            self.unknown.append(code + final)


def run(
    command: Sequence[str],
    columns: int = 80,
    rows: int = 24,
    env: dict[str, str] | None = None,
    resize: tuple[str, int, int] | None = None,
    kill_after: str = "",
    seconds: float = 60.0,
) -> tuple[Shown, int]:
    """Run a command in a terminal until it ends, and return what the terminal shows and the exit status.

    resize: (text, columns, rows): once the text was shown, the terminal gets this size. kill_after: once this text was
    shown, the command is killed by -9.
    """
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    child = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=end, stdout=end, stderr=end,
        env={name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}
        | {"TERM": "xterm"}
        | (env or {}),
    )  # fmt: skip
    os.close(end)
    shown, seen, ends = Shown(columns, rows), b"", time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # the last program that used the terminal has ended
                break
            shown.send(data)
            seen += data
            if resize and resize[0].encode() in seen:
                fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", resize[2], resize[1], 0, 0))
                shown.columns, shown.rows, resize = resize[1], resize[2], None
            if kill_after and kill_after.encode() in seen:
                child.kill()
                kill_after = ""
        status = child.wait(10)
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
    return shown, status
