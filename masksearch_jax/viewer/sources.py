"""What a workdir holds for the viewer: databases of training, and evaluations, which are read into one.

Enters: a workdir of any workflow. Leaves: a `Run` with the paths of its databases. The rows of evaluations are read
again when their file changes, so a viewer can stay open while a run goes on.
"""

import contextlib
import dataclasses
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from masksearch_jax.evals import runner
from masksearch_jax.trajectories import store as store_lib
from masksearch_jax.trajectories.episode import Episode
from masksearch_jax.trajectories.store import FILE, FOLDER, EpisodeStore

_ROWS = "rows.jsonl"
# Folders that hold many files and no episodes.
_PASSED_OVER = {"checkpoints", "data", "demonstrations", "tensorboard", "profile", "index"}
_DEEPEST = 4  # W/seed_0/chain/evaluate/dapo
# SQLite attaches ten databases by default. The viewer needs all of its own at once.
MOST_DATABASES = 10


@dataclasses.dataclass(frozen=True)
class Database:
    """A file of episodes. source: the stage in W that it is of, '' for one that names the source of each episode."""

    path: Path
    source: str


@dataclasses.dataclass
class Run:
    """One workdir. number: 0, or 1 for the one it is compared with. problems: sentences about what cannot be read."""

    number: int
    folder: Path
    databases: list[Database] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name


class Runs:
    """The workdirs that are shown. Raises FileNotFoundError that says what to run if one holds nothing to show."""

    def __init__(self, folders: list[Path]):
        self._folders = folders
        self._temporary: dict[int, tempfile.TemporaryDirectory[str]] = {}
        self._lock = threading.Lock()
        self.found: list[Run] = []
        self.refresh()
        for run in self.found:
            if not run.databases and not any(run.folder.rglob("metrics.jsonl")) and not run.problems:
                raise FileNotFoundError(
                    f"{run.folder} holds no episodes and no metrics.jsonl; train with `python -m masksearch_jax.train "
                    f"--config=configs/dapo.py --workdir={run.folder}`, or name a workdir that was trained or evaluated"
                )

    def refresh(self) -> None:
        """Look for new databases and evaluations, and read evaluations that have changed. Threads take turns."""
        with self._lock:
            found = [self._run(number, folder) for number, folder in enumerate(self._folders)]
        databases = [one.path for run in found for one in run.databases]
        if len(databases) > MOST_DATABASES:
            raise ValueError(
                f"{len(databases)} databases of episodes, and at most {MOST_DATABASES} can be shown together; name the "
                f"workdir of one seed or round, such as {databases[-1].parent.parent}"
            )
        self.found = found

    def close(self) -> None:
        for folder in self._temporary.values():
            folder.cleanup()

    def _run(self, number: int, folder: Path) -> Run:
        run, evaluations = Run(number, folder), []
        for path in _files(folder):
            if path.name == FILE:
                if problem := store_lib.problem_of(path):
                    run.problems.append(problem)
                    continue
                # A stage folder may have been renamed, and every seed has a stage of the same name.
                stage = path.parent.parent
                run.databases.append(
                    Database(path, run.name if stage == folder else stage.relative_to(folder).as_posix())
                )
            else:
                evaluations.append(path)
        if evaluations:
            self._read_evaluations(run, evaluations)
        return run

    def _read_evaluations(self, run: Run, paths: list[Path]) -> None:
        folder = run.folder / "evaluate"
        if run.number not in self._temporary and folder.is_dir() and os.access(folder, os.W_OK):
            try:
                _fill(run, folder / FILE, paths)
                return
            except OSError:  # another viewer writes the file, for instance; it is left to that one
                pass
        folder = Path(self._temporary.setdefault(run.number, tempfile.TemporaryDirectory()).name)
        _fill(run, folder / FILE, paths)


def _fill(run: Run, database: Path, paths: list[Path]) -> None:
    """Write the rows of evaluations into `database` and add it to the run. Raises OSError if it cannot be written."""
    if store_lib.is_unusable(database):  # it holds nothing that the rows do not
        database.unlink()
    problems = []
    store = EpisodeStore(database)
    with contextlib.closing(store):
        known = store.states()
        wanted = {path.parent.relative_to(run.folder).as_posix(): path for path in paths}
        for source in known.keys() - wanted.keys():
            store.replace_source(source, [], "")
        for source, path in wanted.items():
            about = path.stat()
            state = f"{about.st_size} {about.st_mtime_ns}"
            if known.get(source) == state:
                continue
            try:
                episodes = [episode_of(source, place, row) for place, row in enumerate(runner.read_rows(path))]
            except ValueError as error:
                problems.append(str(error))
                continue
            store.replace_source(source, episodes, state)
    run.problems += problems
    run.databases.append(Database(database, ""))


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the databases of training and the rows of evaluations below a folder, in a fixed order."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_file() and (entry.name == _ROWS or (entry.name == FILE and folder.name == FOLDER)):
            yield path
        elif entry.is_dir(follow_symlinks=False) and entry.name not in _PASSED_OVER and depth < _DEEPEST:
            yield from _files(path, depth + 1)


def episode_of(source: str, place: int, row: runner.Row) -> Episode:
    """Return a row of an evaluation as an episode of the database. place: its line in the file, from 0."""
    return Episode(
        source=source, step=0, version=None, group=place, sample=0, task_id=row.task_id, task=row.suite, stop=row.stop,
        answer=row.answer, score=row.recall, format=row.format, searches=row.searches, tokens=row.tokens, hit=row.hit,
        text=row.text, golds=row.golds, spans=row.spans, span_scores=row.recalls, span_hits=row.hits, turns=row.turns,
        f1=row.f1, em=row.em,
    )  # fmt: skip
