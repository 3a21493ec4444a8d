"""The result of one drill, and the table of all results."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one drill did.

    count: how many times it struck: kills, damaged files, search calls, passages. lost: what was lost or forged, in
    words; empty if nothing was. what: what was struck, and what happened then.
    """

    count: int
    lost: tuple[str, ...]
    what: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of drill.

    wanted: how many of them make a whole set. unit: what an outcome counts. run: (number of the drill, seed, folder)
    -> its outcome; the same number and seed strike in the same way.
    """

    name: str
    wanted: int
    unit: str
    run: Callable[[int, int, Path], Outcome]


@dataclasses.dataclass
class Tally:
    """The outcomes of a kind, by the number of the drill, and the seconds that they took."""

    kind: Kind
    outcomes: dict[int, Outcome] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def add(self, number: int, seed: int, folder: Path) -> Outcome:
        """Run a drill and keep its outcome. An error of the drill itself counts as lost."""
        began = time.monotonic()
        try:
            found = self.kind.run(number, seed, folder)
        except Exception as error:  # whatever it is, the table has to say it
            found = Outcome(0, (f"{type(error).__name__}: {error}",), "the drill broke")
        self.outcomes[number] = found
        self.seconds += time.monotonic() - began
        return found

    @property
    def count(self) -> int:
        return sum(one.count for one in self.outcomes.values())

    @property
    def lost(self) -> int:
        return sum(len(one.lost) for one in self.outcomes.values())


def table(tallies: Sequence[Tally]) -> str:
    """Return the table that a person reads."""
    head = ("drill", "done of wanted", "struck", "lost or forged", "seconds")
    rows = [head] + [
        (
            tally.kind.name,
            f"{len(tally.outcomes)} of {tally.kind.wanted}",
            f"{tally.count} {tally.kind.unit}",
            str(tally.lost) if tally.outcomes else "-",
            f"{tally.seconds:.0f}",
        )
        for tally in tallies
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
