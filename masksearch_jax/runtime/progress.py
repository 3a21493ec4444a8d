"""Show on stderr how far long work is.

A terminal gets a bar at its bottom (terminal_screen.py), anything else a line every so often and one at the end.
Stdout is for results alone. Callers say which process is the primary one, which alone prints, so that nothing here
needs JAX.
"""

import contextlib
import dataclasses
import re
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import RenderableType
from rich.text import Text

from masksearch_jax.runtime import terminal_screen

_FIRST_SECONDS, _LAST_SECONDS = 10.0, 60.0
# Characters that control a terminal or turn the direction of text: passages and models may write any.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def print_message(label: str, text: str, primary: bool = True) -> None:
    """Print text for a person, on stderr: what a stage begins, continues from, or has made."""
    if primary:
        print(printable(f"{label}: {text}"), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return the text with each character that would control a terminal replaced by a question mark in a box."""
    return _CONTROLS.sub("\ufffd", text)


@contextlib.contextmanager
def progress_bar(total: int | None, label: str, primary: bool = True) -> Iterator[Callable[..., None]]:
    """Show the progress of a long step, with the time that is left.

    Yields a function to call with the number of things done so far, and optionally with a note that is shown beside it.
    total: how many there are, None if unknown.
    """
    if not primary:
        yield lambda done, note="": None
        return
    clock = Clock(total)
    if terminal_screen.usable():
        pane = _Bar(label, clock)
        with terminal_screen.shown(pane):
            yield pane.update
    else:
        with lines(label, clock) as update:
            yield update


@dataclasses.dataclass
class Clock:
    """How much of some work is done, and how long the rest will take. total: None if unknown."""

    total: int | None
    done: int = 0

    def __post_init__(self) -> None:
        self._start = self._moved = time.monotonic()

    def move(self, done: int) -> None:
        """Record that `done` things are done by now."""
        self.done, self._moved = done, time.monotonic()

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float | None:
        """Seconds until the end at the mean pace so far; None if that cannot be told."""
        if self.total is None or not self.done:
            return None
        each = (self._moved - self._start) / self.done
        return max(0.0, each * (self.total - self.done) - (time.monotonic() - self._moved))

    @property
    def count(self) -> str:
        return f"{self.done}" if self.total is None else f"{self.done}/{self.total}"


@contextlib.contextmanager
def lines(label: str, clock: Clock) -> Iterator[Callable[..., None]]:
    """Print the progress as plain lines, for pipes and log files, and a last one also if the step is left early.

    Yields a function of the number of things done and a note. There is a line every ten seconds at first, and one a
    minute after an hour.
    """
    shown, note = clock.passed, ""

    def show(ended: bool) -> None:
        line = f"{label}: {clock.count} in {duration(clock.passed)}"
        if not ended and clock.left is not None:
            line += f", eta {duration(clock.left)}"
        print(printable(line + (f", {note}" if note else "")), file=sys.stderr, flush=True)

    def update(done: int, said: str = "") -> None:
        nonlocal shown, note
        clock.move(done)
        note, now = said, clock.passed
        if now - shown >= min(max(_FIRST_SECONDS, now / 60), _LAST_SECONDS):
            shown = now
            show(ended=False)

    try:
        yield update
    finally:
        show(ended=True)


class _Bar:
    """A pane of one line: label, bar, count, times and note."""

    def __init__(self, label: str, clock: Clock):
        self._label, self._clock, self._note = label, clock, ""

    def update(self, done: int, note: str = "") -> None:
        self._clock.move(done)
        self._note = note

    def render(self, width: int, height: int) -> RenderableType:
        return bar_line(self._label, self._clock, self._note, width)


def bar_line(label: str, clock: Clock, note: str, width: int) -> Text:
    """Return a progress bar of one line. The bar itself takes the columns that the words leave, at most 40."""
    words = f" {clock.count}  {duration(clock.passed)}"
    if clock.left is not None and clock.done != clock.total:
        words += f"  {duration(clock.left)} left"
    if note:
        words += f"  {printable(note)}"
    line = Text(f"{printable(label)} ", style="bold", no_wrap=True, overflow="ellipsis", end="")
    room = min(40, width - len(line) - len(words))
    if clock.total and room >= 5:
        line.append_text(bar(clock.done / clock.total, room))
    line.append(words, style="not bold")
    line.truncate(width, overflow="ellipsis")
    line.end = "\n"
    return line


def bar(share: float, width: int) -> Text:
    """Return a line of `width` columns, of which a share is coloured."""
    full = round(width * min(1.0, max(0.0, share)))
    return Text.assemble(("━" * full, "green"), ("━" * (width - full), "bright_black"))


def duration(seconds: float) -> str:
    """Return a time as 0:05, 2:03:04, or 3 d 4:05:06."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02d}:{rest:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
