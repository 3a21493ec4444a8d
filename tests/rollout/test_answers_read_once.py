"""An answer is read once, by the episode: reward, evaluation, distillation and report agree on it.

A token may complete `</answer>` and go on: `>.`, `></`, or a whole `</answer>.`. The episode ends there, and what
stands in the token past the tag is no part of the answer.
"""

import dataclasses

import episodes
import pytest
import tiny_published

from masksearch_jax.agents import distillation
from masksearch_jax.evals import runner
from masksearch_jax.evals.report import episode_samples as shown_episodes
from masksearch_jax.prep.tasks import question_metrics
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rl import rewards
from masksearch_jax.rollout import trajectory
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.text import tags
from masksearch_jax.text.published_tokenizer import PublishedTokenizer
from masksearch_jax.trainers import rollout_batch

ANSWER = "</answer>"


@pytest.fixture(scope="module", params=["qwen", "gemma"])
def tok(request, tmp_path_factory):
    folder = tiny_published.MAKERS[request.param](tmp_path_factory.mktemp("answers") / "checkpoint")
    return PublishedTokenizer(episodes.with_tokens(folder, episodes.GOING_ON))


def closings(tok):
    """By each token that can complete the closing tag: (ids of what stands before it, the token, what goes on)."""
    for id, data in enumerate(tok.token_bytes):
        text = data.decode("utf-8", "replace")
        begin, tag_end, rest = text.partition(">")
        head = begin + tag_end
        if tag_end and id not in tok.end_ids and (ANSWER.endswith(head) or head == ANSWER):
            yield tok.encode("<answer> Oslo" + ANSWER[: -len(head)]), id, rest


def played(tok, last):
    turns = [tok.encode("<think> where</think><search> Karn</search>"), last]
    return episodes.play(tok, turns, lambda query: [Hit(1, 1, "Karn", "Karn lived in Oslo.", 1.0)]).trajectory


def judged_everywhere(one, task):
    """(format, answer) by reward, by evaluation, by distillation, by the report."""
    cfg = rewards.RewardConfig(answer="em")
    reward = rewards.score(one, task.answers, task.text, task.answer_form, cfg)
    row = runner.score_row(task, one)
    ((reason, recall),) = distillation.judged([(task, one)], floor=1.0)
    shown = shown_episodes.episode(row, "x").turns[-1]
    return [
        (reward.format, reward.answer),
        (row.format, row.em),
        (float(not reason), recall),
        (float(not shown.written), float(shown.answer == task.answers[0][0])),
    ]


def test_tokens_that_close_the_tag_and_go_on(tok):
    task, rests = episodes.task(), set()
    for before, last, rest in closings(tok):
        one = played(tok, [*before, last])
        assert one.stop == StopReason.ANSWER and one.well_formed
        assert one.answer == one.final_answer == "Oslo"
        assert one.turns[-1].text == f"<answer> Oslo{ANSWER}{rest}"  # as the model wrote it
        assert judged_everywhere(one, task) == [(1.0, 1.0)] * 4, tok.token(last)
        assert runner.score_row(task, one).answer == "Oslo"
        assert question_metrics.postprocess(one.turns[-1].text) == "Oslo"
        rests.add(rest)
    assert "" in rests and len(rests) >= 6, rests
    assert {"."} | {rest for rest in rests if rest.startswith("<")} <= rests


def test_what_the_tag_is_followed_by_does_not_reach_the_thought(tok):
    one = played(tok, [*tok.encode("<think> so</think><answer> Oslo"), tok.id("</answer><search> x</search>")])
    row = runner.score_row(episodes.task(), one)
    assert row.em == 1.0 and row.searches == 1
    turn = shown_episodes.episode(row, "x").turns[-1]
    assert (turn.thought, turn.answer, turn.query, turn.written) == ("so", "Oslo", "", "")
    one = played(tok, [*tok.encode("<think> so</think><search> Karn"), tok.id("</search>.")])
    assert one.stop == StopReason.DEADLINE and one.turns[-1].query == "Karn"
    assert runner.score_row(episodes.task(), one).queries == ["Karn", "Karn"]


def test_the_answer_travels_with_the_trajectory(tok):
    before, last, _ = next(found for found in closings(tok) if found[2] == ".")
    one = played(tok, [*before, last])
    (back,) = trajectory.from_bytes(trajectory.to_bytes({0: one})).values()
    assert back.answer == back.final_answer == "Oslo"
    reward = rewards.Reward(1.0, 1.0, 0.0, 1.1, 1.1, (1.0,))
    group = rollout_batch.Group(0, 0, 1, (one,), (reward,))
    assert rollout_batch.from_json(rollout_batch.to_json(group)).trajectories[0].final_answer == "Oslo"


def test_a_text_that_only_looks_like_an_answer_is_none(tok):
    """The readers believe the episode, never the text of a turn."""
    task = episodes.task()
    for text, stop in (
        (f"<answer> Oslo{ANSWER}", StopReason.DEADLINE),
        ("<answer> Oslo", StopReason.ANSWER),
        (f"<answer> Bergen{ANSWER}", StopReason.ANSWER),
    ):
        one = played(tok, tok.encode(f"<answer> Oslo{ANSWER}"))
        kept = "Oslo" if "Bergen" in text or stop == StopReason.DEADLINE else ""
        one = dataclasses.replace(
            one, turns=(*one.turns[:-1], dataclasses.replace(one.turns[-1], text=text)), stop=stop, answer=kept
        )
        right = float(one.final_answer == "Oslo")
        assert [found[1] for found in judged_everywhere(one, task)[:3]] == [right] * 3


@pytest.mark.parametrize(
    "output, answer",
    [
        (tags.block(tags.ANSWER, "Oslo"), "Oslo"),
        (f"<think> x</think>{tags.block(tags.ANSWER, 'Oslo')} and on", "Oslo"),
        ("no answer", ""),
        ("<answer> Oslo", ""),
        ("<answer></answer>", ""),
        ("<answer> <search> q</search></answer>", ""),
        ("<search> Oslo</search>", ""),
    ],
)
def test_outputs_of_seqio_are_read_by_the_same_rule(output, answer):
    assert question_metrics.postprocess(output) == answer
