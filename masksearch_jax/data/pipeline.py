"""From ArrayRecord files to packed batches (SFT) or tasks (RL), resumable bit for bit at any point.

Enters: files of `records.Demonstration` or `records.Task`, one list of epoch files per task, and a curriculum.
Leaves: Grain iterators. One global cursor counts the examples drawn, and the curriculum maps it to a task. Each task
has its own cursor. In epoch e a task reads its file e mod E, of E files, in a permutation that is specific to (task,
epoch). The state consists of these integers. Batches are global, and each host takes its own rows.
Reading, cutting and shuffling a file are Grain's (MapDataset.source, slice, shuffle). Ours is what Grain has no
operation for: a mixture that changes from phase to phase under one cursor, and a batch that ends where the next example
fits no row. Left out: worker processes and read threads. They are slower here than none (the work is Python), and the
state would depend on their number.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import grain
import numpy as np

from masksearch_jax.data import packing, records
from masksearch_jax.data.curriculum import QUESTIONS, Curriculum, stream_id, task_folder
from masksearch_jax.data.stream_fingerprint import fingerprint
from masksearch_jax.data.token_permutation import TokenPermutation
from masksearch_jax.runtime.types import Json, JsonObject

# Keeps the shuffle seeds distinct from other random streams that are keyed by the same integers.
_SHUFFLE_STREAM = 0x73687566
_EPOCH_FILE = re.compile(r"epoch_(\d+)\.array_record")  # or its shards, see records.files


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """One example: its global index, the task and epoch that it comes from, and the bytes of its record."""

    index: int
    task: str
    epoch: int
    data: bytes


class _TaskFiles:
    """The epoch files of one task as one endless sequence: epoch e is file e mod E, shuffled by (seed, task, e).

    share: the fraction of each file that is used, its first records; their number is rounded up.
    """

    def __init__(self, task: str, files: Sequence[Path], seed: int, share: float = 1.0):
        self._stream, self._seed, self._paths = stream_id(task), seed, list(files)
        self._sources = [grain.sources.ArrayRecordDataSource([str(f) for f in records.files(path)]) for path in files]
        self._sizes = [math.ceil(share * len(source)) for source in self._sources]
        self._ends = list(itertools.accumulate(self._sizes))
        self._shuffled: tuple[int, grain.MapDataset[bytes]] | None = None  # the epoch that is being read
        empty = [str(path) for path, source in zip(files, self._sources, strict=True) if len(source) == 0]
        if empty:
            raise ValueError(f"task {task}: no records in {', '.join(empty)}; prepare the data again")

    @property
    def size(self) -> int:
        return self._ends[-1]

    def read(self, cursor: int) -> tuple[int, bytes]:
        """Return (epoch, record) at position `cursor` of the endless sequence."""
        cycle, within = divmod(cursor, self._ends[-1])
        number = bisect.bisect_right(self._ends, within)
        epoch = cycle * len(self._sources) + number
        start = self._ends[number - 1] if number else 0
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = (epoch, self._shuffle(number, epoch))
        try:
            return epoch, self._shuffled[1][within - start]
        except RuntimeError as error:
            raise records.damaged(self._paths[number], f"position {within - start} of epoch {epoch}", error) from error

    def _shuffle(self, number: int, epoch: int) -> grain.MapDataset[bytes]:
        """Return the used records of a file in the order of an epoch. Grain computes the order and stores nothing."""
        # A SeedSequence takes no negative integers, and some stream ids are negative.
        key = np.random.SeedSequence([_SHUFFLE_STREAM, self._seed, self._stream % (1 << 32), epoch])
        used = grain.MapDataset.source(self._sources[number])[: self._sizes[number]]
        return used.shuffle(seed=int(key.generate_state(1)[0]))


class _Draws:
    """The stream of examples behind both iterators. With `peek` a batch can end before an example that does not fit."""

    def __init__(self, files: Mapping[str, Sequence[Path]], curriculum: Curriculum, seed: int, share: float = 1.0):
        for task in curriculum.tasks:
            if not files.get(task):
                raise ValueError(f"the curriculum draws from task {task}; there are files for {sorted(files)} only")
        self._curriculum, self._seed = curriculum, seed
        self._files = {task: _TaskFiles(task, files[task], seed, share) for task in curriculum.tasks}
        self.index = 0
        self._cursors = dict.fromkeys(curriculum.tasks, 0)

    def peek(self) -> Drawn:
        task = self._curriculum.task(self._seed, self.index)
        epoch, data = self._files[task].read(self._cursors[task])
        return Drawn(self.index, task, epoch, data)

    def advance(self, drawn: Drawn) -> None:
        self.index += 1
        self._cursors[drawn.task] += 1

    def size(self, task: str) -> int:
        """Return the number of records of a task, over all its epoch files."""
        return self._files[task].size

    def get_state(self) -> JsonObject:
        return {"index": self.index, "cursors": dict(self._cursors)}

    def set_state(self, state: Mapping[str, Json]) -> None:
        cursors = {task: int(cursor) for task, cursor in state["cursors"].items()}
        if set(cursors) != set(self._cursors) or sum(cursors.values()) != int(state["index"]):
            raise ValueError(f"data state {dict(state)} is not one of a curriculum over tasks {sorted(self._cursors)}")
        self.index, self._cursors = int(state["index"]), cursors


class DemonstrationIterator(grain.DatasetIterator):  # type: ignore[misc]  # grain has no types
    """The endless iterator of packed batches of demonstrations; see `demonstrations`."""

    def __init__(
        self,
        draws: _Draws,
        seed: int,
        rows: int,
        row_length: int,
        augmentation: TokenPermutation | None,
        fingerprint: str,
    ):
        super().__init__()
        self._draws, self._seed = draws, seed
        self._rows, self._row_length = rows, row_length
        self._augmentation = augmentation
        self.fingerprint = fingerprint

    @property
    def index(self) -> int:
        """The number of examples drawn so far, which is the global data cursor."""
        return self._draws.index

    def __next__(self) -> dict[str, np.ndarray | np.int32]:
        members: list[list[int]] = [[] for _ in range(self._rows)]
        room = [self._row_length] * self._rows
        sequences: list[dict[str, np.ndarray]] = []
        # A batch ends before the first example that fits none of its rows, and the next batch starts with that example.
        # So the state stays one cursor, at the cost of the unused room in the rows.
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

    def get_state(self) -> JsonObject:
        """Return the position at which the next batch starts, as JSON data."""
        return self._draws.get_state()

    def set_state(self, state: Mapping[str, Json]) -> None:
        """Continue where `get_state` was called. Raises ValueError for the state of another curriculum."""
        self._draws.set_state(state)


class TaskIterator(grain.DatasetIterator):  # type: ignore[misc]  # grain has no types
    """The endless iterator of tasks; see `tasks`. left_out: the number of tasks skipped since the iterator was made."""

    def __init__(
        self,
        draws: _Draws,
        fingerprint: str,
        room: int | None = None,
        only: Mapping[str, Collection[str]] | None = None,
    ):
        super().__init__()
        self._draws, self._room, self._only = draws, room, only
        self._passed: dict[str, int] = {}  # by name of the task: records skipped in a row
        self.left_out = 0
        self.fingerprint = fingerprint

    @property
    def index(self) -> int:
        """The number of tasks drawn so far, which is the global data cursor and the index of the next task."""
        return self._draws.index

    def __next__(self) -> records.Task:
        while True:
            drawn = self._draws.peek()
            task = records.decode(records.Task, drawn.data).as_task(drawn.task)
            self._draws.advance(drawn)
            wanted = self._only is None or task.id in self._only[drawn.task]
            if wanted and (self._room is None or len(task.prompt) < self._room):
                self._passed[drawn.task] = 0
                return task
            self.left_out += wanted
            self._passed[drawn.task] = passed = self._passed.get(drawn.task, 0) + 1
            # Each epoch has an order of its own, so two draws of a task may lie almost two epochs apart.
            size = self._draws.size(drawn.task)
            if passed >= 2 * size:
                chosen = "" if self._only is None else f" that is one of the {len(self._only[drawn.task])} chosen ones"
                raise ValueError(
                    f"none of the {size} tasks of {drawn.task}{chosen} has a prompt below {self._room} tokens, "
                    f"the last one, {task.id}, has {len(task.prompt)}: raise episode.total_tokens, cut shorter "
                    f"passages (prepare.passages.words), or take {drawn.task} out of the curriculum"
                )

    def get_state(self) -> JsonObject:
        """Return the position of the next task, as JSON data."""
        return self._draws.get_state()

    def set_state(self, state: Mapping[str, Json]) -> None:
        """Continue where `get_state` was called. Raises ValueError for the state of another curriculum."""
        self._draws.set_state(state)


def demonstrations(
    files: Mapping[str, Sequence[Path | str]],
    curriculum: Curriculum,
    *,
    seed: int,
    rows: int,
    row_length: int,
    tokenizer_fingerprint: str,
    augmentation: TokenPermutation | None = None,
    share: float = 1.0,
) -> DemonstrationIterator:
    """Return an endless iterator of packed batches for supervised training.

    files: for each task its epoch files (a single file is read again in each epoch). rows, row_length: shape of the
    global batch. augmentation: permutes the tokens of each example, keyed by (seed, global index). share: the fraction
    of each file that is used, its first demonstrations.

    Each batch holds ids, targets, positions, segments int32 [rows, row_length]; loss_mask bool [rows, row_length], True
    where the target is a token that the policy wrote (targets[t] = ids[t + 1] inside a segment); and examples int32 [],
    the number of its sequences. `.fingerprint` belongs in the checkpoint beside `.get_state()`; compare it with
    `check_fingerprint` before `.set_state()`.

    Raises FileNotFoundError for a missing file. Raises ValueError for a task without records, for rows, row_length or
    share out of range and, before the first batch, for demonstrations longer than a row (with the length needed).
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
    only: Mapping[str, Collection[str]] | None = None,
) -> TaskIterator:
    """Return an endless iterator of `records.Task` under one global cursor.

    room: tokens of an episode. Tasks whose prompt leaves no room in an episode are skipped and counted in `left_out`.
    That depends on the task alone, so a resumed run skips the same ones. refuse: raise ValueError for such tasks here
    instead; the error says how many there are. This reads every task once. only: {task: ids}; records with other ids
    are passed over and never refused. Each task of the curriculum must have a record with one of its ids.

    directory: the `tasks` folder that `prepare` wrote, with files `<split>/<task folder>/epoch_<e>.array_record`
    (`curriculum.task_folder`: the name of the task, and ramp_1 for ramp_1_open). Raises FileNotFoundError for a task of
    the curriculum that has no files.
    """
    paths = _existing({task: task_files(directory, split, task) for task in curriculum.tasks}, curriculum)
    mark = fingerprint(
        paths,
        kind="tasks",
        split=split,
        seed=seed,
        curriculum=curriculum.describe(),
        tokenizer=tokenizer_fingerprint,
        **({} if only is None else {"only": _digest(only)}),
    )
    if room is not None and refuse:
        for name, task_paths in paths.items():
            for path in task_paths:
                found = (task.as_task(name) for task in records.read(path, records.Task))
                fitting((task for task in found if only is None or task.id in only[name]), room, refuse=True)
    return TaskIterator(_Draws(paths, curriculum, seed), mark, room, only)


