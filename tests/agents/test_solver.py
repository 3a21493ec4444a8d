"""Parts of the agents, each by itself."""

import dataclasses
import json

import pytest

from masksearch_jax.agents import rewriter, solver
from masksearch_jax.agents.problem import Problem
from masksearch_jax.agents.transcript import Search, Transcript, demonstration, plain, visible
from masksearch_jax.data.records import Task
from masksearch_jax.llm.chat_types import Completion, Sampling, Usage
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.text import prompt
from masksearch_jax.text import tokenizer as tokenizer_lib

TEXT = "Karn Velith was born in [mask] in [mask]."
HITS = [Hit(i, i, f"Title {i}", f"Karn Velith met {word} in the city of Tolm.", 1.0) for i, word in enumerate("abcd")]
LIMITS = EpisodeLimits(turns=3, turn_tokens=60, observation_tokens=90, total_tokens=400)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f" {TEXT}", *(f" {hit.text}" for hit in HITS)]
    return tokenizer_lib.train(texts * 20, tmp_path_factory.mktemp("solver") / "tokenizer.model", vocab_size=330)


@pytest.fixture
def task(tokenizer):
    return Task(
        "7.0.2", "ramp", "train", tokenizer.encode(prompt.ramp_prompt(TEXT)), [], "spans", [["Tolm"], ["1500"]],
        ["link", "date"], TEXT, "", "Karn Velith", 7, 7,
    )  # fmt: skip


def test_results_are_merged_in_turn_without_a_passage_twice():
    merged = rewriter.merge([[HITS[0], HITS[1]], [HITS[1], HITS[2], HITS[3]], []], 3)
    assert [hit.passage_id for hit in merged] == [0, 1, 2]
    assert [hit.passage_id for hit in rewriter.merge([[HITS[0]], [HITS[3], HITS[1], HITS[2]]], 9)] == [0, 3, 1, 2]


def test_the_fewest_queries_that_show_what_was_relied_on():
    results = [[HITS[0]], [HITS[1], HITS[2]], [HITS[3], HITS[0]]]
    seen = [[hit.text for hit in hits] for hits in results]
    texts = {hit.passage_id: hit.text for hit in HITS}
    assert solver.cover({}, results, seen) == [0]
    assert solver.cover({0: texts[0]}, results, seen) == [0]
    assert solver.cover({0: texts[0], 3: texts[3]}, results, seen) == [2]
    assert solver.cover(texts, results, seen) == [1, 2]
    seen[2][1] = "Karn"  # cut there: another query has to show it
    assert solver.cover({0: texts[0], 3: texts[3]}, results, seen) == [0, 2]


@pytest.mark.parametrize("limit", [20, 40, 60, 90, 200])
def test_visible_is_what_stands_in_the_observation(tokenizer, limit):
    shown = tokenizer.decode(prompt.observation(HITS, tokenizer, limit))
    texts = visible(HITS, tokenizer, limit)
    body = "".join(f" {h.title}: {t}" for h, t in zip(HITS, texts, strict=True) if t)
    assert shown.startswith("<information>" + body)
    assert [h.text.startswith(t) for h, t in zip(HITS, texts, strict=True)] == [True] * 4
    # Nothing is left out but a title whose text has no room.
    assert len(shown) - len(f"<information>{body}</information>") <= len(" Title 0: ")
    assert texts == [h.text for h in HITS] or limit < 200
    # A hit without a title shows its text alone.
    untitled = [dataclasses.replace(hit, title="") for hit in HITS]
    shown = tokenizer.decode(prompt.observation(untitled, tokenizer, limit))
    texts = visible(untitled, tokenizer, limit)
    assert shown == f"<information>{''.join(f' {text}' for text in texts if text)}</information>"


def test_the_form_of_answers_is_checked_and_written():
    problem = Problem("1", "ramp", TEXT, 2, "spans", 7, 7)
    assert problem.fault(["Tolm", "1500"]) == "" and problem.written(["Tolm ", "1500"]) == "Tolm; 1500"
    for wrong in (["Tolm"], ["Tolm", " "], ["Tolm; 1", "1500"], ["<answer>", "1"], ["[mask]", "1"]):
        assert problem.fault(wrong)
    whole = dataclasses.replace(problem, form="paragraph")
    assert whole.written(["Tolm", "1500"]) == "Karn Velith was born in Tolm in 1500." and not whole.fault(["a; b", "c"])
    question = Problem("2", "qa", "Who?", 1, "whole", -1, -1)
    assert question.written(["Karn; Velith"]) == "Karn; Velith" and question.fault(["a", "b"])


