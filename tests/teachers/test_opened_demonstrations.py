"""Demonstrations after prompts that have opened a thought: what is taught is what an episode accepts."""

import dataclasses

import episodes
import pytest
import tiny_published

from masksearch_jax.agents.transcript import Search, Transcript, demonstration
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.teachers import mask_teacher, query_writers
from masksearch_jax.text import prompt, tags
from masksearch_jax.text.chat_template import open_chat_template
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

HIT = Hit(1, 1, "Oslo", "Karn Velith came to Oslo.", 1.0)


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return PublishedTokenizer(tiny_published.reasoner(tmp_path_factory.mktemp("opened") / "r1"))


@pytest.fixture(scope="module")
def task(tok):
    one = episodes.task()
    asked = open_chat_template(tok, "auto").encode(tok, prompt.ramp_prompt(one.text).strip())
    return dataclasses.replace(one, prompt=asked)


def replayed(tok, task, made):
    """The texts of the turns that the policy would write, and the trajectory of an episode in which it does."""
    assert made.ids[: len(task.prompt)] == task.prompt and not any(made.trainable[: len(task.prompt)])
    turns, before = [], 0
    for id, trainable in zip(made.ids, made.trainable, strict=True):
        if trainable and not before:
            turns.append([])
        if trainable:
            turns[-1].append(id)
        before = trainable
    played = episodes.play(tok, turns, lambda query: [HIT], prompt=task.prompt).trajectory
    assert played.ids.tolist() == made.ids
    return [tok.decode(turn) for turn in turns], played


@pytest.mark.parametrize(
    ("thought", "written"),
    [("I look.", "I look.</think><search> Karn Velith</search>"), ("", "</think><search> Karn Velith</search>")],
)
def test_turns_of_the_agents(tok, task, thought, written):
    done = Transcript((Search(thought, "Karn Velith", (HIT,)),), "found", "Oslo")
    made, reason = demonstration("d", task, done, 1.0, EpisodeLimits(turn_tokens=200, total_tokens=2000), tok)
    assert not reason
    texts, played = replayed(tok, task, made)
    assert texts == [written, "<think> found</think><answer> Oslo</answer>"]
    assert played.well_formed and played.answer == "Oslo"


def test_an_answer_without_a_search(tok, task):
    limits = EpisodeLimits(turn_tokens=200, total_tokens=2000)
    made, _ = demonstration("d", task, Transcript((), "known", "Oslo"), 1.0, limits, tok)
    texts, played = replayed(tok, task, made)
    assert texts == ["known</think><answer> Oslo</answer>"] and played.answer == "Oslo"


def test_turns_of_the_teacher(tok, task):
    class Library:
        fingerprint = "library"

        def search(self, queries, k):
            return [[HIT] for _ in queries]

    cfg = mask_teacher.TeacherConfig(
        styles={"title": 1.0}, retry=0.0, attempts=1, evidence=0, evidence_match=0, hits=1, observation_tokens=128,
        total_tokens=2000, seed=0,
    )  # fmt: skip
    (outcome,) = mask_teacher.synthesize([task], Library(), tok, query_writers.Associations(), cfg)
    texts, played = replayed(tok, task, outcome.demonstration)
    assert len(texts) == 2 and tags.THINK[0] not in texts[0] and texts[0].count(tags.THINK[1]) == 1
    assert played.well_formed and played.turns[0].text.startswith("<think>\n") and played.answer == "Oslo"
