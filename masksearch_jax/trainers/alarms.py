"""Alarms: which numbers of a training stage say that it goes wrong, since when, why, and what to try next.

Enters: the rows of metrics.jsonl one after the other, and the settings of each alarm. Leaves: a verdict whenever an
alarm starts or ends, and the state that a checkpoint keeps. Nothing here needs JAX, a clock or a file.
An alarm takes one number from each row that holds it. It is on while the mean of the last `window` numbers (for speed
their median) is on the wrong side of its threshold. Some alarms compare with the run itself, and their threshold is a
factor. What happens when an alarm starts is decided elsewhere (trainers/stage.py).
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from masksearch_jax.runtime.types import ConfigSection, Json, JsonObject
from masksearch_jax.trainers.stage_settings import AlarmSettings

ACTIONS = ("off", "log", "stop", "rollback")
_START_ROWS = 10  # the rows that make the reference of an alarm: at least this many, or the first of the stage
_RUN_ROWS = 500  # most rows before the window whose median is the run's own
_SHOWN = 6  # most numbers of the window in a sentence

Row = Mapping[str, Json]
# (row, counters of the row before) -> the number, None if the row does not hold it
Read = Callable[[Row, Row], float | None]


@dataclasses.dataclass(frozen=True)
class Alarm:
    """What an alarm measures and what it means.

    what, unit: the number in words. read: takes it from a row. kinds: of the stages whose rows hold it. low: small
    values are the bad ones. reference: '' compares the number with the threshold; 'start' its ratio to the median of
    the stage's first rows; 'run' its ratio to the median of the rows before the window. cause, advice: for a person.
    timed: the first row after a start does not count, because it holds the time of compilation. part: says which part
    of the number the newest row is worst in, '' if it has no parts.
    """

    what: str
    unit: str
    read: Read
    cause: str
    advice: str
    kinds: tuple[str, ...] = ("dapo",)
    low: bool = False
    reference: str = ""
    timed: bool = False
    part: Callable[[Row, Row], str] = lambda row, before: ""


def _number(name: str) -> Read:
    return lambda row, _: row.get(name)


def _truncated(row: Row, _: Row) -> float | None:
    reasons = ("stop/turn_tokens", "stop/total_tokens")
    return sum(row[name] for name in reasons) if all(name in row for name in reasons) else None


def _dropped(row: Row, _: Row) -> float | None:
    dropped, taken = row.get("dropped_groups"), row.get("batch_groups")
    return dropped / (dropped + taken) if dropped is not None and taken is not None and dropped + taken else None


def _search_errors(row: Row, before: Row) -> float | None:
    """Return the share of failed searches of the tool that fails most; None if nothing was asked that can fail."""
    return max(_errors_by_tool(row, before).values(), default=None)


def _worst_tool(row: Row, before: Row) -> str:
    """Return the name of the tool that fails most; '' if there is no tool beside the search."""
    shares = _errors_by_tool(row, before)
    several = any(name.count("/") == 2 for name in _search_counters(row))
    return f"the tool {max(shares, key=lambda tool: shares[tool])} fails most" if several and shares else ""


def _errors_by_tool(row: Row, before: Row) -> dict[str, float]:
    """Return {tool: the larger of the share of requests that failed and of the queries that the fallback answered}.

    A tool without requests answers on this machine and is left out: nothing of it can fail.
    """
    found = {}
    for name in _search_counters(row):
        prefix, _, count = name.rpartition("/")
        if count != "requests":
            continue
        # A tool of the user's own counts no refusals.
        places = (f"{prefix}/{one}" for one in _SEARCH_COUNTS)
        queries, fallbacks, requests, failures, refusals = (row.get(at, 0) - before.get(at, 0) for at in places)
        parts = ((failures + refusals, requests), (fallbacks, queries))
        if shares := [part / whole for part, whole in parts if whole > 0]:
            found[prefix.removeprefix("search/")] = max(shares)
    return found


def _search_counters(row: Row) -> list[str]:
    """Return the names in a row of what the searches count: `search/<count>`, and `search/<tool>/<count>` of others."""
    return [name for name in row if name.startswith("search/") and name.rpartition("/")[2] in _SEARCH_COUNTS]


def _speed(row: Row, _: Row) -> float | None:
    """Return tokens per second: of a row of SFT as it says, of an iteration without checkpoint and evaluation."""
    if "rollout/tokens" not in row:
        return row.get("tokens_per_s")
    seconds = sum(v for name, v in row.items() if name.startswith("seconds/") and name != "seconds/since_last")
    return row["rollout/tokens"] / seconds if seconds > 0 else None


# Counted since the process started, by the client of a search server and by every tool of the user's own.
_SEARCH_COUNTS = ("queries", "fallbacks", "requests", "failures", "refusals")
DISK = "disk_free_gb"  # handed to the alarms and not logged

ALARMS: dict[str, Alarm] = {
    "entropy": Alarm(
        "entropy of the policy", "nats per token", _number("entropy"),
        "the policy writes nearly the same tokens every time, and a group has nothing left to compare",
        "go back to an earlier checkpoint with a lower dapo.optimizer.learning_rate or a higher dapo.clip_high, or "
        "raise dapo.temperature",
        low=True,
    ),
    "length": Alarm(
        "length of an episode", "generated tokens", _number("generated_tokens"),
        "answers grow without being paid for it: repetition, or a reward that grows with their length",
        "read the sampled episodes, and lower dapo.reward.overlong_limit or raise dapo.reward.overlong_factor",
        reference="start",
    ),
    "truncation": Alarm(
        "episodes cut at a limit of tokens", "of all", _truncated,
        "turns do not end: the policy repeats itself, or the limits are too short for its answers",
        "read the sampled episodes; raise episode.turn_tokens and episode.total_tokens, or train SFT for longer",
    ),
    "reward_spread": Alarm(
        "groups whose rewards differ", "of all", _number("kept_groups"),
        "all samples of nearly every group score alike: the tasks are too hard or too easy, or the policy collapsed",
        "raise dapo.group_size or dapo.temperature, change dapo.curriculum, or set dapo.answerable_only=True",
        low=True,
    ),
    "format": Alarm(
        "format reward", "of 1", _number("reward_format"),
        "episodes lose the form that the answer is read from: an update was too large, or SFT too short",
        "go back to an earlier checkpoint with a lower dapo.optimizer.learning_rate, or train SFT for longer",
        low=True,
    ),
    "sampler_difference": Alarm(
        "difference between the probabilities of sampler and trainer", "on average", _number("sampler_prob_diff"),
        "the sampler's log-probs are not the trainer's: another kernel or dtype, or weights that were not copied",
        "compare model.dtype and model.attention of both, or set dapo.tis_cap=2.0",
    ),
    "sampler_correlation": Alarm(
        "correlation between the probabilities of sampler and trainer", "of 1", _number("sampler_correlation"),
        "the sampler's log-probs are not the trainer's: another kernel or dtype, or weights that were not copied",
        "compare model.dtype and model.attention of both, or set dapo.tis_cap=2.0",
        low=True,
    ),
    "dropped_groups": Alarm(
        "groups with a signal that were not trained on", "of all", _dropped,
        "more groups are sampled than an update takes, and their rollouts are paid for in vain",
        "raise dapo.groups, lower dapo.prompts, or set dapo.carry_over=True",
    ),
    "search_errors": Alarm(
        "searches that failed", "of all", _search_errors,
        "the search server, or another tool, is overloaded, restarting or gone, and the fallback answers in its place",
        "look at its log and at search/failures (of another tool search/<tool>/failures); raise search.timeout_s, or "
        "give the server more threads",
        part=_worst_tool,
    ),
    "skipped": Alarm(
        "optimizer steps without an update", "of all", _number("skipped"),
        "gradients are not finite: the learning rate is too high, or the data holds something that overflows",
        "lower the learning_rate of the stage's optimizer or its clip, raise its warmup, or switch rollback on",
        kinds=("sft", "dapo"),
    ),
    "loss": Alarm(
        "loss", "nats per token", _number("loss"),
        "the last updates made the model worse: the learning rate is too high, or the data has changed",
        "lower the learning_rate of the stage's optimizer, raise its warmup, or switch rollback on",
        kinds=("sft",), reference="run",
    ),
    "throughput": Alarm(
        "speed", "tokens per second", _speed,
        "something else runs on the machine, the search became slow, or programs compile again",
        "compare seconds/* and rollout/* of metrics.jsonl with earlier rows; look at search/latency_p99_ms, at "
        "rollout/compiles, and at the load of the machine",
        kinds=("sft", "dapo"), low=True, reference="run", timed=True,
    ),
    "disk": Alarm(
        "free space of the workdir's file system", "GB", _number(DISK),
        "checkpoints and logs fill the disk; a save that finds none ends the run",
        "free some space; in the stage's checkpoints folder diverged-* and damaged-* may be removed",
        kinds=("sft", "dapo"), low=True,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An alarm that starts or ends. sentence: the diagnosis, with its numbers."""

    name: str
    action: str
    starts: bool
    sentence: str


