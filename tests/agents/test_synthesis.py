"""The agents over a scripted teacher: from tasks to demonstrations and back to what an episode would hold."""

import collections
import dataclasses
import json

import chat_server
import pytest
import scripted_teacher

from configs import sft as sft_page
from configs import synthesize as page
from masksearch_jax.data import records
from masksearch_jax.llm.chat_types import (
    AccessError,
    BudgetSpentError,
    Completion,
    TransientError,
    UnavailableError,
    Usage,
)
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.text import prompt, tags
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.workflows import synthesis_stage, training
from masksearch_jax.workflows.context import RunContext

TASKS = 60


class Teacher:
    """The scripted teacher as a backend; asked: every conversation. down_after: requests until it stops answering."""

    name = "scripted"

    def __init__(self, write=scripted_teacher.write, down_after=10**9):
        self.asked, self.write, self.left = [], write, down_after

    def complete(self, messages, sampling, timeout_s):
        self.left -= 1
        if self.left < 0:
            raise TransientError("connection refused")
        self.asked.append(messages)
        text = self.write([dataclasses.asdict(m) for m in messages])
        return Completion(text, Usage(100, 10))

    def close(self):
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("agents")
    return workdir, scripted_teacher.make_workdir(workdir, TASKS, masks=2)


@pytest.fixture
def workdir(made, tmp_path):
    (tmp_path / "data").symlink_to(made[0] / "data")
    return tmp_path


@pytest.fixture
def cfg():
    config = page.get_config("agents")
    config.synthesize.examples.update({"ramp_1": 0, "ramp_2": TASKS, "ramp_3": 0, "ramp_4": 0})
    config.synthesize.agents.workers = 4
    return config


def run(cfg, workdir, teacher, **settings):
    client = Client(teacher, ClientSettings(**settings), workdir / "llm.sqlite", sleep=lambda s: None)
    return synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"), client)


def journal(workdir, done, name="ramp_2"):
    path = workdir / "demonstrations" / "agents" / f"{name}.{done}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def demonstrations(workdir, name="ramp_2"):
    return list(records.read(workdir / "demonstrations" / f"{name}.array_record", records.Demonstration))


def test_accepted_ones_are_demonstrations_and_rejected_ones_say_why(cfg, workdir, made):
    manifest = run(cfg, workdir, Teacher())
    accepted, rejected = journal(workdir, "accepted"), journal(workdir, "rejected")
    assert sorted(line["task_id"] for line in accepted + rejected) == sorted(task.id for task in made[1])
    kinds = {task.id: scripted_teacher.kind_of(task.text) for task in made[1]}
    expected = {scripted_teacher.WRONG: "wrong", scripted_teacher.ENDLESS: "no_answer"}
    expected[scripted_teacher.PROSE] = "bad_reply"
    assert {line["task_id"]: line["rejected"] for line in rejected} == {
        id: expected[kind] for id, kind in kinds.items() if kind in expected
    }
    assert all(line["detail"] for line in rejected)
    # In the order of the tasks, not of their ends.
    by_id = {one.task_id: one for one in demonstrations(workdir)}
    assert list(by_id) == [task.id for task in made[1] if kinds[task.id] not in expected]
    assert all(one.searches == 1 + (kinds[id] == scripted_teacher.RETRIES) for id, one in by_id.items())
    reasons = collections.Counter(line["rejected"] for line in rejected)
    assert manifest["tasks"]["ramp_2"]["outcomes"] == {"accepted": len(accepted), **reasons}
    assert manifest["llm"]["requests"] > 3 * TASKS and json.loads(json.dumps(manifest)) == manifest


