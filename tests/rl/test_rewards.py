"""Rewards on spans: leakage and parsing cases, the copy exploit, V3 of the reference vectors."""

import math

import numpy as np
import pytest

from masksearch_jax.rl import rewards
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.scoring import answer_metrics

GOLDS = [["Oslo"], ["May 1850", "5/1850"]]
TEXT = "He moved to [mask] in [mask]."
CONFIG = rewards.RewardConfig(answer="recall", format_weight=0.1)


def episode(*turns, stop=StopReason.ANSWER, tokens=10, answer="Oslo; May 1850"):
    """A trajectory whose turns are (action, text); the tokens do not matter here beyond their number."""
    return Trajectory(
        task_id="t", group=0, sample=0, ids=np.arange(tokens + 2), trainable=np.arange(tokens + 2) >= 2,
        logprobs=np.zeros(tokens + 2, np.float32), versions=np.zeros(tokens + 2, np.int32), prompt_length=2,
        turns=tuple(Turn(action, 0, 1, text, observation="<information> <answer> Oslo; May 1850</answer></information>")
                    for action, text in turns),
        stop=stop, answer=answer,
    )  # fmt: skip


def answered(text, *before, **changes):
    return episode(*before, ("answer", f"<think> x</think><answer> {text}</answer>"), answer=text.strip(), **changes)


def score(trajectory, cfg=CONFIG, form="spans", **more):
    return rewards.score(trajectory, GOLDS, TEXT, form, cfg, **more)


def test_right_answer():
    found = score(answered("Oslo; May 1850", ("search", "<search> q</search>")))
    assert found == rewards.Reward(1.0, 1.0, 0.0, 1.1, 1.1, (1.0, 1.0))
    # One span of two right; half of the other.
    assert score(answered("Bergen; 1850")).answer == pytest.approx(0.25)
    assert score(answered("Oslo; 5/1850")).answer == 1.0


def test_the_total_is_the_weighted_sum_of_its_parts():
    cfg = rewards.RewardConfig(answer="recall", format_weight=0.3, answer_weight=0.8)
    found = score(answered("Oslo; x"), cfg)
    assert (found.answer, found.score) == (0.5, pytest.approx(0.7)) and found.total == found.score
    nothing = rewards.RewardConfig(answer="recall", format_weight=0.0, answer_weight=0.0, overlong_factor=0.0)
    assert score(answered("Oslo; x"), nothing).total == 0.0


def test_answer_forms_of_the_reward():
    wordy = answered("Oslo x y z; May 1850")
    of = lambda name, **more: score(wordy, rewards.RewardConfig(answer=name, **more)).spans  # noqa: E731
    assert of("recall") == (1.0, 1.0)
    assert of("recall_penalised", kappa=1.0) == (0.25, 1.0)
    assert of("recall_penalised", kappa=3.0) == (0.75, 1.0)
    assert of("f1") == pytest.approx((0.4, 1.0))
    assert of("em") == (0.0, 1.0)


@pytest.mark.parametrize(
    "trajectory",
    [
        # The episode read no answer, whatever the texts of its turns and observations hold.
        episode(stop=StopReason.TURNS, answer=""),
        episode(("search", "<search> q</search>"), stop=StopReason.TURNS, answer=""),
        episode(("invalid", "<answer> Oslo; May 1850"), stop=StopReason.TURN_TOKENS, answer=""),
        episode(("invalid", "text <answer> Oslo; May 1850</answer>"), stop=StopReason.TURNS, answer=""),
        episode(("answer", "<answer> Oslo; May 1850</answer>"), answer=""),
        # It did not end with its answer.
        episode(("answer", "<answer> Oslo; May 1850</answer>"), stop=StopReason.DEADLINE),
        answered("Oslo"),  # wrong number of spans
        answered("Oslo; May 1850; Bergen"),
        answered("Oslo May 1850"),
        answered("; "),
        answered("[mask]; [mask]"),
    ],
)
def test_no_reward_without_a_valid_answer(trajectory):
    assert score(trajectory) == rewards.Reward(0.0, 0.0, 0.0, 0.0, 0.0)


