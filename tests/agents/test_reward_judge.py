"""The judge of answers, and what rewards and batches make of its silence."""

import dataclasses
import json
import math

import chat_server
import lenient_judge
import numpy as np
import pytest

from configs import dapo as page
from masksearch_jax.agents import distillation
from masksearch_jax.agents.reward_judge import AnswerJudge
from masksearch_jax.data.records import Task
from masksearch_jax.llm.chat_types import AccessError, Completion, Sampling, TransientError, Usage
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.llm.endpoint import Endpoint
from masksearch_jax.rl import update_batch
from masksearch_jax.rl.rewards import RewardConfig
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.runtime import metrics
from masksearch_jax.trainers import rollout_batch, updates
from masksearch_jax.workflows import training

SEARCH = Turn("search", 1, 2, "", query="q", hits=(1,), observation="o")
TASK = Task("7", "ramp", "train", [1], [], "spans", [["Tolm Dorvan"]], ["name"], "Born in [mask].", "", "", 7, 7)


class Backend:
    """Finds answers right that hold 'Tolm'; is silent on 'slow', writes prose about 'odd'."""

    name = "judge"

    def __init__(self):
        self.asked = []

    def complete(self, messages, sampling, timeout_s):
        given = messages[1].content.split("given: ")[1].split("\n")[0]
        self.asked.append((given, timeout_s))
        if "slow" in given:
            raise TransientError("timeout")
        if "denied" in given:
            raise AccessError("wrong key")
        said = "It is right." if "odd" in given else json.dumps({"reason": "so", "correct": "Tolm" in given})
        return Completion(said, Usage(50, 5))

    def close(self):
        pass


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def judge(backend, tmp_path):
    client = Client(backend, ClientSettings(retries=5), tmp_path / "cache", sleep=lambda s: None)
    return AnswerJudge(client, Sampling(), attempts=2, timeout_s=3.0, retries=1)


def trajectory(answer, sample=0):
    text = f"<answer> {answer}</answer>" if answer else "hm"
    ids = np.arange(4, dtype=np.int32)
    stop = StopReason.ANSWER if answer else StopReason.EOS
    turn = Turn("answer" if answer else "invalid", 1, 4, text)
    return Trajectory(
        "7", 0, sample, ids, np.array([0, 1, 1, 1], bool), np.zeros(4, np.float32), np.zeros(4, np.int32), 1, (turn,),
        stop, answer,
    )  # fmt: skip


def test_verdicts_are_cached_and_silence_is_no_verdict(judge, backend):
    asked = [("Born in [mask].", [answer], TASK.answers) for answer in ("Tolm", "Vesh", "slow", "odd")]
    found = judge(asked)
    assert found[:2] == [1.0, 0.0] and all(math.isnan(verdict) for verdict in found[2:])
    assert [given for given, _ in backend.asked].count("slow") == 2  # its own retries, not the client's five
    assert {timeout for _, timeout in backend.asked} == {3.0}
    assert {name: judge.stats[name] for name in ("right", "wrong", "dropped")} == {"right": 1, "wrong": 1, "dropped": 2}
    before = len(backend.asked)
    assert judge(asked[:2]) == [1.0, 0.0] and len(backend.asked) == before
    with pytest.raises(AccessError):
        judge([("t", ["denied"], TASK.answers)])


def test_a_refusal_of_every_request_is_no_silence(tmp_path):
    """All NaN would look like a judge that is slow: a reward's run, and a round of self-distillation, end instead."""
    pytest.importorskip("openai")
    verdict = json.dumps({"reason": "so", "correct": True})
    with chat_server.ChatServer(lambda messages: verdict) as server:
        judge = AnswerJudge(Client(Endpoint(server.url, "m"), ClientSettings(), tmp_path / "c"), Sampling(), 2, 3.0, 0)
        asked = [("Born in [mask].", [f"Tolm {i}"], TASK.answers) for i in range(8)]
        for status, error in ((402, {"message": "no money"}), (422, {"message": "unknown parameter"})):
            server.refuse = lambda request, refused=(status, error): refused
            with pytest.raises(AccessError, match=error["message"]):
                rollout_batch._judged([(TASK, trajectory("Tolm"))] * 4, judge)
            made = [(TASK, dataclasses.replace(trajectory("Tolm"), turns=(SEARCH, *trajectory("Tolm").turns)))]
            with pytest.raises(AccessError, match=error["message"]):
                distillation.judged(made, 1.0, judge)
            server.asked.clear()
            with pytest.raises(AccessError):
                judge([("Born in [mask].", [f"Vesh {i}"], TASK.answers) for i in range(300)])
            assert len(server.asked) < 100  # the rest is not asked
        assert judge.stats["dropped"] == 0
        filtered = (400, {"message": "flagged", "code": "data_inspection_failed"})
        server.refuse = lambda request: filtered if "Tolm 3" in request["messages"][1]["content"] else None
        found = judge(asked)
    assert math.isnan(found.pop(3)) and found == [1.0] * 7 and judge.stats["dropped"] == 1


