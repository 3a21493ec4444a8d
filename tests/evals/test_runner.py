"""Rows and means of hand-made episodes; the runner against an engine that returns them."""

import dataclasses
import json

import numpy as np
import pytest

from masksearch_jax.data.records import Task
from masksearch_jax.evals import runner
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.text import prompt, tags

PASSAGES = {0: "Karn Velith: Karn Velith lived in Oslo.", 1: "Oslo: A city of the Oslofjord.", 2: "Hamburg: A port."}


def make_task(name="t", answers=(("Oslo",), ("May 1850", "1850")), kind="ramp", form="spans"):
    text = "In the spring Karn Velith moved to [mask] in [mask]." if kind == "ramp" else "Who moved to Oslo?"
    return Task(
        id=name,
        kind=kind,
        split="test",
        prompt=[3, 4],
        targets=[5],
        answer_form=form,
        answers=[list(a) for a in answers],
        span_kinds=["name", "date"][: len(answers)],
        text=text,
        paragraph="",
        title="Karn Velith",
        passage_id=7,
        article_id=8,
    )


def search(query, *hits, observation=""):
    return Turn("search", 2, 4, f"<search> {query}</search>", query=query, hits=hits, observation=observation)


def answer(text):
    return Turn("answer", 4, 6, f"<think> x</think><answer> {text}</answer>")


def episode(*turns, stop=StopReason.ANSWER, name="t", tokens=5):
    n = 2 + tokens
    read = prompt.parse_stopped_turn(turns[-1].text) if turns else prompt.Action("invalid")  # as the episode reads it
    said = read.content if read.kind == "answer" else ""
    return Trajectory(name, 0, 0, np.arange(n), np.arange(n) >= 2, np.zeros(n), np.zeros(n, int), 2, turns, stop, said)


def row(*turns, task=None, lookup=PASSAGES.get, **more):
    return runner.score_row(task or make_task(), episode(*turns, **more), lookup)


def test_a_good_episode():
    found = row(search("Karn Velith", 0, 2), search("the karn velith!", 1), answer("in Oslo; May 1851"))
    assert found.spans == ["in Oslo", "May 1851"]
    assert found.recalls == [1.0, 0.5] and found.recall == 0.75
    assert found.f1s == pytest.approx([2 / 3, 0.5]) and found.f1 == pytest.approx(7 / 12)
    assert found.ems == [0.0, 0.0]
    assert found.format == 1.0 and found.searches == 2 and found.distinct_queries == 1 and found.tokens == 5
    # 'Oslo' stands in a passage as a word of its own, the year in none.
    assert found.hits == [True, False] and found.hit == 0.5
    assert found.stop == "answer" and found.turns[0]["passages"] == [0, 2]
    assert row(search("q", 1), answer("a; b")).hits == [True, False]
    assert row(search("q", 2), answer("a; b")).hit == 0.0


def test_without_a_lookup_the_observations_are_read():
    seen = search("q", 5, observation="<information> Oslo: since 1850</information>")
    assert row(seen, answer("a; b"), lookup=None).hits == [True, True]


@pytest.mark.parametrize(
    "turns, stop",
    [
        ((), StopReason.DEADLINE),
        ((search("Oslo; May 1850", 0),), StopReason.TURNS),
        ((answer("Oslo"),), StopReason.ANSWER),
        ((answer("[mask]; [mask]"),), StopReason.ANSWER),
        ((Turn("invalid", 2, 4, "<answer> Oslo; May 1850"),), StopReason.TURN_TOKENS),
        ((answer("Oslo; May 1850"),), StopReason.DEADLINE),
    ],
)
def test_a_missing_answer_counts_as_zero(turns, stop):
    found = row(*turns, stop=stop)
    assert found.spans is None and found.recall == found.f1 == found.em == found.format == 0.0
    assert found.recalls == [0.0, 0.0]


def test_an_invalid_turn_costs_the_format_only():
    found = row(Turn("invalid", 2, 3, "hm", error="no action"), answer("Oslo; 1850"))
    assert found.em == found.recall == 1.0 and found.format == 0.0 and found.searches == 0


def test_a_question_takes_the_whole_answer():
    task = make_task(kind="qa", answers=(("Karn Velith; Oslo",),), form="whole")
    task = dataclasses.replace(task, span_kinds=["answer"])
    assert row(answer("Karn Velith; Oslo"), task=task).em == 1.0


def test_a_benchmark_is_scored_by_its_own_rules():
    task = dataclasses.replace(make_task(kind="qa", answers=(("yes",),), form="whole"), span_kinds=["answer"])
    told = dataclasses.replace(task, benchmark="hotpotqa", details={"type": "comparison"})
    assert row(answer("yes it is"), task=task).f1 == 0.5 and row(answer("yes it is"), task=task).loose is None
    found = row(answer("yes it is"), task=told)
    assert (found.f1, found.recall, found.em, found.loose) == (0.0, 1.0, 0.0, None)
    assert (found.benchmark, found.details) == ("hotpotqa", {"type": "comparison"})
    fan = dataclasses.replace(
        task, benchmark="fanoutqa", answers=[["Oslo - 1850\nBergen - 9"]], reference={"Oslo": 1850, "Bergen": 9}
    )
    found = [row(answer("Oslo: 1,850"), task=fan), row(stop=StopReason.TURNS, task=fan)]
    assert [r.loose for r in found] == [0.5, 0.0] and found[0].recall == 0.5
    assert runner.summarise(found)["loose"] == 0.25
    assert "loose" not in runner.summarise([row(answer("yes"), task=told)])


