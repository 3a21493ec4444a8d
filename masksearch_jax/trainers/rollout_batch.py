"""One rollout batch of DAPO: sample groups, score them, and repeat until enough groups carry a signal.

In: the policy's parameters, the stream of tasks, an engine. Out: groups ordered by id, and statistics. A group's id is
the global index of its prompt in the stream, so a prompt that comes twice makes two groups. All random bits of an
episode are keyed by (group, sample) and the seed, so thread timing and batch composition change no token.
"""

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from masksearch_jax.data import pipeline, records
from masksearch_jax.data.curriculum import stream_id
from masksearch_jax.data.token_permutation import TokenPermutation
from masksearch_jax.rl import dynamic_sampling, rewards
from masksearch_jax.rl.own_reward import OwnReward
from masksearch_jax.rollout import episode_text
from masksearch_jax.rollout.engine import RolloutEngine
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.runtime import distributed
from masksearch_jax.runtime.types import Json, JsonObject, Params
from masksearch_jax.trainers.divergence import check_logprobs
from masksearch_jax.trainers.stage_settings import DapoSettings

# Keeps the token permutation of a group distinct from those that SFT draws with the same seed and index.
_PERMUTATION_STREAM = 0x64617065

# [(text of the task, answers given, accepted strings of each)] -> verdicts in [0, 1], NaN where there is none.
Judge = Callable[[Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Group:
    """G samples of one prompt. version: the policy version that wrote them. task: the name of its task."""

    id: int
    version: int
    task: str
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[rewards.Reward, ...]

    @property
    def scores(self) -> list[float]:
        """Format + answer of each sample, without the length term. Dynamic sampling reads these scores."""
        return [reward.score for reward in self.rewards]


@dataclasses.dataclass(frozen=True)
class RolloutBatch:
    """The result of `generate`.

    batch: groups to train on now. carried: surplus groups for the next rollout batch. measured: name -> (sum, count).
    stats: those of the engine, summed over the generations. example: the first episode as readable text. sampled: every
    group that was generated, kept or not, with its task.
    """

    batch: list[Group]
    carried: list[Group]
    measured: dict[str, tuple[float, float]]
    stats: dict[str, float]
    example: str = ""
    sampled: Sequence[tuple[records.Task, Group]] = ()


def generate(
    engine: RolloutEngine,
    params: Params,
    tasks: pipeline.TaskIterator,
    settings: DapoSettings,
    reward_cfg: rewards.RewardConfig,
    augmentation: TokenPermutation | None,
    carried: Sequence[Group],
    version: int,
    seed: int,
    overlap: Callable[[], bool] | None = None,
    judge: Judge | None = None,
    own_reward: OwnReward | None = None,
) -> RolloutBatch:
    """Generate groups until `settings.groups` of them carry a signal, and select the batch to train on.

    One generation is `settings.prompts` groups, and there are at most `settings.max_generations`. With
    `settings.dynamic_sampling` off every group counts. If too few groups carry a signal after the last generation, the
    batch is smaller; that is no error, because the loss is a mean over the tokens that there are. overlap: as in
    `RolloutEngine.run`. judge: scores the answers if the reward needs a judge; only process 0 calls it. own_reward: its
    parts are added to each reward. Raises DivergedError for log-probs that are not finite, OwnRewardError.
    """
    pool = {group.id: group for group in carried}
    fresh: list[Group] = []
    sampled: list[tuple[records.Task, Group]] = []
    generations, left_out, example = 0, tasks.left_out, ""
    stats: collections.Counter[str] = collections.Counter()
    while generations < settings.max_generations and (generations == 0 or len(pool) < settings.groups):
        drawn: dict[int, records.Task] = {}
        while len(drawn) < settings.prompts:
            task = next(tasks)
            drawn[tasks.index - 1] = task  # a task that was left out uses up an index too
        requests = _requests(drawn, settings.group_size, augmentation, seed)
        trajectories = engine.run(params, requests, version=version, seed=seed, greedy=False, overlap=overlap)
        check_logprobs(trajectories, version)
        stats.update(engine.stats)
        new = _groups(drawn, trajectories, settings.group_size, reward_cfg, version, judge, own_reward)
        if not example:
            task, reward = next(iter(drawn.values())), new[0].rewards[0]
            example = episode_text.trajectory_text(task, trajectories[0], f"reward {reward.total:.2f}")
        kept = (
            dynamic_sampling.keep_groups({g.id: g.scores for g in new})
            if settings.dynamic_sampling
            else [g.id for g in new]
        )
        pool |= {group.id: group for group in new if group.id in set(kept)}
        fresh += new
        sampled += zip(drawn.values(), new, strict=True)
        generations += 1
    choice = dynamic_sampling.select(
        {g.id: g.version for g in pool.values()}, settings.groups, version, settings.carry_over
    )
    measured = measure(fresh) | {
        "generations": (float(generations), 1.0),
        "kept_groups": (float(len(pool) - len(carried)), float(len(fresh))),
        "dropped_groups": (float(len(choice.dropped)), 1.0),
        "batch_groups": (float(len(choice.batch)), 1.0),
        "left_out": (float(tasks.left_out - left_out), 1.0),  # tasks whose prompts leave no room for an episode
    }
    batch, carried = ([pool[i] for i in chosen] for chosen in (choice.batch, choice.carried))
    return RolloutBatch(batch, carried, measured, dict(stats), example, sampled)


def permutation_of(augmentation: TokenPermutation, seed: int, group: int) -> np.ndarray:
    """Return the token permutation under which the group with this id is sampled."""
    return augmentation.draw(seed, _PERMUTATION_STREAM, group)


def _requests(
    drawn: Mapping[int, records.Task], group_size: int, augmentation: TokenPermutation | None, seed: int
) -> list[Request]:
    requests = []
    for index, task in drawn.items():
        permutation = permutation_of(augmentation, seed, index) if augmentation else None
        # Of masked passages, those with more masks take longer. The order of the other tasks has no meaning.
        hint = task.stream_id
        requests += [
            Request(task, index, sample, key=(index, sample), token_permutation=permutation, length_hint=hint)
            for sample in range(group_size)
        ]
    return requests


def _groups(
    drawn: Mapping[int, records.Task],
    trajectories: Sequence[Trajectory],
    group_size: int,
    reward_cfg: rewards.RewardConfig,
    version: int,
    judge: Judge | None,
    own_reward: OwnReward | None = None,
) -> list[Group]:
    groups = []
    pairs = [(task, t) for i, task in enumerate(drawn.values()) for t in trajectories[i * group_size :][:group_size]]
    verdicts: Sequence[float | None] = [None] * len(pairs)
    if reward_cfg.answer == "judge":
        verdicts = _judged(pairs, judge)
    scored = [
        rewards.score(t, task.answers, task.text, task.answer_form, reward_cfg, verdict)
        for (task, t), verdict in zip(pairs, verdicts, strict=True)
    ]
    if own_reward:
        scored = [own_reward.add(one, task, t) for one, (task, t) in zip(scored, pairs, strict=True)]
        # Processes with other rewards would train on other updates, and nothing later would notice.
        digest = hashlib.sha256(json.dumps([one.parts for one in scored], sort_keys=True).encode()).hexdigest()
        distributed.same(f"what dapo.reward.file={own_reward.called} returns", {"hash of all parts": digest})
    for number, (index, task) in enumerate(drawn.items()):
        own = slice(number * group_size, (number + 1) * group_size)
        groups.append(Group(index, version, task.task_name, tuple(trajectories[own]), tuple(scored[own])))
    return groups


def _judged(pairs: Sequence[tuple[records.Task, Trajectory]], judge: Judge | None) -> list[float]:
    """Return a verdict for each pair, NaN if there is no answer to judge or no verdict.

    All processes get the verdicts of process 0. If each asked for itself, a timeout could make them differ.
    """
    given = [rewards.answered_spans(t, task.answers, task.text, task.answer_form) for task, t in pairs]
    asked = [(task.text, spans, task.answers) for (task, _), spans in zip(pairs, given, strict=True) if spans]
    said: Sequence[float] = []
    if distributed.primary():
        assert judge is not None  # the caller gives one if the reward needs it
        said = judge(asked)
    found = np.asarray(said, np.float64)
    verdicts = iter(np.frombuffer(distributed.gather_bytes(found.tobytes())[0], np.float64).tolist())
    return [next(verdicts) if spans else math.nan for spans in given]


def measure(groups: Sequence[Group]) -> dict[str, tuple[float, float]]:
    """Return {name: (sum, count)} of rewards and behaviour over all generated samples, kept or not.

    reward_dropped: the share of samples without a verdict; reward and reward_answer leave these out.
    """
    pairs = [(t, r) for g in groups for t, r in zip(g.trajectories, g.rewards, strict=True)]
    count = float(len(pairs))
    known = [r for _, r in pairs if not math.isnan(r.answer)]
    measured = {
        "reward": (sum(r.total for r in known), float(len(known))),
        "reward_format": (sum(r.format for _, r in pairs), count),
        "reward_answer": (sum(r.answer for r in known), float(len(known))),
        "reward_dropped": (count - len(known), count),
        "reward_length": (sum(r.length for _, r in pairs), count),
        "searches": (float(sum(t.searches for t, _ in pairs)), count),
        "generated_tokens": (float(sum(t.generated for t, _ in pairs)), count),
    }
    for part in sorted({part for _, r in pairs for part in r.parts}):
        values = [r.parts[part] for _, r in pairs if part in r.parts]
        measured[f"reward_own/{part}"] = (sum(values), float(len(values)))
    for tool in sorted({turn.tool for t, _ in pairs for turn in t.turns} - {"", "search"}):
        measured[f"calls/{tool}"] = (float(sum(t.calls.get(tool, 0) for t, _ in pairs)), count)
    for reason in StopReason:
        measured[f"stop/{reason.value}"] = (float(sum(t.stop == reason for t, _ in pairs)), count)
    for task in sorted({g.task for g in groups}, key=stream_id):
        answers = [r.answer for g in groups if g.task == task for r in g.rewards if not math.isnan(r.answer)]
        measured[f"reward_answer/{task}"] = (sum(answers), float(len(answers)))
    return measured


def to_json(group: Group) -> JsonObject:
    """Return a group as JSON data, for checkpoints of carried groups.

    It is exact: a float32 is restored exactly from the decimal form of its double.
    """
    fields = dataclasses.asdict(group)
    for trajectory in fields["trajectories"]:
        for name in ("ids", "trainable", "logprobs", "versions"):
            trajectory[name] = trajectory[name].tolist()
    return fields


def from_json(fields: Mapping[str, Json]) -> Group:
    """Return the group that `to_json` wrote."""
    dtypes = {"ids": np.int32, "trainable": bool, "logprobs": np.float32, "versions": np.int32}
    trajectories = []
    for saved in fields["trajectories"]:
        arrays = {name: np.array(saved[name], dtype) for name, dtype in dtypes.items()}
        turns = tuple(Turn(**{**turn, "hits": tuple(turn["hits"])}) for turn in saved["turns"])
        trajectories.append(Trajectory(**{**saved, **arrays, "turns": turns, "stop": StopReason(saved["stop"])}))
    scored = tuple(rewards.Reward(**{**reward, "spans": tuple(reward["spans"])}) for reward in fields["rewards"])
    return Group(fields["id"], fields["version"], fields["task"], tuple(trajectories), scored)