def test_what_an_episode_would_not_allow_is_no_demonstration(task, tokenizer):
    search = Search("look", "Karn Velith", (HITS[0],))

    def reason(done, **limits):
        made, why = demonstration("a", task, done, 1.0, dataclasses.replace(LIMITS, **limits), tokenizer)
        assert (made is None) == bool(why)
        return why

    good = Transcript((search,), "found", "Tolm; 1500")
    assert reason(good) == ""
    assert reason(Transcript((search,) * 3, "", "Tolm; 1500")) == "too_many_turns"
    assert reason(good, turn_tokens=8) == "turn_too_long"
    whole = len(demonstration("a", task, good, 1.0, LIMITS, tokenizer)[0].ids)
    assert [reason(good, total_tokens=n) for n in (whole, whole - 1, whole // 2)] == ["", "too_long", "too_long"]
    assert reason(Transcript((dataclasses.replace(search, query=" "),), "", "Tolm")) == "invalid_turn"
    assert reason(Transcript((search,), "", " ")) == "invalid_turn"


def test_tags_in_a_models_text_do_not_act(task, tokenizer):
    search = Search("</think><answer> now", "Karn </search><answer> Tolm</answer>", (HITS[0],))
    made, why = demonstration("a", task, Transcript((search,), "", "Tolm; 1500"), 1.0, LIMITS, tokenizer)
    assert why == "" and made.searches == 1
    assert plain("a <search>\n b [mask]") == "a (search) b (mask)"


class Writer:
    """Writes what it is given, one reply a request."""

    name = "writer"

    def __init__(self, *replies):
        self.replies, self.asked = [json.dumps(reply) for reply in replies], []

    def complete(self, messages, sampling, timeout_s):
        self.asked.append(messages[-1].content)
        return Completion(self.replies.pop(0), Usage(1, 1))

    def close(self):
        pass


class Library:
    """Finds the hits whose text holds a word of the query."""

    fingerprint, stats = "library", {}

    def search(self, queries, k):
        return [[hit for hit in HITS if set(query.text.split()) & set(hit.text.split())][:k] for query in queries]


def verdict(kind, useful=(), query="", answers=()):
    step = "next" if query else ""
    return {"thought": "so", "verdict": kind, "useful": list(useful), "step": step, "query": query,
            "answers": list(answers)}  # fmt: skip


def solve(tmp_path, tokenizer, problem, *replies, turns=5):
    writer = Writer({"analysis": "two hops", "step": "first", "query": "q"}, *replies)
    limits = dataclasses.replace(LIMITS, turns=turns)
    cfg = solver.AgentsConfig(3, 4, 5, 5, 2, 1, limits, Sampling())
    client = Client(writer, ClientSettings(), tmp_path / "cache")
    return solver.solve(client, problem, Library(), tokenizer, cfg), writer


QUESTION = Problem("q", "qa", "Whom did Karn meet first, whom last?", 1, "whole", -1, -1)


def test_a_question_over_two_steps(tmp_path, tokenizer):
    attempt, writer = solve(
        tmp_path, tokenizer, QUESTION,
        {"queries": ["who b", "who c"]}, verdict("continue", [2], "d"),
        {"queries": ["d"]}, verdict("answer", [1], answers=["c; d"]),
    )  # fmt: skip
    assert attempt.given == ["c; d"] and attempt.transcript.answer == "c; d" and not attempt.failure
    # Of the first step only the query that found what was relied on is a turn.
    assert [search.query for search in attempt.transcript.searches] == ["who c", "d"]
    assert [step.queries for step in attempt.steps] == [["who b", "who c"], ["d"]]
    last = writer.asked[-1]
    assert HITS[2].text in last and HITS[3].text in last and HITS[1].text not in last  # notes, and this search


def test_turns_are_bounded_and_a_bad_reply_is_told_then_named(tmp_path, tokenizer):
    again = [{"queries": ["b"]}, verdict("retry", query="b")]
    attempt, writer = solve(tmp_path / "1", tokenizer, QUESTION, *again * 3, turns=4)
    assert attempt.failure == "no_answer" and len(attempt.steps) == 3 and not writer.replies
    assert "No more searches" in writer.asked[-1] and "No more searches" not in writer.asked[-3]
    wrong = verdict("answer", [7], answers=["b"])
    attempt, writer = solve(tmp_path / "2", tokenizer, QUESTION, {"queries": ["b"]}, wrong, wrong)
    assert attempt.failure == "bad_reply" and "useful names passages [7]" in attempt.detail and attempt.steps == []
    attempt, writer = solve(
        tmp_path / "3", tokenizer, QUESTION, {"queries": ["b c d a q e"]}, {"queries": ["b"]},
        verdict("answer", answers=["b"]),
    )  # fmt: skip
    assert attempt.given == ["b"] and "more than 5" in writer.asked[2]


def test_a_paragraph_is_answered_whole(tmp_path, tokenizer):
    problem = Problem("1", "ramp", TEXT, 2, "paragraph", 7, 7)
    replies = {"queries": ["b"]}, verdict("answer", [1], answers=["Tolm", "1500"])
    attempt, _ = solve(tmp_path, tokenizer, problem, *replies)
    assert attempt.transcript.answer == "Karn Velith was born in Tolm in 1500."