def test_no_more_tasks_are_tried_than_the_setting_says_and_a_later_run_goes_on(cfg, workdir, made):
    cfg.synthesize.agents.tasks = TASKS // 2
    run(cfg, workdir, Teacher())
    tried = [line["task_id"] for done in ("accepted", "rejected") for line in journal(workdir, done)]
    assert sorted(tried) == sorted(task.id for task in made[1][: TASKS // 2])
    (workdir / "demonstrations" / "manifest.json").unlink()
    cfg.synthesize.agents.tasks = 0
    run(cfg, workdir, Teacher())
    again = [line["task_id"] for done in ("accepted", "rejected") for line in journal(workdir, done)]
    # What the manifest counts are the tasks of its own run.
    (workdir / "demonstrations" / "manifest.json").unlink()
    cfg.synthesize.agents.tasks = TASKS // 2
    assert sum(run(cfg, workdir, Teacher())["tasks"]["ramp_2"]["outcomes"].values()) == TASKS // 2
    assert sorted(again) == sorted(task.id for task in made[1])


def test_a_demonstration_is_what_an_episode_would_hold(cfg, workdir, made):
    run(cfg, workdir, Teacher())
    tokenizer, searcher = tokenizer_lib.load(workdir / "data"), RunContext(cfg, workdir).searcher("train")
    tasks = {task.id: task for task in made[1]}
    for one in demonstrations(workdir):
        task = tasks[one.task_id]
        assert one.ids[: len(task.prompt)] == task.prompt
        assert tokenizer.encode(tokenizer.decode(one.ids)) == one.ids
        written = tokenizer.decode([i for i, t in zip(one.ids, one.trainable, strict=True) if t])
        turns = written.replace(tags.SEARCH[1], tags.SEARCH[1] + "\n").split("\n")
        actions = [prompt.parse_turn(turn) for turn in turns]
        assert [action.kind for action in actions] == ["search"] * one.searches + ["answer"]
        assert actions[-1].content == "; ".join(golds[0] for golds in task.answers)
        # What stands between the turns is what the tool returns to that very query.
        read = list(task.prompt)
        for action in actions[:-1]:
            query = synthesis_stage.interface.Query(action.content, task.passage_id, task.article_id)
            (hits,) = searcher.search([query], cfg.search.hits)
            assert task.passage_id not in [hit.passage_id for hit in hits]
            read += prompt.observation(hits, tokenizer, cfg.episode.observation_tokens)
        assert [i for i, t in zip(one.ids, one.trainable, strict=True) if not t] == read


def test_no_agent_but_the_judge_sees_a_gold_answer(cfg, workdir):
    """Golds that no passage states: only a leak could bring them into a prompt."""
    tasks = list(records.read(workdir / "data/tasks/train/ramp_2/epoch_0.array_record", records.Task))[:8]
    secret = [
        dataclasses.replace(t, answers=[["zqxgold"], ["zqxother"]], paragraph="zqxpar", title="zqxtitle") for t in tasks
    ]
    teacher = Teacher()
    client = Client(teacher, ClientSettings(), workdir / "llm.sqlite")
    cfg.synthesize.agents.judge = "llm"
    teacher_ = _teacher(cfg, workdir, client)
    made = [teacher_.record(task) for task in secret]
    asked = [message.content for messages in teacher.asked for message in messages]
    judged = [text for text in asked if '"correct"' in text]
    assert judged and all("zqxgold" in text for text in judged)
    assert not [text for text in asked if "zqx" in text and '"correct"' not in text]
    assert {record["rejected"] for record in made} <= {"wrong", "no_answer", "bad_reply"}


def _teacher(cfg, workdir, client):
    from masksearch_jax.agents import solver, synthesis
    from masksearch_jax.rollout.episode import EpisodeLimits
    from masksearch_jax.workflows import llm_connection

    chosen = cfg.synthesize.agents
    agents = solver.AgentsConfig(
        chosen.rewrites, chosen.passages, chosen.query_words, chosen.thought_words, chosen.reply_attempts, 1,
        EpisodeLimits(**cfg.episode.to_dict()), llm_connection.sampling(cfg.llm),
    )  # fmt: skip
    searcher, tokenizer = RunContext(cfg, workdir).searcher("train"), tokenizer_lib.load(workdir / "data")
    return synthesis.Teacher(client, searcher, tokenizer, agents, chosen.judge, chosen.judge_recall)


def test_a_run_that_was_cut_off_ends_as_one_in_one_go(cfg, workdir, tmp_path_factory, made):
    whole = tmp_path_factory.mktemp("whole")
    (whole / "data").symlink_to(made[0] / "data")
    run(cfg, whole, Teacher())
    asked = []
    for down_after in (50, 70, 10**9):
        teacher = Teacher(down_after=down_after)
        if down_after < 10**9:
            with pytest.raises(UnavailableError, match="start this line again"):
                run(cfg, workdir, teacher, retries=1)
        else:
            run(cfg, workdir, teacher, retries=1)
        asked += teacher.asked
        # As a kill in the middle of a line leaves it.
        with (workdir / "demonstrations/agents/ramp_2.accepted.jsonl").open("a") as file:
            file.write('{"task_id": "7.0')
    assert demonstrations(workdir) == demonstrations(whole)
    assert len(asked) == len({json.dumps([m.content for m in messages]) for messages in asked})  # nothing paid twice
    fewer = Teacher(down_after=0)
    cfg.synthesize.examples.ramp_2 = 10
    run(cfg, workdir, fewer)  # all of it is in the journal
    assert demonstrations(workdir) == demonstrations(whole)[:10]


def test_official_records_of_a_run_import_as_the_same_tokens(cfg, workdir, tmp_path_factory, made):
    run(cfg, workdir, Teacher())
    exported = workdir / "demonstrations" / "ramp_2.chatml.jsonl"
    (workdir / "data" / "manifest.json").write_text("{}")
    other = tmp_path_factory.mktemp("imported")
    (other / "data").symlink_to(made[0] / "data")
    lines = exported.read_text().splitlines()
    unjudged, wrong = json.loads(lines[0]), json.loads(lines[0])
    unjudged["ext"], wrong["ext"] = {}, {"response_acc": 0.5}
    (other / "given.jsonl").write_text("\n".join([json.dumps(unjudged), *lines, json.dumps(wrong), "{}"]))
    cfg.synthesize.teacher, cfg.synthesize.official.file = "official", str(other / "given.jsonl")
    manifest = synthesis_stage.run(cfg, other, None)
    assert manifest["outcomes"] == {"not_judged": 1, "accepted": len(lines), "wrong": 1, "malformed": 1}
    same = [(one.ids, one.trainable, one.searches, one.masks) for one in demonstrations(workdir)]
    assert [(one.ids, one.trainable, one.searches, one.masks) for one in demonstrations(other)] == same
    cfg.synthesize.examples.ramp_2 = 0
    with pytest.raises(ValueError, match="no record was accepted.*surplus"):
        synthesis_stage.run(cfg, other, None)


def test_a_spent_budget_ends_the_run_and_more_goes_on(cfg, workdir):
    prices = {"prompt_price": 100.0, "completion_price": 100.0}
    with pytest.raises(BudgetSpentError, match="raise llm.budget"):
        run(cfg, workdir, Teacher(), budget=1.0, **prices)
    done = len(journal(workdir, "accepted")) + len(journal(workdir, "rejected"))
    assert 0 < done < TASKS and not (workdir / "demonstrations" / "manifest.json").exists()
    manifest = run(cfg, workdir, Teacher(), budget=100.0, **prices)
    assert manifest["tasks"]["ramp_2"]["written"] == len(journal(workdir, "accepted"))


def served(cfg, workdir, server):
    """A run whose teacher stands behind a socket."""
    cfg.llm.update({"url": server.url, "model": "tiny", "retries": 0})
    cfg.synthesize.examples.ramp_2 = 20
    return synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))