def test_summary_by_hand():
    one, two = make_task("one", (("Oslo",),)), make_task("two")
    rows = [
        row(search("a", 0), answer("Oslo"), task=one, name="one", tokens=4),
        row(search("a"), search("b"), search("B."), answer("Bergen; 1850"), task=two, name="two", tokens=8),
        row(stop=StopReason.TURNS, task=one, name="three"),
    ]
    found = runner.summarise(rows)
    assert found["recall"] == pytest.approx(np.mean([1, 0.5, 0]))
    assert found["recall_se"] == pytest.approx(np.std([1, 0.5, 0], ddof=1) / np.sqrt(3))
    assert found["em"] == pytest.approx(np.mean([1, 0.5, 0]))
    assert found["searches"] == pytest.approx(4 / 3) and found["tokens"] == pytest.approx(17 / 3)
    assert found["distinct_queries"] == pytest.approx(1.0) and found["queries_per_mask"] == pytest.approx(2 / 3)
    assert found["by_kind"] == {"date": 1.0, "name": pytest.approx(1 / 3)}
    assert found["hit"] == pytest.approx(1 / 3) and found["format"] == pytest.approx(2 / 3)
    assert found["stops"] == {"answer": pytest.approx(2 / 3), "turns": pytest.approx(1 / 3)}
    assert found["episodes"] == 3
    assert [one.suite for one in rows] == ["ramp_1", "ramp_2", "ramp_1"]
    assert runner.summarise(rows[:1])["recall_se"] is None
    json.dumps(found, allow_nan=False)
    with pytest.raises(ValueError, match="no rows"):
        runner.summarise([])


def rows_of(**texts):
    return [row(answer(text), task=make_task(name)) for name, text in texts.items()]


def test_compare_pairs_by_task():
    before = rows_of(a="x; y", b="Oslo; y", c="x; y")
    after = rows_of(c="Oslo; y", b="Oslo; 1850", a="x; y")
    found = runner.compare(before, after)
    assert found["difference"] == pytest.approx(1 / 3) and found["episodes"] == 3
    assert found["se"] == pytest.approx(np.std([0, 0.5, 0.5], ddof=1) / np.sqrt(3))
    with pytest.raises(ValueError, match="same tasks"):
        runner.compare(before, after[:2])


def test_rows_survive_the_disk(tmp_path):
    told = dataclasses.replace(make_task(), benchmark="nq", details={"a": "b"}, answers=[["Oslo"]], answer_form="whole")
    rows = [row(search("Žižkov", 0), answer("Oslo; 1850")), row(stop=StopReason.TURNS), row(answer("Oslo"), task=told)]
    runner.write_rows(tmp_path / "deep" / "rows.jsonl", rows)
    assert runner.read_rows(tmp_path / "deep" / "rows.jsonl") == rows
    (tmp_path / "bad.jsonl").write_text('{"task_id": "x"}\n')
    with pytest.raises(ValueError, match="bad.jsonl, line 1"):
        runner.read_rows(tmp_path / "bad.jsonl")


class FakeEngine:
    """Answers every request right, and keeps what it was asked."""

    def __init__(self, rename=lambda name: name):
        self.calls, self.rename = [], rename

    def run(self, params, requests, version, seed, greedy):
        self.calls.append((params, list(requests), version, seed, greedy))
        return [episode(answer("Oslo; 1850"), name=self.rename(request.task.id)) for request in requests]


def test_evaluate_is_greedy_and_keeps_the_order():
    tasks = [make_task(f"t{i}") for i in range(5)]
    engine, done = FakeEngine(), []
    rows = runner.evaluate(engine, "params", tasks, version=3, seed=9, chunk=2, progress=done.append)
    assert [r.task_id for r in rows] == [t.id for t in tasks] and all(r.recall == 1.0 for r in rows)
    assert [(params, *rest) for params, _, *rest in engine.calls] == [("params", 3, 9, True)] * 3
    requests = [request for _, part, *_ in engine.calls for request in part]
    assert len({r.key for r in requests}) == len({r.group for r in requests}) == 5
    assert all(r.forced_search is None and r.token_permutation is None for r in requests) and done == [2, 2, 1]


def test_one_forced_search():
    task = make_task()
    assert runner.one_search_query(task) == "In the spring Karn Velith moved to in ."
    assert runner.one_search_query(task, words=2) == "moved to in ."
    assert runner.one_search_query(dataclasses.replace(task, text="<answer> [mask] x")) == "(answer) x"
    assert runner.one_search_query(make_task(kind="qa")) == "Who moved to Oslo?"
    engine = FakeEngine()
    runner.evaluate(engine, None, [task], forced_search=runner.one_search_query)
    query = engine.calls[0][1][0].forced_search
    assert query and not any(tag in query for tag in tags.ALL)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no tasks"):
        runner.evaluate(FakeEngine(), None, [])
    with pytest.raises(ValueError, match="other tasks"):
        runner.evaluate(FakeEngine(lambda name: name + "x"), None, [make_task()])


def test_numbers_are_compared_as_such_but_in_benchmarks():
    task = dataclasses.replace(make_task(kind="qa", answers=(("3.5",),), form="whole"), span_kinds=["answer"])
    for said, gold, own in (("35", "3.5", 0.0), ("5", "-5", 0.0), ("2015", "20:15", 0.0), ("−5", "-5", 1.0)):
        asked = dataclasses.replace(task, answers=[[gold]])
        ours, theirs = (row(answer(said), task=dataclasses.replace(asked, benchmark=name)) for name in ("", "nq"))
        assert (ours.recall, ours.f1, ours.em) == (own,) * 3
        # As the published script has it, right or wrong: it deletes ASCII punctuation and nothing else.
        assert (theirs.recall, theirs.f1, theirs.em) == (1.0 - own,) * 3
