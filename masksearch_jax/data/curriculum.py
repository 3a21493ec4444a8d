"""The curriculum: which task each example of a run comes from, in phases with a mixture of tasks each.

Enters: phases, each with a number of examples and the weights of its tasks. Leaves: the task of global example i as a
pure function of (seed, i), so that a resumed run, another host and another batch size all see the same order.
Phases are counted in examples because a packed step holds a varying number of them. A task is named: 'ramp_<k>' has k
masks, 'qa' holds questions, 'tool_warmup' the tool warm-up tasks, and 'ramp_1_open' one mask with a source that the
search may return.
"""

import bisect
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from masksearch_jax.runtime.types import Json

QUESTIONS, TOOL_WARMUP, SOURCE_ALLOWED = "qa", "tool_warmup", "ramp_1_open"

_RAMP = re.compile(r"ramp_([1-9]\d*)")
# Keeps the draws distinct from other random streams that are keyed by (seed, index).
_STREAM = 0x6C657665


def stream_id(task: str) -> int:
    """Return the integer that stands for a task in the keys of random draws, and that orders the tasks of a phase.

    It has no other meaning. Another integer for a task, or another order, would draw other examples from the same seed.
    Raises ValueError for an unknown task; it says which names there are.
    """
    if task in (QUESTIONS, TOOL_WARMUP, SOURCE_ALLOWED):
        return {QUESTIONS: 0, TOOL_WARMUP: -1, SOURCE_ALLOWED: -2}[task]
    if isinstance(task, str) and (found := _RAMP.fullmatch(task)):
        return int(found[1])
    raise ValueError(
        f"{task!r} is no task; the tasks are ramp_<k> for k masks (ramp_1, ramp_2, ..), {QUESTIONS} (questions), "
        f"{TOOL_WARMUP}, and {SOURCE_ALLOWED} (one mask, source allowed in the search)"
    )


def task_folder(task: str) -> str:
    """Return the name of the folder with the records of a task: its own name, or 'ramp_1' for 'ramp_1_open'."""
    return "ramp_1" if task == SOURCE_ALLOWED else task


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase: a number of examples, drawn with these weights of tasks. examples None: until the end of training."""

    examples: int | None
    weights: tuple[tuple[str, float], ...]


class Curriculum:
    """A sequence of phases. The last one continues without end, whatever its number of examples."""

    def __init__(self, phases: Sequence[tuple[int | None, Mapping[str, float]]]):
        """phases: (examples, {task: weight}), e.g. [(1000, {"ramp_1": 1.0}), (None, {"ramp_1": 0.5, "qa": 0.5})].

        Raises ValueError if there is no phase. Raises ValueError that names the phase if it has no positive weight, a
        weight that is negative or not finite, an unknown task, or no examples (None is allowed in the last phase only).
        """
        if not phases:
            raise ValueError('curriculum: at least one phase is needed, such as (None, {"ramp_1": 1.0})')
        self.phases = tuple(
            _checked_phase(position, examples, weights, last=position == len(phases) - 1)
            for position, (examples, weights) in enumerate(phases)
        )
        lengths = [phase.examples for phase in self.phases[:-1] if phase.examples is not None]  # all but the last have
        self._starts = [0, *itertools.accumulate(lengths)]
        self._cumulative = []
        for phase in self.phases:
            weights = np.array([weight for _, weight in phase.weights])
            self._cumulative.append(np.cumsum(weights / weights.sum()))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task with a positive weight in some phase, in the order of `stream_id`."""
        return tuple(sorted({task for phase in self.phases for task, _ in phase.weights}, key=stream_id))

    def phase(self, index: int) -> int:
        """Return the number of the phase that global example `index` belongs to."""
        return bisect.bisect_right(self._starts, index) - 1

    def task(self, seed: int, index: int) -> str:
        """Return the task of global example `index`."""
        phase = self.phase(index)
        tasks = self.phases[phase].weights
        if len(tasks) == 1:
            return tasks[0][0]
        draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([_STREAM, seed, index]))).random()
        choice = int(np.searchsorted(self._cumulative[phase], draw, side="right"))
        return tasks[min(choice, len(tasks) - 1)][0]

    def describe(self) -> list[Json]:
        """Return the phases as plain JSON data, for a fingerprint."""
        return [[phase.examples, [[task, weight] for task, weight in phase.weights]] for phase in self.phases]


def _checked_phase(position: int, examples: int | None, weights: Mapping[str, float], last: bool) -> Phase:
    if examples is None and not last:
        raise ValueError(f"curriculum: phase {position} has examples=None, which only the last phase may have")
    if examples is not None and examples < 1:
        raise ValueError(f"curriculum: phase {position} has examples={examples}; at least 1 is needed")
    clean = []
    for task, weight in weights.items():
        try:
            stream_id(task)
        except ValueError as error:
            raise ValueError(f"curriculum: phase {position}: {error}") from None
        if not np.isfinite(weight) or weight < 0:
            raise ValueError(f"curriculum: phase {position} gives task {task} the weight {weight!r}")
        if weight > 0:
            clean.append((task, float(weight)))
    if not clean:
        raise ValueError(f"curriculum: phase {position} has no task with a positive weight: {dict(weights)}")
    # The draw looks a number up in the sum of the weights so far, so this order decides which task it means.
    return Phase(examples, tuple(sorted(clean, key=lambda one: stream_id(one[0]))))
