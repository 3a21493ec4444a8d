"""All kinds of drills, and the loop that runs them in turns."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.drills import damage, disk, hostile, kills, search
from benchmarks.drills.outcomes import Kind, Tally

KINDS = (
    Kind("hostile", 10, "passages", hostile.drill),
    Kind("search", 20, "calls", search.drill),
    Kind("kills", 50, "kills", kills.kill),
    Kind("damage", 20, "files", damage.drill),
    Kind("disk", 10, "full disks", disk.drill),
    Kind("preemption", 10, "SIGTERMs", kills.preempt),
    Kind("elastic", 2, "changes", kills.elastic),
)


def run(kinds: Sequence[Kind], seed: int, minutes: float, first: int, count: int, folder: Path) -> list[Tally]:
    """Run the drills in turns, a kind after the other, and return what came of them."""
    ends = time.monotonic() + 60 * minutes
    tallies = [Tally(kind) for kind in kinds]
    for turn in range(max(count or kind.wanted for kind in kinds)):
        for tally in tallies:
            if turn >= (count or tally.kind.wanted) or time.monotonic() >= ends:
                continue
            number = first + turn
            found = tally.add(number, seed, folder)
            print(f"{tally.kind.name} {number}: {found.what}", flush=True)
            for one in found.lost:
                again = f"--seed={seed} --only={tally.kind.name} --first={number} --count=1"
                print(f"  LOST: {one}\n  again: python -m benchmarks.drills {again}", flush=True)
    return tallies
