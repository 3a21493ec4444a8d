"""Drills: kills, damage, a full disk, search faults, hostile passages, preemption and a change of devices.

    python -m benchmarks.drills --seed=0 --minutes=30
    python -m benchmarks.drills --seed=0 --only=kills --first=17 --count=1      the one drill again

Prints a line for each drill, a table, and one JSON line. Exit status 1 if anything was lost or forged; then the
workdirs of those drills stay in --folder. A drill is decided by its kind, its number and the seed. The kinds take
turns, and no drill starts after `minutes`; the table says how many of the wanted ones were done. The first that needs
it makes the undisturbed run, which takes some minutes; a --folder that has one is used again.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from absl import app, flags, logging

from benchmarks.drills.kinds import KINDS, run
from benchmarks.drills.outcomes import table

_SEED = flags.DEFINE_integer("seed", 0, "Decides where each drill strikes.")
_MINUTES = flags.DEFINE_float("minutes", 30.0, "No drill starts after so many minutes.", lower_bound=0.0)
_ONLY = flags.DEFINE_list("only", [], f"Kinds of drills, of {', '.join(kind.name for kind in KINDS)}; all if empty.")
_FIRST = flags.DEFINE_integer("first", 0, "The number of the first drill of each kind.", lower_bound=0)
_COUNT = flags.DEFINE_integer(
    "count", 0, "How many drills of each kind; 0: as many as make a whole set.", lower_bound=0
)
_FOLDER = flags.DEFINE_string("folder", "", "Where the runs lie; a temporary folder if empty.")


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax logs every call
    unknown = set(_ONLY.value) - {kind.name for kind in KINDS}
    if unknown:
        raise SystemExit(f"drills: --only={','.join(sorted(unknown))} is none of {', '.join(k.name for k in KINDS)}")
    kinds = [kind for kind in KINDS if not _ONLY.value or kind.name in _ONLY.value]
    folder = Path(_FOLDER.value or tempfile.mkdtemp(prefix="drills"))
    tallies = run(kinds, _SEED.value, _MINUTES.value, _FIRST.value, _COUNT.value, folder)
    lost = sum(tally.lost for tally in tallies)
    print(table(tallies))
    counted = {
        tally.kind.name: {"drills": len(tally.outcomes), "struck": tally.count, "lost": tally.lost} for tally in tallies
    }
    print(json.dumps({"benchmark": "drills", "seed": _SEED.value, "lost": lost, **counted}))
    if lost:
        raise SystemExit(f"drills: {lost} lost or forged; the workdirs are in {folder}")
    if not _FOLDER.value:
        shutil.rmtree(folder)


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
