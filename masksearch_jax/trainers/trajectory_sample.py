"""The sample of DAPO's episodes that is kept for reading, in W/dapo/trajectories.

Enters: the groups of each rollout batch, then the updates that trained on them. Leaves: a database of episodes
(trajectories/store.py). Groups are chosen by a hash of their id, and kept whole, so that the samples of a prompt can be
compared. The same groups are chosen on every process and after a resume. Nothing here changes what is trained.
"""

import codecs
import collections
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from masksearch_jax.data.records import Task
from masksearch_jax.data.token_permutation import TokenPermutation
from masksearch_jax.rl import rewards
from masksearch_jax.rl.update_batch import UpdateBatch
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.runtime import distributed
from masksearch_jax.runtime.types import ConfigSection
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.trainers import rollout_batch
from masksearch_jax.trajectories.episode import Episode, pack_arrays
from masksearch_jax.trajectories.store import FILE, FOLDER, EpisodeStore

_log = logging.getLogger(__name__)

# Index of the values of a sequence's sampled tokens in an array [M, R, T].
Place: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


class TrajectorySettings(Protocol):
    """The section `trajectories` of a config."""

    rate: float
    max_bytes: int
    after_update: bool


def is_chosen(group: int, rate: float) -> bool:
    """Return True for the groups that are kept: a share `rate` of all, by a hash of the id."""
    digest = hashlib.blake2b(group.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < rate * 2.0**64


class TrajectorySample:
    """The kept episodes of the stage in `folder`. Only process 0 writes.

    A file that cannot be written ends the keeping with a warning and not the run.
    """

    def __init__(
        self,
        cfg: ConfigSection,
        folder: Path,
        tokenizer: Tokenizer,
        augmentation: TokenPermutation | None,
        step: int,
        rollbacks: int,
    ):
        """step, rollbacks: as for `cut`, with the iteration from which the run goes on.

        Raises ValueError for a bad file. Where SQLite cannot write at all, as on some network file systems, nothing is
        kept.
        """
        settings: TrajectorySettings = cfg.trajectories
        self._rate, self._after_update = settings.rate, settings.after_update
        self._seed, self._clip = cfg.seed, (1.0 - cfg.dapo.clip_low, 1.0 + cfg.dapo.clip_high)
        self._source, self._tokenizer, self._augmentation = folder.name, tokenizer, augmentation
        self._store: EpisodeStore | None = None
        self._newest: rollout_batch.RolloutBatch | None = None
        self._folder = folder
        path = folder / FOLDER / FILE
        if distributed.primary() and (self._rate or path.exists()):
            try:
                self._store = EpisodeStore(path, settings.max_bytes)
                self._cut(self._store, step, rollbacks)
            except OSError as error:
                self._give_up(error)

    def sampled(self, step: int, batch: rollout_batch.RolloutBatch | None) -> None:
        """Keep the chosen groups that `batch` sampled in iteration `step`. A batch that was given before is skipped."""
        if batch is None or batch is self._newest:
            return
        self._newest = batch
        chosen = [(task, group) for task, group in batch.sampled if is_chosen(group.id, self._rate)]
        if chosen:
            self._write(lambda store: store.add(self._episodes(step, chosen)))

    def trained(
        self,
        step: int,
        groups: Sequence[rollout_batch.Group],
        updates: Sequence[UpdateBatch],
        logprobs: Callable[[UpdateBatch], np.ndarray],
    ) -> None:
        """Keep what iteration `step` did with the chosen of the groups that it trained on.

        logprobs: computes the log-probs [M, R, T] of an update under the new parameters. All processes have to call it
        together, so it is called for the same updates on each.
        """
        wanted = collections.defaultdict(list)
        for group in groups:
            if is_chosen(group.id, self._rate):
                for trajectory in group.trajectories:
                    wanted[_fingerprint(trajectory)].append(trajectory)
        values = []
        for update in updates if wanted else ():
            found = [(wanted[key].pop(0), place) for key, place in _sequences(update) if wanted.get(key)]
            after = logprobs(update) if found and self._after_update else None
            values += [self._trained_values(update, trajectory, place, after) for trajectory, place in found]
        if values:
            self._write(lambda store: store.set_trained(self._source, step, values))

    def cut(self, step: int, rollbacks: int) -> None:
        """Drop what was kept after iteration `step`, to which a rollback returned.

        rollbacks: how many there were. What the newest of them makes void stays in `rollback-<number>/trajectories`.
        """
        self._newest = None
        self._write(lambda store: self._cut(store, step, rollbacks))

    def _cut(self, store: EpisodeStore, step: int, rollbacks: int) -> None:
        void = self._folder / f"rollback-{rollbacks}" / FOLDER / FILE
        if rollbacks and not void.exists():  # else the rollback is finished, and a killed run left the later episodes
            store.copy_after(step, void)
        store.cut(step)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _write(self, call: Callable[[EpisodeStore], None]) -> None:
        if self._store is None:
            return
        try:
            call(self._store)
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.warning("no more trajectories are kept: %s", error)
        self.close()

    def _episodes(
        self, step: int, chosen: Sequence[tuple[Task, rollout_batch.Group]]
    ) -> Iterator[tuple[Episode, bytes]]:
        for task, group in chosen:
            texts = self._texts(group.id)
            for trajectory, reward in zip(group.trajectories, group.rewards, strict=True):
                tokens = pack_arrays(
                    {
                        "ids": np.asarray(trajectory.ids, np.int32),
                        "trainable": np.asarray(trajectory.trainable, np.uint8),
                        "sampler": np.asarray(trajectory.logprobs, np.float32),
                        "prompt": np.array([trajectory.prompt_length], np.int32),
                    },
                    texts(trajectory.ids),
                )
                yield episode_of(self._source, step, task, group, trajectory, reward), tokens

    def _texts(self, group: int) -> Callable[[np.ndarray], list[str]]:
        """Return the function from ids, as the model saw them in this group, to the text of each token."""
        token_bytes, inverse = self._tokenizer.token_bytes, None
        if self._augmentation:
            inverse = TokenPermutation.inverse(rollout_batch.permutation_of(self._augmentation, self._seed, group))

        def texts(ids: np.ndarray) -> list[str]:
            reader = codecs.getincrementaldecoder("utf-8")("replace")
            read = ids if inverse is None else inverse[ids]
            return [reader.decode(token_bytes[i]) for i in read.tolist()]

        return texts

    def _trained_values(
        self, update: UpdateBatch, trajectory: Trajectory, place: Place, after: np.ndarray | None
    ) -> tuple[int, int, float, bytes]:
        sampled = np.flatnonzero(trajectory.trainable)

        def by_token(values: np.ndarray) -> np.ndarray:
            found = np.zeros(len(trajectory.ids), np.float32)
            found[sampled] = values[place]
            return found

        old = by_token(update.old_logp)
        advantage = float(update.advantages[place][0]) if sampled.size else 0.0
        arrays = {"trainer": old}
        if after is not None:
            new = by_token(after)
            ratio = np.exp(np.clip(new - old, -20, 20))
            low, high = self._clip
            # A token outside the clip on the side that its advantage pushes it to gets no gradient any more.
            clipped = np.where((ratio > high) & (advantage > 0), 1, 0) - np.where((ratio < low) & (advantage < 0), 1, 0)
            arrays |= {"after": new, "clipped": clipped.astype(np.int8)}
        return trajectory.group, trajectory.sample, advantage, pack_arrays(arrays)


def episode_of(
    source: str, step: int, task: Task, group: rollout_batch.Group, trajectory: Trajectory, reward: rewards.Reward
) -> Episode:
    """Return a sampled trajectory and its reward as an episode of the database."""
    spans = rewards.answered_spans(trajectory, task.answers, task.text, task.answer_form)
    read = [turn.observation for turn in trajectory.turns if turn.action == "search"]
    hits = [any(answer_metrics.contains(text, golds) for text in read) for golds in task.answers]
    known = not np.isnan(reward.answer)
    return Episode(
        source=source, step=step, version=group.version, group=group.id, sample=trajectory.sample, task_id=task.id,
        task=group.task, stop=trajectory.stop.value, answer=trajectory.final_answer or "",
        score=reward.answer if known else None, format=reward.format, searches=trajectory.searches,
        tokens=trajectory.generated, hit=sum(hits) / len(hits), text=task.text,
        golds=[list(golds) for golds in task.answers], spans=spans, span_scores=list(reward.spans), span_hits=hits,
        turns=[
            {
                "action": turn.action, "text": turn.text, "query": turn.query, "passages": list(turn.hits),
                "observation": turn.observation, "error": turn.error,
            }
            for turn in trajectory.turns
        ],
        reward=reward.total if known else None, length=reward.length,
    )  # fmt: skip


def _fingerprint(trajectory: Trajectory) -> bytes:
    """Return what identifies a trajectory in an update: its ids up to the last one that was sampled, and the log-probs.

    Samples of a group that are equal in both are interchangeable, also in their advantage.
    """
    sampled = np.flatnonzero(trajectory.trainable)
    ids, logprobs = np.asarray(trajectory.ids, np.int32), np.asarray(trajectory.logprobs, np.float32)
    return ids[: sampled.max(initial=-1) + 1].tobytes() + logprobs[sampled].tobytes()


def _sequences(update: UpdateBatch) -> Iterator[tuple[bytes, Place]]:
    """Yield (fingerprint, place of its sampled tokens) of each sequence of an update, in the order of its rows."""
    for micro, row in np.ndindex(*update.segments.shape[:2]):
        numbers = np.where(update.mask[micro, row], update.target_sequences[micro, row], 0)
        for number in range(1, int(numbers.max(initial=0)) + 1):
            own = np.flatnonzero(numbers == number)
            if own.size:
                read = _path(update, micro, row, int(own[-1]))
                place = (np.full_like(own, micro), np.full_like(own, row), own)
                ids = np.append(update.ids[micro, row, read], update.targets[micro, row, own[-1]])
                logprobs = update.sampler_logp[place]
                yield ids.astype(np.int32).tobytes() + logprobs.astype(np.float32).tobytes(), place


def _path(update: UpdateBatch, micro: int, row: int, target: int) -> np.ndarray:
    """Return the indices in its row of the tokens before a target: those that its source sees."""
    if update.ends is None or update.sources is None:
        return np.arange(target - update.positions[micro, row, target], target + 1)
    source = update.sources[micro, row, target]
    return np.flatnonzero(update.ends[micro, row, : source + 1] > source)
