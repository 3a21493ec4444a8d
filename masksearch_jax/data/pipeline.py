"""From ArrayRecord files to packed batches (SFT) or tasks (RL), resumable at any point to the bit.

Enters: files of `records.Demonstration` or `records.Task`, one list of epoch files per mask level, and a curriculum.
Leaves: Grain iterators. One global cursor counts the examples drawn; the curriculum turns it into a level, each level
has a cursor of its own, and cursor c of a level reads epoch file e mod E in a permutation of its own per (level,
epoch). The state is these integers. Batches are global: a host takes its rows. Left out: worker processes and read
threads, which are slower here than none (the work is Python) and would put their number into the state.
"""

import bisect
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from masksearch_jax.data import packing, records
from masksearch_jax.data.augment import PiecePermutation
from masksearch_jax.data.curriculum import QUESTIONS, Curriculum, level_name, task_folder
from masksearch_jax.data.fingerprint import fingerprint

# Keeps the shuffle seeds apart from other streams that are keyed by the same integers.
_SHUFFLE_STREAM = 0x73687566
# As Grain's own shuffle: a permutation that is computed, not stored, so that any position costs the same.
_SHUFFLE_ROUNDS = 4
_EPOCH_FILE = re.compile(r"epoch_(\d+)\.array_record")  # or its shards, see records.files


class Drawn(NamedTuple):
    """One example: its global index, the level and epoch it came from, and the record's bytes."""

    index: int
    level: int
    epoch: int
    data: bytes


class _LevelFiles:
    """The epoch files of one level as one endless sequence: epoch e is file e mod E, shuffled by (seed, level, e).

    share: of each file, rounded up, that counts: its first records."""

    def __init__(self, level: int, files: Sequence[Path], seed: int, share: float = 1.0):
        self._level, self._seed, self._paths = level, seed, list(files)
        self._sources = [grain.sources.ArrayRecordDataSource([str(f) for f in records.files(path)]) for path in files]
        self._sizes = [math.ceil(share * len(source)) for source in self._sources]
        self._ends = list(itertools.accumulate(self._sizes))
        empty = [str(path) for path, source in zip(files, self._sources, strict=True) if len(source) == 0]
        if empty:
            raise ValueError(f"level {level}: no records in {', '.join(empty)}; prepare the data again")

    @property
    def size(self) -> int:
        return self._ends[-1]

    def read(self, cursor: int) -> tuple[int, bytes]:
        """Returns (epoch, record) at position `cursor` of the endless sequence."""
        cycle, within = divmod(cursor, self._ends[-1])
        number = bisect.bisect_right(self._ends, within)
        epoch = cycle * len(self._sources) + number
        start = self._ends[number - 1] if number else 0
        source = self._sources[number]
        # Seeds are not negative, and level -1 is.
        key = np.random.SeedSequence([_SHUFFLE_STREAM, self._seed, self._level % (1 << 32), epoch])
        shuffled = grain.experimental.index_shuffle(
            within - start,
            max_index=self._sizes[number] - 1,
            seed=int(key.generate_state(1)[0]),
            rounds=_SHUFFLE_ROUNDS,
        )
        try:
            return epoch, source[shuffled]
        except RuntimeError as error:
            raise records.damaged(self._paths[number], f"record {shuffled}", error) from error