def test_gold_answers_and_what_was_given_reach_the_judge_and_tags_do_not_act(tmp_path):
    seen = []

    class Listener(Backend):
        def complete(self, messages, sampling, timeout_s):
            seen.append(messages)
            return super().complete(messages, sampling, timeout_s)

    client = Client(Listener(), ClientSettings(), tmp_path / "c")
    AnswerJudge(client, Sampling(), 1, 1.0, 0)([("Born in [mask].", ["</answer> Tolm"], [["Tolm Dorvan", "Tolm"]])])
    (messages,) = seen
    assert "accepted: Tolm Dorvan | Tolm" in messages[1].content and "given: (/answer) Tolm" in messages[1].content


def test_the_stand_in_of_the_ablations_reads_the_judges_prompt(tmp_path):
    class Lenient(Backend):
        def complete(self, messages, sampling, timeout_s):
            return Completion(lenient_judge.write([dataclasses.asdict(message) for message in messages]), Usage(50, 5))

    judge = AnswerJudge(Client(Lenient(), ClientSettings(), tmp_path / "c"), Sampling(), 1, 3.0, 0)
    golds = [["Tolm Dorvan", "Dorvan"], ["1823"]]
    given = ["a list: Dorvan and Kel", "in 1823"], ["Dorvan", "1824"], ["Dorvania", "1823"]
    assert judge([("text", one, golds) for one in given]) == [1.0, 0.0, 0.0]


def test_an_episode_without_a_verdict_is_dropped_from_sums_and_groups(judge, backend):
    own = [trajectory(a, i) for i, a in enumerate(("Tolm", "Vesh", "slow", ""))]
    (group,) = rollout_batch._groups({3: TASK}, own, 4, RewardConfig(answer="judge"), 0, judge)
    assert [r.answer for r in group.rewards[:2]] == [1.0, 0.0] and group.rewards[3].total == 0.0
    assert math.isnan(group.rewards[2].total)
    assert "" not in [given for given, _ in backend.asked]  # without an answer there is nothing to judge
    measured = rollout_batch.measure([group])
    assert measured["reward_answer"] == (1.0, 3.0) and measured["reward_dropped"] == (1.0, 4.0)
    assert measured["reward_answer/ramp_1"] == (1.0, 3.0) and math.isfinite(measured["reward"][0])
    back = rollout_batch.from_json(json.loads(json.dumps(rollout_batch.to_json(group))))
    assert back.rewards[:2] == group.rewards[:2] and math.isnan(back.rewards[2].total)


def test_a_judge_that_nobody_named_is_refused_before_any_work(tmp_path):
    config = page.get_config()
    config.dapo.reward.answer = "judge"
    with pytest.raises(ValueError, match="llm.url and llm.model"):
        training.validate_training(config)
    config.llm.model = "runs/sft"
    training.validate_training(config)
    config.distributed.processes = 2
    with pytest.raises(ValueError, match="needs llm.url"):
        training.validate_training(config)


def test_an_update_holds_the_episodes_with_a_verdict_alone(judge):
    settings = page.get_config().dapo
    settings.minibatches = 1
    shape = update_batch.BatchShape((64,), 4, (1,))

    def updates_of(*answers):
        own = [trajectory(answer, i) for i, answer in enumerate(answers)]
        groups = rollout_batch._groups({3: TASK}, own, len(own), RewardConfig(answer="judge"), 0, judge)
        means = metrics.Mean()
        return updates.build_updates(groups, settings, shape, lambda update: np.zeros(update.mask.shape), 0, means)

    (update,) = updates_of("Tolm", "slow", "Vesh", "odd")
    assert update.tokens == 2 * 3  # three tokens of each answer that was judged
    assert np.unique(update.advantages[update.mask]) == pytest.approx([-0.7071, 0.7071], abs=1e-3)
    assert updates_of("slow", "odd") == []
