"""The curriculum: which level each example of a run comes from, in phases with a mixture of levels each.

Enters: phases, each with a number of examples and the weights of its levels. Leaves: the level of global example i as a
pure function of (seed, i), so that a resumed run, another host and another batch size all see the same order.
Phases are counted in examples because a packed step holds a varying number of them. Level k means k masks, level 0
questions, level -1 tool warm-up tasks ('lookup'), level -2 one mask with a source that the search may return ('open').
"""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

QUESTIONS, LOOKUPS, OPEN = "qa", "lookup", "open"
_NAMED = {0: QUESTIONS, -1: LOOKUPS, -2: OPEN}

# Keeps the draws distinct from other random streams that are keyed by (seed, index).
_STREAM = 0x6C657665


def level_name(level: int) -> str:
    """Return the name of a level in folders, files and scores.

    It is 'ramp_<k>' for level k, 'qa' for level 0, 'lookup' for level -1 and 'open' for level -2.
    """
    return _NAMED.get(level, f"ramp_{level}")


def task_folder(level: int) -> str:
    """Return the name of the folder with the tasks of a level: its own, or that of level 1 for level -2."""
    return level_name(1 if level == -2 else level)


def level_of(name: str) -> int:
    """Return the level that `level_name` gives this name."""
    named = {other: level for level, other in _NAMED.items()}
    return named[name] if name in named else int(name.removeprefix("ramp_"))


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase: a number of examples, drawn with these level weights. examples None: until the end of training."""

    examples: int | None
    weights: tuple[tuple[int, float], ...]


class Curriculum:
    """A sequence of phases. The last one continues without end, whatever its number of examples."""

    def __init__(self, phases: Sequence[tuple[int | None, Mapping[int, float]]]):
        """phases: (examples, {level: weight}) in order, e.g. [(1000, {1: 1.0}), (None, {1: 0.5, 2: 0.5})].

        Raises ValueError if there is no phase. Raises ValueError that names the phase if it has no positive weight, a
        weight that is negative or not finite, a level below -2, or no examples (None is allowed in the last phase
        only).
        """
        if not phases:
            raise ValueError("curriculum: at least one phase is needed, such as (None, {1: 1.0})")
        self.phases = tuple(
            _checked_phase(position, examples, weights, last=position == len(phases) - 1)
            for position, (examples, weights) in enumerate(phases)
        )
        lengths = [phase.examples for phase in self.phases[:-1]]
        self._starts = [0, *itertools.accumulate(lengths)]
        self._cumulative = []
        for phase in self.phases:
            weights = np.array([weight for _, weight in phase.weights])
            self._cumulative.append(np.cumsum(weights / weights.sum()))

    @property
    def levels(self) -> tuple[int, ...]:
        """Every level with a positive weight in some phase, ascending."""
        return tuple(sorted({level for phase in self.phases for level, _ in phase.weights}))

    def phase(self, index: int) -> int:
        """Return the number of the phase that global example `index` belongs to."""
        return bisect.bisect_right(self._starts, index) - 1

    def level(self, seed: int, index: int) -> int:
        """Return the level of global example `index`."""
        phase = self.phase(index)
        levels = self.phases[phase].weights
        if len(levels) == 1:
            return levels[0][0]
        draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([_STREAM, seed, index]))).random()
        choice = int(np.searchsorted(self._cumulative[phase], draw, side="right"))
        return levels[min(choice, len(levels) - 1)][0]

    def describe(self) -> list:
        """Return the phases as plain JSON data, for a fingerprint."""
        return [[phase.examples, [[level, weight] for level, weight in phase.weights]] for phase in self.phases]


def _checked_phase(position: int, examples: int | None, weights: Mapping[int, float], last: bool) -> Phase:
    if examples is None and not last:
        raise ValueError(f"curriculum: phase {position} has examples=None, which only the last phase may have")
    if examples is not None and examples < 1:
        raise ValueError(f"curriculum: phase {position} has examples={examples}; at least 1 is needed")
    clean = []
    for level, weight in weights.items():
        # In configs from JSON or ConfigDict the levels are strings.
        if int(level) < min(_NAMED) or not np.isfinite(weight) or weight < 0:
            raise ValueError(f"curriculum: phase {position} gives level {level!r} the weight {weight!r}")
        if weight > 0:
            clean.append((int(level), float(weight)))
    if not clean:
        raise ValueError(f"curriculum: phase {position} has no level with a positive weight: {dict(weights)}")
    return Phase(examples, tuple(sorted(clean)))