@pytest.mark.parametrize(
    "status, error, change",
    [
        (402, {"message": "Insufficient Balance"}, "top up the account"),
        (400, {"message": "overdue", "code": "Arrearage", "type": "Arrearage"}, "top up the account"),
        (422, {"message": "unknown parameter: seed"}, "llm.omit"),
    ],
)
def test_a_refusal_of_every_request_ends_the_run_and_no_task_is_to_blame(cfg, workdir, made, status, error, change):
    """It begins in the middle of a run, as when the money is spent."""
    pytest.importorskip("openai")
    with chat_server.ChatServer(scripted_teacher.write) as server:
        server.refuse = lambda asked: (status, error) if len(server.asked) > 25 else None
        with pytest.raises(AccessError, match=f"{server.url}.*status {status}: {error['message']}.*{change}"):
            served(cfg, workdir, server)
        assert not any(line["rejected"] == "refused" for line in journal(workdir, "rejected"))
        done = len(journal(workdir, "accepted")) + len(journal(workdir, "rejected"))
        assert 0 < done < 20 and not (workdir / "demonstrations" / "manifest.json").exists()
        server.refuse = lambda asked: None
        if status == 422:
            cfg.llm.omit = ("seed",)
        manifest = served(cfg, workdir, server)  # goes on where it was
        assert "refused" not in manifest["tasks"]["ramp_2"]["outcomes"]
        assert manifest["tasks"]["ramp_2"]["written"] == 20