@dataclasses.dataclass
class _Watched:
    """One alarm and its memory. since: the step at which it started, None while it is off.

    values: the last `window` numbers, NaN for those that were not finite. reference: the rows that it compares with.
    """

    alarm: Alarm
    settings: AlarmSettings
    values: list[float] = dataclasses.field(default_factory=list)
    reference: list[float] = dataclasses.field(default_factory=list)
    since: int | None = None

    def add(self, value: float) -> None:
        self.values.append(value if math.isfinite(value) else math.nan)
        while len(self.values) > self.settings.window:
            left = self.values.pop(0)
            if self.alarm.reference and math.isfinite(left):
                self.reference.append(left)
        if self.alarm.reference == "start":
            del self.reference[_START_ROWS:]
        del self.reference[:-_RUN_ROWS]

    def measured(self) -> tuple[float, float] | None:
        """Return the number of the window and what it is divided by, 1 without a reference; None: not yet known."""
        if len(self.values) < self.settings.window:
            return None
        if self.alarm.reference and len(self.reference) < _START_ROWS:
            return None
        middle = statistics.median if self.alarm.timed else statistics.fmean
        value = math.nan if any(map(math.isnan, self.values)) else middle(self.values)
        return value, statistics.median(self.reference) if self.alarm.reference else 1.0

    def is_bad(self, value: float, reference: float) -> bool:
        limit = self.settings.threshold * reference
        return not (value >= limit if self.alarm.low else value <= limit)  # so that NaN is bad


