"""What a person sees of a training stage: its progress, its main numbers, a curve, and the last episode.

Enters: the rows of metrics.jsonl as they are written, samples of text, and the steps that the stage takes. Leaves: on a
terminal a live view (terminal_screen.py), elsewhere lines with the same numbers (progress.py). Validations, alarms and
checkpoints are lines in both cases, printed by those who know of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from masksearch_jax.runtime import progress, terminal_screen
from masksearch_jax.runtime.metrics import Histogram, read_rows
from masksearch_jax.runtime.sparkline import sparkline
from masksearch_jax.runtime.types import Json

# Key of a row -> (label, format), in the order in which they are shown.
_NUMBERS = {
    "reward": ("reward", "{:.3f}"),
    "reward_answer": ("answer", "{:.3f}"),
    "reward_format": ("format", "{:.3f}"),
    "generated_tokens": ("tokens", "{:.1f}"),
    "entropy": ("entropy", "{:.3f}"),
}
# The parts of an iteration of DAPO, without the evaluation and the checkpoint before it.
_ITERATION = ("seconds/reshard", "seconds/rollout", "seconds/logprobs", "seconds/update")
_NARROW, _WIDEST_CURVE, _MOST_POINTS, _FACT_LINES = 50, 80, 2048, 3


class StageView:
    """One stage while it trains; a `metrics.Tracker`."""

    def __init__(self, label: str, unit: str, folder: Path, primary: bool):
        """label: name of the stage. unit: 'step' or 'iteration'. folder: holds metrics.jsonl. primary: shows nothing
        if False."""
        self._label, self._unit, self._folder, self._primary = label, unit, folder, primary
        self._clock: progress.Clock | None = None
        self._step, self._last = 0, 0
        self._row: Mapping[str, Json] = {}
        self._curve: list[float] = []
        self._first = 0.0  # value of the curve
        self._curve_of = "loss"
        self._validation, self._saved, self._alarms = "", "", ""
        self._episode = ""

    # --- what happens --------------------------------------------------------------------------------------------

    def steps(self, start: int, last: int) -> Iterator[int]:
        """Yield the numbers of the steps after `start` to `last`, and show the stage meanwhile."""
        ahead = range(start + 1, last + 1)
        self._step, self._last = start, last
        clock = self._clock = progress.Clock(len(ahead))
        if not self._primary:
            yield from ahead
        elif terminal_screen.usable():
            with terminal_screen.shown(self):
                for step in ahead:
                    yield step
                    clock.move(step - start)
                    self._step = step
        else:
            with progress.lines(self._label, clock) as update:
                for step in ahead:
                    yield step
                    self._step = step
                    update(step - start, self.note)

    def cut(self, step: int) -> None:
        """Take the curve up to `step` from the log of the starts before."""
        path = self._folder / "metrics.jsonl"
        self._curve, self._row = [], {}
        for row in read_rows(path) if path.exists() else []:
            self._take(row)

    def write(self, step: int, row: Mapping[str, Json]) -> None:
        """Show the numbers of a row of metrics.jsonl."""
        self._take(row)

    def samples(self, step: int, texts: Mapping[str, str], histograms: Callable[[], Mapping[str, Histogram]]) -> None:
        """Show the last text."""
        for text in texts.values():
            self._episode = progress.printable(text)

    def saved(self, step: int) -> None:
        """Show and print that a checkpoint is being saved."""
        self._saved = f"at {self._unit} {step}"
        progress.print_message(self._label, f"saves checkpoint {step}", self._primary)

    def close(self) -> None:
        """Nothing to do: the view ends with its steps."""

    def _take(self, row: Mapping[str, Json]) -> None:
        if any(name.startswith("eval/") for name in row):
            self._validation = f"at {self._unit} {row['step']}: {validation_text(row)}"
            return
        self._row = row
        self._alarms = ", ".join(name.removeprefix("alarm/") for name in row if name.startswith("alarm/") and row[name])
        wanted = "reward" if "reward" in row else "loss"
        if wanted != self._curve_of:
            self._curve, self._curve_of = [], wanted
        value = row.get(wanted)
        if isinstance(value, int | float) and math.isfinite(value):
            self._first = float(value) if not self._curve else self._first
            self._curve.append(float(value))
            if len(self._curve) > _MOST_POINTS:  # neighbours are averaged
                pairs = [self._curve[at : at + 2] for at in range(0, len(self._curve), 2)]
                self._curve = [sum(pair) / len(pair) for pair in pairs]

    # --- what is shown -------------------------------------------------------------------------------------------

    @property
    def note(self) -> str:
        """The main numbers of the newest row as one line of text; '' before the first."""
        parts = [f"{label} {value}".strip() for label, value in numbers(self._row)]
        return ", ".join([*parts, *([f"ALARM {self._alarms}"] if self._alarms else [])])

    def render(self, width: int, height: int) -> RenderableType:
        """Return the view in `width` columns; the episode takes the lines that are left of `height`."""
        parts: list[Text] = [self._progress(width)]
        parts += _wrapped([_number(label, value) for label, value in numbers(self._row)], width)
        if len(self._curve) > 1:
            parts.append(self._curve_line(width))
        for label, text in (("validation", self._validation), ("checkpoint", self._saved)):
            if text:
                parts += _fact(label, text, width)
        if self._alarms:
            parts += _fact("ALARM", self._alarms, width, "bold red")
        room = height - 1 - len(parts)
        if self._episode and room >= 3:
            parts += self._episode_lines(width, min(room, max(6, height // 2)))
        return Group(*parts)

    def _progress(self, width: int) -> Text:
        clock = self._clock or progress.Clock(None)
        share = f"  {self._step / self._last:.0%}" if self._last else ""
        head = Text(f"{self._label} ", style="bold", no_wrap=True, end="")
        words = f" {self._unit} {self._step}/{self._last}{share}"
        times = f"  {progress.duration(clock.passed)}"
        if clock.left is not None and self._step < self._last:
            times += f", {progress.duration(clock.left)} left"
        if len(head) + len(words) + len(times) > width:
            words = f" {self._step}/{self._last}"
        room = min(40, width - len(head) - len(words) - len(times))
        if self._last and room >= 5:
            head.append_text(progress.bar(self._step / self._last, room))
        head.append(words, style="not bold").append(times, style="bright_black not bold")
        head.truncate(width, overflow="ellipsis")
        head.end = "\n"
        return head

    def _curve_line(self, width: int) -> Text:
        newest = self._row.get(self._curve_of, self._curve[-1])
        newest = newest if isinstance(newest, int | float) else self._curve[-1]
        ends = f" first {self._first:.3g}, last {newest:.3g}" if width >= _NARROW else f" {newest:.3g}"
        line = Text(f"{self._curve_of} ", style="bright_black", no_wrap=True)
        room = min(_WIDEST_CURVE, width - len(line) - len(ends))
        line.append(sparkline(self._curve, max(1, room)), style="cyan")
        line.append(ends, style="default")
        line.truncate(width, overflow="ellipsis")
        return line

    def _episode_lines(self, width: int, room: int) -> list[Text]:
        console, found = Console(width=width), list[Text]()
        for line in self._episode.splitlines():
            found += Text(line, style="bright_black").wrap(console, width)
        return [*found[: room - 1], Text("..", style="bright_black")] if len(found) > room else found


def numbers(row: Mapping[str, Json]) -> list[tuple[str, str]]:
    """Return (label, text) of the main numbers of a row, in the order in which they are shown."""
    found = []
    if "reward" not in row and "loss" in row:
        found.append(("loss", _shown(row["loss"], "{:.3f}")))
    found += [(label, _shown(row[name], form)) for name, (label, form) in _NUMBERS.items() if name in row]
    rate = tokens_per_second(row)
    if rate is not None:
        found.append(("", f"{rate:,.0f} tokens/s"))
    if "mfu" in row:
        found.append(("MFU", _shown(row["mfu"], "{:.1%}")))
    seconds = _iteration_seconds(row)
    if seconds:
        found.append(("", f"{seconds:.3g} s an iteration"))
    return found


def tokens_per_second(row: Mapping[str, Json]) -> float | None:
    """Return the tokens per second of a row: as it says, or those that an iteration of DAPO sampled; None without."""
    if isinstance(row.get("tokens_per_s"), int | float):
        return float(row["tokens_per_s"])
    seconds = _iteration_seconds(row)
    return row["rollout/tokens"] / seconds if seconds and "rollout/tokens" in row else None


def validation_text(row: Mapping[str, Json]) -> str:
    """Return the scores of a row of a validation, task by task."""
    tasks: dict[str, list[str]] = {}
    for name, value in row.items():
        parts = name.split("/")
        if parts[0] == "eval" and len(parts) == 3 and parts[2] in ("recall", "format", "hit"):
            tasks.setdefault(parts[1], []).append(f"{parts[2]} {_shown(value, '{:.3f}')}")
    return "; ".join(f"{task} {', '.join(scores)}" for task, scores in tasks.items())


def _iteration_seconds(row: Mapping[str, Json]) -> float:
    return sum(float(row[name]) for name in _ITERATION if isinstance(row.get(name), int | float))


def _shown(value: Json, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else str(value)


def _number(label: str, value: str) -> Text:
    text = Text(no_wrap=True)
    if label:
        text.append(f"{label} ", style="bright_black")
    return text.append(value, style="bold")


def _fact(label: str, text: str, width: int, style: str = "bright_black") -> list[Text]:
    line = Text.assemble((f"{label} ", style), text)
    return list(line.wrap(Console(width=width), width))[:_FACT_LINES]


def _wrapped(items: list[Text], width: int) -> list[Text]:
    """Return the items on as few lines as hold them, three spaces apart."""
    lines: list[Text] = []
    for item in items:
        if lines and len(lines[-1]) + 3 + len(item) <= width:
            lines[-1].append("   ").append_text(item)
        else:
            item.truncate(width, overflow="ellipsis")
            lines.append(item)
    return lines
