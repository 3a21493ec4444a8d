"""A reward of the user's own, beside the format and answer parts of rewards.py.

In: a function (task, trajectory, spans) -> {part: number}, and a weight for each part. Out: the `Reward` of rewards.py
with the weighted parts added. spans: the answers that the episode filled in, in reading order, or None if its answer
does not have the form that was asked for. The function has to depend on its arguments alone: a resumed run calls it
again, and with several processes each calls it for itself; if they differ, the run ends (trainers/rollout_batch.py).
Left out: reading the function from a file (workflows/own_code.py).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from masksearch_jax.rl import rewards
from masksearch_jax.rollout.trajectory import Trajectory

_NAME = re.compile("[a-z][a-z0-9_]*")


class ScoredTask(Protocol):
    """The fields of a data.records.Task that tell what an episode was asked."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def answers(self) -> Sequence[Sequence[str]]: ...
    @property
    def answer_form(self) -> str: ...
    @property
    def details(self) -> Mapping[str, str]: ...


Score = Callable[[ScoredTask, Trajectory, Sequence[str] | None], Mapping[str, float]]


class OwnRewardError(Exception):
    """The reward function raised, or returned something that is no reward; the message names the episode."""


@dataclasses.dataclass(frozen=True)
class OwnReward:
    """A reward function. called: how messages name it (FILE:NAME). digest: sha256 of its file. weights: by part."""

    score: Score
    called: str
    digest: str
    weights: Mapping[str, float]

    def add(self, reward: rewards.Reward, task: ScoredTask, trajectory: Trajectory) -> rewards.Reward:
        """Return the reward with the parts of this function: `score` and `total` grow by weight * part.

        A part without a weight has weight 1. Raises OwnRewardError if the function raises, returns anything but finite
        numbers by name, or leaves out a part that has a weight.
        """
        parts = self._parts(task, trajectory)
        more = sum(self.weights.get(name, 1.0) * value for name, value in parts.items())
        return dataclasses.replace(reward, score=reward.score + more, total=reward.total + more, parts=parts)

    def _parts(self, task: ScoredTask, trajectory: Trajectory) -> dict[str, float]:
        spans = rewards.answered_spans(trajectory, task.answers, task.text, task.answer_form)
        episode = f"the episode of task {task.id}, sample {trajectory.sample} of group {trajectory.group}"
        try:
            found = self.score(task, trajectory, spans)
        except Exception as error:
            raise OwnRewardError(
                f"dapo.reward.file={self.called} raised {type(error).__name__}: {error}, at {episode} (answer "
                f"{trajectory.answer[:200]!r}); mend it, then start the same line again"
            ) from error
        if not isinstance(found, Mapping) or not all(map(_is_part, found.items())):
            raise OwnRewardError(
                f"dapo.reward.file={self.called} returned {found!r:.300}, at {episode}; it has to be a dict of finite "
                "numbers, by names of small letters, digits and '_'"
            )
        if missing := [name for name in self.weights if name not in found]:
            raise OwnRewardError(
                f"dapo.reward.weights has a weight for {missing[0]!r}, and dapo.reward.file={self.called} returned "
                f"{dict(found)!r:.300}, at {episode}; a part with a weight has to be returned for every episode"
            )
        return {name: float(value) for name, value in found.items()}


def read_weights(given: Sequence[str]) -> dict[str, float]:
    """Return {part: weight} of ('part=weight', ..); raise ValueError that names an entry of another form."""
    weights: dict[str, float] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not equals or not _NAME.fullmatch(name) or not math.isfinite(weight) or name in weights:
            raise ValueError(f"{entry!r} has to be part=weight, such as 'brevity=0.5', with each part once")
        weights[name] = weight
    return weights


def _is_part(item: tuple[object, object]) -> bool:
    name, value = item
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return False
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]  # whatever a user's function returned
    except (TypeError, ValueError):
        return False