class _Draws:
    """The stream of examples behind both iterators; `peek` lets a batch stop before one that is too much."""

    def __init__(self, files: Mapping[int, Sequence[Path]], curriculum: Curriculum, seed: int, share: float = 1.0):
        for level in curriculum.levels:
            if not files.get(level):
                raise ValueError(f"the curriculum draws from level {level}; there are files for {sorted(files)} only")
        self._curriculum, self._seed = curriculum, seed
        self._levels = {level: _LevelFiles(level, files[level], seed, share) for level in curriculum.levels}
        self.index = 0
        self._cursors = dict.fromkeys(curriculum.levels, 0)

    def peek(self) -> Drawn:
        level = self._curriculum.level(self._seed, self.index)
        epoch, data = self._levels[level].read(self._cursors[level])
        return Drawn(self.index, level, epoch, data)

    def advance(self, drawn: Drawn) -> None:
        self.index += 1
        self._cursors[drawn.level] += 1

    def size(self, level: int) -> int:
        """Records of a level, all epochs of it."""
        return self._levels[level].size

    def get_state(self) -> dict[str, Any]:
        return {"index": self.index, "cursors": {str(level): cursor for level, cursor in self._cursors.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        cursors = {int(level): int(cursor) for level, cursor in state["cursors"].items()}
        if set(cursors) != set(self._cursors) or sum(cursors.values()) != int(state["index"]):
            raise ValueError(f"data state {dict(state)} is not one of a curriculum over levels {sorted(self._cursors)}")
        self.index, self._cursors = int(state["index"]), cursors


class DemonstrationIterator(grain.DatasetIterator):
    """Packed batches of demonstrations without end; see `demonstrations`."""

    def __init__(
        self,
        draws: _Draws,
        seed: int,
        rows: int,
        row_length: int,
        augmentation: PiecePermutation | None,
        fingerprint: str,
    ):
        super().__init__()
        self._draws, self._seed = draws, seed
        self._rows, self._row_length = rows, row_length
        self._augmentation = augmentation
        self.fingerprint = fingerprint

    @property
    def index(self) -> int:
        """Examples drawn so far: the global data cursor."""
        return self._draws.index

    def __next__(self) -> dict[str, np.ndarray]:
        members: list[list[int]] = [[] for _ in range(self._rows)]
        room = [self._row_length] * self._rows
        sequences: list[dict[str, np.ndarray]] = []
        # A batch ends before the first example that fits none of its rows, and the next batch starts with it: the
        # state stays one cursor, at the price of the room that is left in the rows.
        while True:
            drawn = self._draws.peek()
            example = records.decode(records.Demonstration, drawn.data)
            packing.check_length(len(example.ids), self._row_length, example.id)
            row = packing.first_fit(room, len(example.ids))
            if row is None:
                break
            self._draws.advance(drawn)
            members[row].append(len(sequences))
            room[row] -= len(example.ids)
            sequences.append(self._sequence(drawn, example))
        batch = packing.fill(members, sequences, self._row_length, self._rows)
        segments = batch["segments"]
        return {
            "ids": batch["ids"],
            "targets": packing.of_next(batch["ids"], segments),
            "positions": batch["positions"],
            "segments": segments,
            "loss_mask": packing.of_next(batch["trainable"], segments),
            "examples": np.int32(len(sequences)),
        }

    def _sequence(self, drawn: Drawn, example: records.Demonstration) -> dict[str, np.ndarray]:
        ids = np.array(example.ids, np.int32)
        if self._augmentation is not None:
            ids = self._augmentation.draw(self._seed, drawn.index)[ids]
        return {"ids": ids, "trainable": np.array(example.trainable, bool)}

    def get_state(self) -> dict[str, Any]:
        """Returns JSON data: where the next batch starts."""
        return self._draws.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `get_state` was called; raises ValueError for the state of another curriculum."""
        self._draws.set_state(state)


class TaskIterator(grain.DatasetIterator):
    """Tasks without end; see `tasks`. left_out: how many were passed over since this iterator was made."""

    def __init__(self, draws: _Draws, fingerprint: str, room: int | None = None):
        super().__init__()
        self._draws, self._room = draws, room
        self._passed: dict[int, int] = {}  # by level: tasks passed over in a row
        self.left_out = 0
        self.fingerprint = fingerprint

    @property
    def index(self) -> int:
        """Tasks drawn so far: the global data cursor, and the index of the next task."""
        return self._draws.index

    def __next__(self) -> records.Task:
        while True:
            drawn = self._draws.peek()
            task = records.decode(records.Task, drawn.data).at(drawn.level)
            self._draws.advance(drawn)
            if self._room is None or len(task.prompt) < self._room:
                self._passed[drawn.level] = 0
                return task
            self.left_out += 1
            self._passed[drawn.level] = passed = self._passed.get(drawn.level, 0) + 1
            if passed >= self._draws.size(drawn.level):
                raise ValueError(
                    f"none of the {passed} tasks of {level_name(drawn.level)} has a prompt below {self._room} tokens, "
                    f"the last one, {task.id}, has {len(task.prompt)}: raise episode.total_tokens, cut shorter "
                    "passages (prepare.passages.words), or take the level out of the curriculum"
                )

    def get_state(self) -> dict[str, Any]:
        """Returns JSON data: which task comes next."""
        return self._draws.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `get_state` was called; raises ValueError for the state of another curriculum."""
        self._draws.set_state(state)


def demonstrations(
    files: Mapping[int, Sequence[Path | str]],
    curriculum: Curriculum,
    *,
    seed: int,
    rows: int,
    row_length: int,
    tokenizer_fingerprint: str,
    augmentation: PiecePermutation | None = None,
    share: float = 1.0,
) -> DemonstrationIterator:
    """Returns an endless iterator of packed batches for supervised training.

    files: for each level its epoch files (one file is one set, read anew in each epoch). rows, row_length: shape of
    the global batch. augmentation: permutes the pieces of each example, keyed by (seed, global index). share: of each
    file that is used, its first demonstrations.

    Each batch: ids, targets, positions, segments int32 [rows, row_length]; loss_mask bool [rows, row_length], True
    where the target is a token that the policy wrote (targets[t] = ids[t + 1] inside a segment); examples int32 [],
    how many sequences it holds. `.fingerprint` goes into the checkpoint beside `.get_state()`; compare it with
    `check_fingerprint` before `.set_state()`.

    Raises FileNotFoundError for a missing file and ValueError for a level without records or, before the first
    batch, for demonstrations longer than a row (named, with the length needed).
    """
    if rows < 1 or row_length < 2:
        raise ValueError(f"rows={rows} and row_length={row_length}: at least 1 and 2 are needed")
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: a share of the demonstrations above 0 and up to 1 is needed")
    paths = _existing(files, curriculum)
    _check_lengths(paths, row_length)
    mark = fingerprint(
        paths,
        kind="demonstrations",
        seed=seed,
        curriculum=curriculum.describe(),
        rows=rows,
        row_length=row_length,
        tokenizer=tokenizer_fingerprint,
        augmentation=augmentation.describe() if augmentation is not None else None,
        **({"share": share} if share < 1 else {}),
    )
    return DemonstrationIterator(_Draws(paths, curriculum, seed, share), seed, rows, row_length, augmentation, mark)


def tasks(
    directory: Path | str,
    split: str,
    curriculum: Curriculum,
    *,
    seed: int,
    tokenizer_fingerprint: str,
    room: int | None = None,
    refuse: bool = False,
) -> TaskIterator:
    """Returns an endless iterator of `records.Task` under one global cursor.

    room: tokens of an episode. Tasks whose prompt leaves no room in it are passed over and counted in `left_out`, by
    the task alone, so that a resumed run passes over the same ones; refuse: they are a ValueError here, which says how
    many there are, at the price of reading every task once.

    directory: the `tasks` folder that prepare wrote, `<split>/ramp_<level>/epoch_<e>.array_record` (level 0:
    `<split>/qa`). Raises FileNotFoundError for a level of the curriculum that has no files.
    """
    paths = _existing({level: task_files(directory, split, level) for level in curriculum.levels}, curriculum)
    mark = fingerprint(
        paths, kind="tasks", split=split, seed=seed, curriculum=curriculum.describe(), tokenizer=tokenizer_fingerprint
    )
    if room is not None and refuse:
        for path in (path for level_paths in paths.values() for path in level_paths):
            fitting(records.read(path, records.Task), room, refuse=True)
    return TaskIterator(_Draws(paths, curriculum, seed), mark, room)


def fitting(found: Iterable[records.Task], room: int, refuse: bool = False) -> tuple[list[records.Task], int]:
    """Returns the tasks whose prompt leaves room in an episode of `room` tokens, in order, and how many do not.

    refuse: raises ValueError that counts these, and names the longest one.
    """
    kept: list[records.Task] = []
    long: list[tuple[int, str]] = []
    for task in found:
        if len(task.prompt) < room:
            kept.append(task)
        else:
            long.append((len(task.prompt), task.id))
    if long and refuse:
        length, name = max(long)
        raise ValueError(
            f"rollout.long_prompts='refuse': {len(long)} of {len(long) + len(kept)} tasks have prompts that leave an "
            f"episode of episode.total_tokens={room} no room; the longest, task {name}, has {length} tokens. Raise "
            f"episode.total_tokens above {length}, cut shorter passages, or set rollout.long_prompts='skip'"
        )
    return kept, len(long)


def task_files(directory: Path | str, split: str, level: int | str) -> list[Path]:
    """Returns the epoch files of one level, or of the task of that name, in the order of their epochs; raises
    FileNotFoundError if there are none or one is missing. Level -2 is read from the files of level 1 (`Task.at`)."""
    folder = Path(directory) / split / (level if isinstance(level, str) else task_folder(level))
    paths = {records.unsharded(path) for path in folder.glob("*")}
    found = {int(match[1]): path for path in paths if (match := _EPOCH_FILE.fullmatch(path.name))}
    if sorted(found) != list(range(len(found))) or not found:
        asked = f", with questions that fall into the split {split!r} (--config.questions=FILE)"
        raise FileNotFoundError(
            f"{folder} should hold epoch_0.array_record, epoch_1.array_record, .. and has epochs {sorted(found)}; "
            "prepare the data with `python -m masksearch_jax.prepare`"
            + (asked if level in (0, QUESTIONS) else "")
        )
    return [found[epoch] for epoch in range(len(found))]


def _existing(files: Mapping[int, Sequence[Path | str]], curriculum: Curriculum) -> dict[int, list[Path]]:
    paths = {int(level): [Path(path) for path in files[level]] for level in files if int(level) in curriculum.levels}
    for level, level_paths in paths.items():
        for path in level_paths:
            try:
                records.files(path)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"level {level}: {error}, or with `python -m masksearch_jax.synthesize`"
                ) from None
    return paths


def _check_lengths(files: Mapping[int, Sequence[Path]], row_length: int) -> None:
    long: list[tuple[int, str]] = []
    for paths in files.values():
        for path in paths:
            for example in records.read(path, records.Demonstration):
                if len(example.ids) > row_length:
                    long.append((len(example.ids), example.id))
    if long:
        length, name = max(long)
        raise ValueError(
            f"{len(long)} demonstrations are longer than row_length={row_length}; the longest, {name}, has {length} "
            f"tokens. Raise row_length to {length}, or write shorter ones with `python -m masksearch_jax.synthesize`"
        )