def _digest(only: Mapping[str, Collection[str]]) -> str:
    """Return a hash of the ids by task."""
    return hashlib.sha256(json.dumps({task: sorted(ids) for task, ids in sorted(only.items())}).encode()).hexdigest()


def fitting(found: Iterable[records.Task], room: int, refuse: bool = False) -> tuple[list[records.Task], int]:
    """Return the tasks whose prompt leaves room in an episode of `room` tokens, in order, and how many do not.

    refuse: if any do not, raise ValueError that gives their number and names the longest one.
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


def task_files(directory: Path | str, split: str, task: str) -> list[Path]:
    """Return the epoch files of one task in the order of their epochs.

    task: a name as in a curriculum, or 'qa_<benchmark>'. 'ramp_1_open' is read from the files of 'ramp_1'
    (`Task.as_task`). Raises FileNotFoundError if there are no files or one is missing.
    """
    folder = Path(directory) / split / task_folder(task)
    paths = {records.unsharded(path) for path in folder.glob("*")}
    found = {int(match[1]): path for path in paths if (match := _EPOCH_FILE.fullmatch(path.name))}
    if sorted(found) != list(range(len(found))) or not found:
        asked = f", with questions that fall into the split {split!r} (--config.questions=FILE)"
        raise FileNotFoundError(
            f"{folder} should hold epoch_0.array_record, epoch_1.array_record, .. and has epochs {sorted(found)}; "
            "prepare the data with `python -m masksearch_jax.prepare`" + (asked if task == QUESTIONS else "")
        )
    return [found[epoch] for epoch in range(len(found))]


def _existing(files: Mapping[str, Sequence[Path | str]], curriculum: Curriculum) -> dict[str, list[Path]]:
    paths = {task: [Path(path) for path in files[task]] for task in files if task in curriculum.tasks}
    for task, task_paths in paths.items():
        for path in task_paths:
            try:
                records.files(path)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"task {task}: {error}, or with `python -m masksearch_jax.synthesize`"
                ) from None
    return paths


def _check_lengths(files: Mapping[str, Sequence[Path]], row_length: int) -> None:
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