def test_a_content_filter_rejects_one_task(cfg, workdir, made):
    pytest.importorskip("openai")
    filtered = (400, {"message": "flagged", "code": "content_filter"})
    with chat_server.ChatServer(scripted_teacher.write) as server:
        text = made[1][0].text
        server.refuse = lambda asked: filtered if text in asked["messages"][1]["content"] else None
        manifest = served(cfg, workdir, server)
    (refused,) = [line for line in journal(workdir, "rejected") if line["rejected"] == "refused"]
    assert refused["task_id"] == made[1][0].id and "status 400: flagged" in refused["detail"]
    assert manifest["tasks"]["ramp_2"]["written"] == 20


def test_other_settings_over_a_journal_are_refused_by_name(cfg, workdir):
    cfg.synthesize.examples.ramp_2 = 4
    run(cfg, workdir, Teacher())
    cfg.synthesize.agents.rewrites = 2
    with pytest.raises(ValueError, match="agents was .*'rewrites': 3.*, is .*'rewrites': 2"):
        run(cfg, workdir, Teacher())


def test_demonstrations_of_another_teacher_are_not_overwritten(cfg, workdir):
    folder = workdir / "demonstrations"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"settings": {"synthesize": {"teacher": "rules"}}}))
    cfg.llm.model = "any"
    cfg.llm.url = "http://localhost:9"
    with pytest.raises(ValueError, match="holds demonstrations of synthesize.teacher='rules', and this run asks for"):
        synthesis_stage.main(cfg, workdir)


def test_teacher_and_judge_are_refused_by_name(cfg, workdir):
    cfg.synthesize.agents.judge = "nobody"
    with pytest.raises(ValueError, match="judge='nobody'"):
        run(cfg, workdir, Teacher())
    cfg.synthesize.agents.judge = "rules"
    for change, message in (
        ({"teacher": "agents"}, "synthesize.teacher='agents' asks a language model, and none is connected"),
        ({"teacher": "official"}, "synthesize.official.file='': no such file"),
        ({"teacher": "nobody"}, "teacher='nobody' is none of"),
    ):
        cfg.synthesize.update(change)
        for refuse in (synthesis_stage.validate_synthesis, training.validate_training):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                refuse(stage(cfg))


def stage(cfg):
    """The settings as a page of SFT has them."""
    found = sft_page.get_config()
    found.synthesize.update(cfg.synthesize)
    found.sft.curriculum = ((None, (("ramp_2", 1.0),)),)
    return found
