"""The reward of a trajectory: format + answer (+ length), scored on the masked spans (paper, section on rewards).

In: a finished trajectory and the answers that its task accepts. Out: a `Reward` with its parts. What is scored is the
answer that the episode parsed (`Trajectory.final_answer`), never the prompt, an observation or a repeated paragraph.
Left out: asking a judge. The caller does that and passes the verdict in.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.scoring import answer_metrics

ANSWER_REWARDS = ("recall", "recall_penalised", "f1", "em", "judge")


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """The settings of the reward. total = format_weight * format + answer_weight * answer + length.

    answer: 'recall'; 'recall_penalised' (recall * min(1, kappa * |gold| / |pred|)); 'f1'; 'em'; 'judge'.
    overlong_limit: the hard limit in model tokens; 0 turns the soft overlong punishment off. The punishment grows over
    the last overlong_cache tokens up to -overlong_factor. A factor of 0.5 with rewards in [0, 1] corresponds to DAPO's
    factor of 1 with rewards of +-1. file, weights: a function whose parts are added (rl/own_reward.py).
    """

    answer: str = "recall_penalised"
    kappa: float = 1.0
    format_weight: float = 0.1
    answer_weight: float = 1.0
    overlong_limit: int = 0
    overlong_cache: int = 0
    overlong_factor: float = 0.5
    file: str = ""
    weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.answer not in ANSWER_REWARDS:
            raise ValueError(f"reward.answer={self.answer!r} is none of {ANSWER_REWARDS}")
        if not self.kappa > 0:
            raise ValueError(f"reward.kappa must be positive, got {self.kappa}")
        for name in ("format_weight", "answer_weight", "overlong_factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"reward.{name} must not be negative, got {getattr(self, name)}")
        if self.overlong_limit and not 0 < self.overlong_cache <= self.overlong_limit:
            raise ValueError(
                f"reward.overlong_cache must lie in 1..overlong_limit={self.overlong_limit}, got {self.overlong_cache}"
            )


@dataclasses.dataclass(frozen=True)
class Reward:
    """The parts of a reward. format, answer: in [0, 1]. length: in [-overlong_factor, 0].

    NaN in `answer` (and so in score and total) means that the judge failed. The sample has to be dropped, not counted
    as 0. score: weighted format + answer, which dynamic sampling reads. total: score + length, which training uses.
    spans: the score of each span, whose mean is `answer` (empty without a valid answer or with a judge). parts: those
    of an own reward before their weights, which `score` and `total` hold as well (own_reward.py).
    """

    format: float
    answer: float
    length: float
    score: float
    total: float
    spans: tuple[float, ...] = ()
    parts: dict[str, float] = dataclasses.field(default_factory=dict)


def score(
    trajectory: Trajectory,
    golds: Sequence[Sequence[str]],
    masked_text: str,
    answer_form: str,
    cfg: RewardConfig,
    judged: float | None = None,
) -> Reward:
    """Return the reward of a trajectory.

    golds: accepted strings of each span in reading order (`Task.answers`). masked_text, answer_form: `Task.text` and
    `Task.answer_form`. judged: the verdict in [0, 1], or NaN if the judge failed; required if cfg.answer is 'judge'.
    The answer part is the mean over spans, or 0 unless the answer has the requested form (as many spans as masks;
    template preserved). The format part is 1 if the answer has that form and every turn was a valid action. Raises
    ValueError if a verdict is missing.
    """
    if cfg.answer == "judge" and judged is None:
        raise ValueError("reward.answer='judge' needs a verdict for every trajectory; NaN where the judge failed")
    spans = answered_spans(trajectory, golds, masked_text, answer_form)
    length = 0.0
    if cfg.overlong_limit:
        length = float(
            overlong_penalty(trajectory.generated, cfg.overlong_limit, cfg.overlong_cache, cfg.overlong_factor)
        )
    if spans is None:
        return Reward(format=0.0, answer=0.0, length=length, score=0.0, total=length)
    per_span: tuple[float, ...] = ()
    if judged is not None and cfg.answer == "judge":
        answer = float(judged)
    else:
        measure = _measure(cfg)
        per_span = tuple(measure(span, gold) for span, gold in zip(spans, golds, strict=True))
        answer = sum(per_span) / len(per_span)
    well_formed = float(trajectory.well_formed)
    total = cfg.format_weight * well_formed + cfg.answer_weight * answer
    return Reward(well_formed, answer, length, total, total + length, per_span)


def answered_spans(
    trajectory: Trajectory, golds: Sequence[Sequence[str]], masked_text: str, answer_form: str
) -> list[str] | None:
    """Return the spans that the trajectory's answer fills in, or None if it does not have the requested form."""
    text = trajectory.final_answer
    return None if text is None else answer_metrics.spans_of(text, answer_form, masked_text, len(golds), golds)


def overlong_penalty(lengths: np.ndarray | int, limit: int, cache: int, factor: float) -> np.ndarray:
    """Return DAPO's soft overlong punishment (equation 13) times `factor`, float64, for lengths in model tokens.

    It is 0 up to limit - cache, falls linearly to -factor at `limit`, and stays there (verl's has no such floor).
    """
    lengths = np.asarray(lengths, np.float64)
    return factor * np.clip((limit - cache - lengths) / cache, -1.0, 0.0)


def _measure(cfg: RewardConfig) -> Callable[[str, Sequence[str]], float]:
    if cfg.answer == "recall_penalised":
        return lambda pred, golds: answer_metrics.recall_with_length_penalty(pred, golds, cfg.kappa)
    return {"recall": answer_metrics.token_recall, "f1": answer_metrics.f1, "em": answer_metrics.exact_match}[
        cfg.answer
    ]
