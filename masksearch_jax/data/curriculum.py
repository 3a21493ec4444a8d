"""Which mask level each example of a run comes from: stages and mixtures, as data.

Enters: phases, each a number of examples and the weights of the levels in it. Leaves: the level of global example i
as a pure function of (seed, i), so that a resumed run, another host and another batch size all see the same order.
Phases are counted in examples because a packed step holds a varying number of them. Level k means k masks; level 0
means questions, level -1 lookups, level -2 one mask with its source in reach of the search.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

QUESTIONS, LOOKUPS, OPEN = "qa", "lookup", "open"
_NAMED = {0: QUESTIONS, -1: LOOKUPS, -2: OPEN}

# Keeps the draw apart from other streams that are keyed by (seed, index).
_STREAM = 0x6C657665


def level_name(level: int) -> str:
    """The name of a level in folders, files and scores: 'ramp_<k>', 'qa' for level 0, 'lookup' for level -1, 'open' for
    level -2."""
    return _NAMED.get(level, f"ramp_{level}")


def task_folder(level: int) -> str:
    """The name of the folder that a level's tasks are read from: its own, or for level -2 that of one mask."""
    return level_name(1 if level == -2 else level)


def level_of(name: str) -> int:
    """The inverse of `level_name`."""
    named = {other: level for level, other in _NAMED.items()}
    return named[name] if name in named else int(name.removeprefix("ramp_"))


@dataclasses.dataclass(frozen=True)
class Phase:
    """`examples` draws with these level weights; None: until the end of training."""

    examples: int | None
    weights: tuple[tuple[int, float], ...]


class Curriculum:
    """A sequence of phases; the last one goes on for as long as it is asked."""

    def __init__(self, phases: Sequence[tuple[int | None, Mapping[int, float]]]):
        """phases: (examples, {level: weight}) in order, e.g. [(1000, {1: 1.0}), (None, {1: 0.5, 2: 0.5})].

        Raises ValueError that names the phase for no phase, no positive weight, a negative weight or level, and a
        phase without examples (None is allowed in the last phase only).
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
        """Returns the number of the phase that global example `index` belongs to."""
        return bisect.bisect_right(self._starts, index) - 1

    def level(self, seed: int, index: int) -> int:
        """Returns the level of global example `index`."""
        phase = self.phase(index)
        levels = self.phases[phase].weights
        if len(levels) == 1:
            return levels[0][0]
        draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([_STREAM, seed, index]))).random()
        choice = int(np.searchsorted(self._cumulative[phase], draw, side="right"))
        return levels[min(choice, len(levels) - 1)][0]

    def describe(self) -> list:
        """Returns the phases as plain JSON data, for a fingerprint."""
        return [[phase.examples, [[level, weight] for level, weight in phase.weights]] for phase in self.phases]


def _checked_phase(position: int, examples: int | None, weights: Mapping[int, float], last: bool) -> Phase:
    if examples is None and not last:
        raise ValueError(f"curriculum: phase {position} has examples=None, which only the last phase may have")
    if examples is not None and examples < 1:
        raise ValueError(f"curriculum: phase {position} has examples={examples}; at least 1 is needed")
    clean = []
    for level, weight in weights.items():
        # Configurations from JSON or ConfigDict bring the levels as strings.
        if int(level) < min(_NAMED) or not np.isfinite(weight) or weight < 0:
            raise ValueError(f"curriculum: phase {position} gives level {level!r} the weight {weight!r}")
        if weight > 0:
            clean.append((int(level), float(weight)))
    if not clean:
        raise ValueError(f"curriculum: phase {position} has no level with a positive weight: {dict(weights)}")
    return Phase(examples, tuple(sorted(clean)))