def test_an_invalid_turn_on_the_way_costs_the_format_reward_only():
    found = score(answered("Oslo; May 1850", ("invalid", "blah")))
    assert (found.format, found.answer, found.total) == (0.0, 1.0, 1.0)


def test_copying_the_masked_paragraph_scores_nothing():
    # reference: as a bag of words the copy has 13 of the 15 tokens right.
    text = (
        "Andrew Barto (born 1948) is an American computer scientist, [mask] professor at the [mask] of "
        "Massachusetts Amherst."
    )
    golds = [["emeritus"], ["University"]]
    paragraph = text.replace("[mask]", "emeritus", 1).replace("[mask]", "University", 1)
    copied = answered(text)
    assert answer_metrics.token_recall(text, [paragraph]) == pytest.approx(13 / 15)
    assert rewards.score(copied, golds, text, "paragraph", CONFIG).total == 0.0
    assert rewards.score(answered(paragraph), golds, text, "paragraph", CONFIG).total == pytest.approx(1.1)
    half = answered(paragraph.replace("University", "College"))
    assert rewards.score(half, golds, text, "paragraph", CONFIG).answer == 0.5


def test_judge_verdict_and_its_failure():
    cfg = rewards.RewardConfig(answer="judge")
    assert score(answered("a; b"), cfg, judged=1.0).total == pytest.approx(1.1)
    failed = score(answered("a; b"), cfg, judged=math.nan)
    assert math.isnan(failed.answer) and math.isnan(failed.score) and math.isnan(failed.total)
    # Nothing to judge: a zero, whatever the judge did.
    assert score(answered("a"), cfg, judged=math.nan).total == 0.0
    with pytest.raises(ValueError, match="verdict"):
        score(answered("a; b"), cfg)
    # A setting from a command line is another string of the same letters.
    spelled = rewards.RewardConfig(answer="".join(["ju", "dge"]))
    assert score(answered("a; b"), spelled, judged=1.0).answer == 1.0
    with pytest.raises(ValueError, match="verdict"):
        score(answered("a; b"), spelled)
    # No other reward listens to a judge.
    assert score(answered("Oslo; May 1850"), judged=0.0).answer == 1.0


@pytest.mark.parametrize(
    "limit, cache, expected",
    [
        (20480, 4096, {16384: 0, 16385: -0.000244, 17408: -0.25, 18432: -0.5, 20479: -0.999756, 20480: -1, 20481: -1}),
        (100, 20, {0: 0, 80: 0, 81: -0.05, 85: -0.25, 90: -0.5, 100: -1, 101: -1, 110: -1}),
        (4096, 512, {3584: 0, 3700: -0.226562, 4096: -1}),
    ],
)
def test_v3_overlong(limit, cache, expected):
    lengths = np.array(list(expected))
    found = rewards.overlong_penalty(lengths, limit, cache, 1.0)
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-6)
    np.testing.assert_allclose(rewards.overlong_penalty(lengths, limit, cache, 0.5), found / 2)


def test_length_counts_the_policys_own_tokens_and_stays_out_of_the_score():
    cfg = rewards.RewardConfig(answer="recall", overlong_limit=100, overlong_cache=20)
    found = score(answered("Oslo; May 1850", tokens=90), cfg)
    assert (found.length, found.score, found.total) == pytest.approx((-0.25, 1.1, 0.85))
    assert score(answered("x", tokens=90), cfg).total == pytest.approx(-0.25)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"answer": "bleu"}, "reward.answer='bleu'"),
        ({"kappa": 0.0}, "reward.kappa"),
        ({"format_weight": -1.0}, "reward.format_weight"),
        ({"overlong_limit": 10}, "reward.overlong_cache"),
        ({"overlong_limit": 10, "overlong_cache": 11}, "reward.overlong_cache"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        rewards.RewardConfig(**settings)
