"""The search loop: turns, searches and sources with a scripted policy, and the tokens of the rollout engine."""

import asyncio
import contextlib

import jax
import numpy as np
import openai
import policy_server
import pytest

from masksearch_jax.model import transformer
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.engine import RolloutConfig, RolloutEngine
from masksearch_jax.rollout.episode import Ending, EpisodeLimits
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.serving import search_loop
from masksearch_jax.serving.engine import EngineSettings
from masksearch_jax.serving.search_loop import AgentSettings
from masksearch_jax.serving.session import BusyError, Piece, Sampling, Token
from masksearch_jax.text import tags

LIMITS = EpisodeLimits(turns=3, turn_tokens=24, observation_tokens=64, total_tokens=256)
HITS = [Hit(7, 1, "Tolmar", "Karn Velith was born in Tolmar.", 1.0), Hit(8, 2, "Sea", "The sea.", 0.5)]
GREEDY = Sampling(0.0, 1.0, 0)


class Searcher:
    fingerprint, stats = "x", {}

    def __init__(self):
        self.asked = []

    def search(self, queries, k):
        self.asked += [(query.text, query.passage_id, query.tool) for query in queries]
        return [HITS[:k] for _ in queries]


class ScriptedEngine:
    """Writes the given turns, in whatever session asks; keeps what was appended."""

    settings = EngineSettings(1, 4, LIMITS.total_tokens, 8)
    busy = waiting = 0

    def __init__(self, tokenizer, turns):
        self._tokenizer, self._turns, self.appended, self.open = tokenizer, list(turns), [], 0
        self.stats = {}

    @contextlib.contextmanager
    def session(self, prompt, budget, sampling, *, at_tags=False):
        assert at_tags and budget >= 1
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    async def pieces(self):
        text = self._turns.pop(0)
        ids = self._tokenizer.encode(text)
        ending = Ending.STOP if text.endswith(tags.CLOSING) else Ending.LIMIT
        yield Piece([Token(id, -1.0) for id in ids[:-1]])
        yield Piece([Token(ids[-1], -1.0)], ending)

    def write(self, ids, budget):
        self.appended.append(self._tokenizer.decode(ids))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return policy_server.tiny_policy(tmp_path_factory.mktemp("policy"))


def settings_of(tokenizer, searcher):
    return AgentSettings(lambda text: tokenizer.encode(f" {text}"), searcher, LIMITS, 2, tags.ONE_TOOL)


def play(made, turns):
    searcher, told = Searcher(), []
    engine = ScriptedEngine(made[2], turns)
    settings = settings_of(made[2], searcher)
    prompt = settings.prompt_of("Who?")
    reply = asyncio.run(search_loop.answer(engine, made[2], settings, prompt, GREEDY, told.append))
    assert engine.open == 0 and list(reply.turns) == told
    return reply, searcher, engine


def test_a_search_and_an_answer(made):
    turns = ["<think> where</think><search> Karn</search>", "<answer> Tolmar</answer>"]
    reply, searcher, engine = play(made, turns)
    assert (reply.answer, reply.stop) == ("Tolmar", StopReason.ANSWER)
    assert searcher.asked == [("Karn", -1, "search")] and reply.sources == HITS
    assert engine.appended[0].startswith("<information> Tolmar: Karn Velith was born")
    assert reply.written == sum(len(made[2].encode(turn)) for turn in turns)
    assert [one.turn.action for one in reply.turns] == ["search", "answer"]


def test_an_invalid_turn_is_corrected_and_sources_count_once(made):
    turns = ["<search> a</search>", "<search> b</search>", "words"]
    reply, searcher, engine = play(made, turns)
    assert (reply.answer, reply.stop) == ("", StopReason.TURN_TOKENS) and len(reply.sources) == 2
    reply, searcher, engine = play(made, ["words", "<answer> x</answer>"])
    assert reply.answer == "x" and "invalid:" in engine.appended[0] and not searcher.asked


def test_a_chat_completion_carries_turns_and_sources(made):
    tokenizer, turns = made[2], ["<think> where</think><search> Karn</search>", "<answer> Tolmar</answer>"]
    engine = ScriptedEngine(tokenizer, turns * 2)
    policy = policy_server.served(engine, tokenizer, settings_of(tokenizer, Searcher()))
    with policy_server.serving(policy) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "Where was Karn Velith born?"}]}
        reply = client.chat.completions.create(**asked)
        assert reply.choices[0].message.content == "Tolmar" and reply.choices[0].finish_reason == "stop"
        told = reply.model_extra["masksearch"]
        assert told["stop"] == "answer" and [turn["query"] for turn in told["turns"]] == ["Karn", ""]
        assert [source["title"] for source in told["sources"]] == ["Tolmar", "Sea"]
        assert told["turns"][0]["passages"] == told["sources"] and "Tolmar" in told["turns"][0]["observation"]
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Tolmar"
        events = [one.model_extra["masksearch"] for one in chunks if "masksearch" in one.model_extra]
        assert [event["turn"] for event in events[:-1]] == told["turns"] and events[-1] == told
        with pytest.raises(openai.BadRequestError, match="n has no meaning in a search loop"):
            client.chat.completions.create(**asked, n=2)
        with pytest.raises(openai.BadRequestError, match="an episode has 256"):
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "word " * 300}])

        def full(*_, **__):
            raise BusyError("8 requests wait already")

        engine.session = full
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as refused:
                client.chat.completions.create(**asked, stream=stream)
            assert refused.value.status_code == 503


@pytest.mark.slow
def test_the_tokens_are_those_of_the_rollout_engine(made):
    """Turns, corrections and limits of a random policy: the same model in both engines writes the same."""
    cfg, params, tokenizer = made
    prompts = [tokenizer.encode(text) for text in (" Karn was born in", " the river", " a", " 1984 and so on")]

    class Task:
        passage_id = article_id = -1

        def __init__(self, number):
            self.id, self.prompt = f"t{number}", prompts[number]

    mesh = policy_server.one_device()
    rollout = RolloutConfig(
        slots=4, limits=LIMITS, steps=3, prompt_rows=4, prompt_lengths=(16,), extend_rows=(4,), extend_tokens=(32,)
    )
    requests = [Request(Task(number), number, 0, (number,)) for number in range(len(prompts))]
    expected = RolloutEngine(rollout, cfg, tokenizer, Searcher(), mesh).run(params, requests, 0, 0, greedy=True)
    settings = settings_of(tokenizer, Searcher())

    async def answers(engine):
        asked = (search_loop.answer(engine, tokenizer, settings, prompt, GREEDY) for prompt in prompts)
        return await asyncio.gather(*asked)

    for used in (mesh, mesh_lib.make_mesh(data=2, fsdp=1, devices=jax.devices()[:2])):
        weights = transformer.init_params(cfg, 0, used)
        engine = policy_server.engine_of(cfg, weights, tokenizer, 2, total_tokens=LIMITS.total_tokens, mesh=used)
        for one, other in zip(asyncio.run(answers(engine)), expected, strict=True):
            assert tuple(told.turn for told in one.turns) == other.turns
            assert (one.answer, one.stop, one.written) == (other.answer, other.stop, other.generated)
        engine.close()
    assert any(len(one.turns) > 1 for one in expected) and np.isfinite(expected[0].logprobs).all()