class Alarms:
    """The alarms of one stage. kind: 'sft' or 'dapo'. unit: 'step' or 'iteration', for the sentences."""

    def __init__(self, settings: ConfigSection, kind: str, unit: str):
        """settings: the section `config.alarms`: {name: threshold, window, action}."""
        self._unit = unit
        self._watched = {
            name: _Watched(alarm, settings[name])
            for name, alarm in ALARMS.items()
            if kind in alarm.kinds and settings[name].action != "off"
        }
        self._counters: JsonObject = {}
        self._started = True

    @property
    def on(self) -> list[str]:
        """The names of the alarms that are on."""
        return [name for name, one in self._watched.items() if one.since is not None]

    def longest_window(self, action: str) -> int:
        """Return the most rows that an alarm with this action needs to start after something went wrong; 0: none."""
        return max((one.settings.window for one in self._watched.values() if one.settings.action == action), default=0)

    def judge(self, step: int, row: Row) -> list[Verdict]:
        """Take a row, and return the alarms that start or end with it. Values may be NaN or infinite."""
        found = []
        for name, one in self._watched.items():
            value = None if one.alarm.timed and self._started else one.alarm.read(row, self._counters)
            if value is None:
                continue
            one.add(float(value))
            measured = one.measured()
            bad = measured is not None and one.is_bad(*measured)
            if measured is None or bad == (one.since is not None):
                continue
            began, one.since = one.since, step if bad else None
            part = one.alarm.part(row, self._counters)
            sentence = self._sentence(name, one, *measured, step, began, part)
            found.append(Verdict(name, one.settings.action, bad, sentence))
        self._counters = {name: row[name] for name in _search_counters(row)}
        self._started = False
        return found

    def _sentence(
        self, name: str, one: _Watched, value: float, reference: float, step: int, began: int | None, part: str
    ) -> str:
        alarm, settings = one.alarm, one.settings
        said = f"{alarm.what} {value:.4g} {alarm.unit}"
        if alarm.reference:
            against = "of the first rows" if alarm.reference == "start" else "of the rows before"
            said += f", {value / reference if reference else math.inf:.3g} times the median {against}, {reference:.4g}"
        if began is not None:
            return f"alarm {name} ends at {self._unit} {step}: {said}; it was on since {self._unit} {began}"
        said += f" ({part})" if part else ""
        rows = ", ".join(f"{number:.4g}" for number in one.values[-_SHOWN:])
        over = f"{'median' if alarm.timed else 'mean'} of {settings.window} rows, the last are {rows}"
        return (
            f"alarm {name} starts at {self._unit} {step}: {said}, {'under' if alarm.low else 'over'} "
            f"alarms.{name}.threshold={settings.threshold:g} ({over}). Likely cause: {alarm.cause}. "
            f"Try next: {alarm.advice}."
        )

    def started(self) -> None:
        """Say that the next row is the first after a start or a rollback, and holds the time of compilation."""
        self._started = True

    def get_state(self) -> JsonObject:
        """Return the windows, references and beginnings as JSON data; numbers that were not finite are null."""
        return {
            name: {
                "values": [None if math.isnan(value) else value for value in one.values],
                "reference": list(one.reference),
                "since": one.since,
            }
            for name, one in self._watched.items()
        }

    def set_state(self, state: Mapping[str, Json]) -> None:
        """Continue from what `get_state` returned. An alarm that it does not hold starts with an empty window."""
        for name, one in self._watched.items():
            saved = state.get(name, {"values": [], "reference": [], "since": None})
            one.values, one.since = [math.nan if value is None else value for value in saved["values"]], saved["since"]
            one.reference = list(saved["reference"])


def combine(rows: Sequence[Row]) -> JsonObject:
    """Return what the alarms of all processes judge: process 0's row, the searches of all, the smallest free space.

    rows: one of each process.
    """
    counters = _search_counters(rows[0])
    summed = {name: sum(row[name] for row in rows) for name in counters if all(name in row for row in rows)}
    return {**rows[0], **summed, DISK: min(row[DISK] for row in rows)}
