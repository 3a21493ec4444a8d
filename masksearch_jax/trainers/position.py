"""Where a run of DAPO stands between two iterations: what a checkpoint holds beside the train state.

A resumed run continues from it, and equals an uninterrupted one.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.data.pipeline import TaskIterator
from masksearch_jax.data.stream_fingerprint import check_fingerprint
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.trainers import rollout_batch
from masksearch_jax.trainers.stage import Saved


@dataclasses.dataclass(frozen=True)
class Position:
    """version: of the policy, which is the number of finished iterations. cursor: the place in the stream of tasks.

    phase: of the curriculum. carried: surplus groups, kept for the next rollout batch. waiting: with staleness, the
    batch that was sampled ahead.
    """

    version: int
    cursor: Mapping[str, Json]
    phase: int
    carried: Sequence[rollout_batch.Group] = ()
    waiting: Sequence[rollout_batch.Group] = ()

    @classmethod
    def of(
        cls,
        tasks: TaskIterator,
        curriculum: Curriculum,
        version: int,
        carried: Sequence[rollout_batch.Group] = (),
        waiting: Sequence[rollout_batch.Group] = (),
    ) -> "Position":
        """Return the position at which the stream of tasks is now."""
        return cls(version, tasks.get_state(), curriculum.phase(tasks.index), carried, waiting)

    def to_json(self) -> JsonObject:
        """Return all but the cursor, which a checkpoint keeps by itself, as JSON data."""
        return {
            "version": self.version,
            "phase": self.phase,
            "carried": [rollout_batch.to_json(group) for group in self.carried],
            "waiting": [rollout_batch.to_json(group) for group in self.waiting],
        }


def restore(saved: Saved, tasks: TaskIterator, curriculum: Curriculum, identity: Mapping[str, Json]) -> Position:
    """Set the stream of tasks to where the checkpoint stands, and return the position.

    identity: what has to be equal in a resumed run besides the data. Raises ValueError that names what differs.
    """
    check_fingerprint(saved.meta["data_fingerprint"], tasks.fingerprint)
    check_identity(saved.meta["identity"], identity)
    tasks.set_state(saved.cursor)
    carried, waiting = (
        [rollout_batch.from_json(group) for group in saved.meta[name]] for name in ("carried", "waiting")
    )
    return Position.of(tasks, curriculum, saved.meta["version"], carried, waiting)


def check_identity(saved: Mapping[str, Json], current: Mapping[str, Json]) -> None:
    """Raise ValueError if index, tokenizer, seed or own reward differ between checkpoint and run; it names which."""
    different = [
        f"{name}: {saved.get(name)} there, {current.get(name)} here"
        for name in {**current, **saved}
        if saved.get(name) != current.get(name)
    ]
    if different:
        raise ValueError(
            "the checkpoint was written with something else: "
            + "; ".join(different)
            + "; use another --workdir or restore it"
        )
