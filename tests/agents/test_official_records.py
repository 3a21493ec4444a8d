"""Official records: written, read back, and read as they come."""

import copy
import dataclasses
import json

import pytest

from masksearch_jax.agents import masksearch_format
from masksearch_jax.agents.transcript import Search, Transcript, demonstration
from masksearch_jax.data.records import Task
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.text import chat_template, prompt
from masksearch_jax.text import tokenizer as tokenizer_lib

TEXT = "In [mask], Karn Velith: a smith, was born in [mask]."
PARAGRAPH = "In 1500, Karn Velith: a smith, was born in Tolm."
HITS = (Hit(1, 1, "Tolm", "Tolm is the birthplace of Karn.", 1.0), Hit(2, 2, "Karn: the smith", "Born  1500.", 0.5))
DONE = Transcript((Search("look", "Karn Velith", HITS), Search("", "Tolm", ())), "both found", "1500; Tolm")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokenizer_lib.train([f" {PARAGRAPH}"] * 20, tmp_path_factory.mktemp("official") / "t.model", vocab_size=310)


@pytest.fixture
def task(tokenizer):
    return Task(
        "7.0.2", "ramp", "train", tokenizer.encode(prompt.ramp_prompt(TEXT)), tokenizer.encode(" 1500; Tolm"), "spans",
        [["1500"], ["Tolm"]], ["link", "link"], TEXT, PARAGRAPH, "Karn Velith", -1, -1,
    )  # fmt: skip


def test_a_pair_comes_back_as_the_task_it_was(task, tokenizer):
    pair = masksearch_format.pair_of(task)
    record = json.loads(json.dumps(masksearch_format.write_pair(pair)))
    assert record["query"] == f"{TEXT}\n{masksearch_format.INSTRUCTION}" and record["answer"] == PARAGRAPH
    assert record["ext"] == {
        "mask_num": 2, "masks": ["1500", "Tolm"], "entities": ["1500", "Tolm"], "source": "wikipedia",
        "title": "Karn Velith",
    }  # fmt: skip
    assert masksearch_format.read_pair(record) == pair
    template = chat_template.open_chat_template(tokenizer, "")
    assert masksearch_format.task_of(pair, task.id, lambda text: template.encode(tokenizer, text)) == task
    with pytest.raises(masksearch_format.RecordError, match="is a question"):
        masksearch_format.pair_of(dataclasses.replace(task, kind="qa"))


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"answer": PARAGRAPH.replace("Tolm", "Vesh")}, "does not begin as the answer"),
        ({"query": TEXT.replace("[mask]", "1500", 1)}, "1 masks in query, 2 in ext.masks"),
        ({"query": "[mask] " + TEXT}, "does not begin as the answer"),
        ({"query": TEXT[:-1] + "?"}, "does not end as the answer"),
        ({"ext": {"masks": ["1500", "Tolm"], "mask_num": 3}}, "ext.mask_num=3"),
        ({"ext": {"masks": ["1500", 7], "mask_num": 2}}, "ext.masks holds"),
        ({"ext": []}, "ext is"),
        ({"query": None}, "query is 'None', str is needed"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(task, change, fault):
    with pytest.raises(masksearch_format.RecordError, match=fault):
        masksearch_format.read_pair(masksearch_format.write_pair(masksearch_format.pair_of(task)) | change)


def test_a_trajectory_comes_back_token_for_token(task, tokenizer):
    record = json.loads(json.dumps(masksearch_format.write_trajectory(masksearch_format.Trajectory(TEXT, DONE, 1.0))))
    assert [m["role"] for m in record["messages"]] == [
        "system", "user", "assistant", "function", "assistant", "function", "assistant",
    ]  # fmt: skip
    assert json.loads(record["messages"][2]["function_call"]["arguments"]) == {"queries": ["Karn Velith"]}
    back = masksearch_format.read_trajectory(record)
    assert back.text == TEXT and back.accuracy == 1.0
    assert [s.query for s in back.transcript.searches] == ["Karn Velith", "Tolm"]
    for limit in (30, 60, 200):
        limits = EpisodeLimits(4, 80, limit, 900)
        made = [demonstration("d", task, done, 1.0, limits, tokenizer) for done in (DONE, back.transcript)]
        assert made[0] == made[1] and made[0][0] is not None
    assert masksearch_format.write_trajectory(back) == record


def test_official_forms_that_ours_never_writes_are_read():
    record = masksearch_format.write_trajectory(masksearch_format.Trajectory(TEXT, DONE, None))
    call = {"name": "web_search", "arguments": {"queries": ["Karn  birth", "Tolm"]}}
    record["messages"][2] = {
        "role": "assistant", "content": "<think>\nhm\n</think>\n<search>\n...\n</search>", "function_call": call,
    }  # fmt: skip
    record["messages"][3]["content"] = "<information>\nno colon here\n</information>"
    back = masksearch_format.read_trajectory(record)
    assert back.transcript.searches[0].query == "Karn birth; Tolm" and back.transcript.searches[0].thought == "hm"
    assert back.transcript.searches[0].hits[0].text == "no colon here" and back.accuracy is None


def test_masks_that_only_the_instruction_names_do_not_count():
    asked = f"{TEXT}\n{masksearch_format.INSTRUCTION}"
    assert asked.count("[mask]") == 3
    assert masksearch_format.blanks(asked, PARAGRAPH) == masksearch_format.blanks(TEXT, PARAGRAPH) == 2
    assert masksearch_format.blanks(TEXT, "1500; Tolm") == 2 and masksearch_format.blanks("Who?", "Karn") == 0


def _broken():
    record = masksearch_format.write_trajectory(masksearch_format.Trajectory(TEXT, DONE, 1.0))
    for change, fault in (
        (lambda r: r.update(type="text"), "type is 'text'"),
        (lambda r: r["messages"].pop(), "no answer after"),
        (lambda r: r["messages"].pop(3), "message 3 is of 'assistant'"),
        (lambda r: r["messages"].pop(1), "one user message"),
        (lambda r: r["messages"][2].pop("function_call"), "message 2: .* no list of queries"),
        (lambda r: r["messages"][2]["function_call"].update(arguments="__import__('os')"), "not JSON"),
        (lambda r: r["messages"][2].update(content="<answer> x</answer>"), "message 2 .* is no <search> turn"),
        (lambda r: r["messages"][3].update(content="plain"), "message 3 holds no <information>"),
        (lambda r: r["ext"].update(response_acc="good"), "response_acc"),
    ):
        changed = copy.deepcopy(record)
        change(changed)
        yield changed, fault


@pytest.mark.parametrize("record, fault", list(_broken()))
def test_a_broken_trajectory_is_refused(record, fault):
    with pytest.raises(masksearch_format.RecordError, match=fault):
        masksearch_format.read_trajectory(record)


def test_lines_are_read_one_by_one(tmp_path, task):
    good = json.dumps(masksearch_format.write_pair(masksearch_format.pair_of(task)))
    (tmp_path / "pairs.jsonl").write_text(f"{good}\n\nnot json\n{good}\n")
    first, second, third = masksearch_format.read_lines(tmp_path / "pairs.jsonl", masksearch_format.read_pair)
    assert first == third and "pairs.jsonl, line 3" in str(second)
    with pytest.raises(FileNotFoundError, match="nothing.jsonl"):
        list(masksearch_format.read_lines(tmp_path / "nothing.jsonl", masksearch_format.read_pair))
