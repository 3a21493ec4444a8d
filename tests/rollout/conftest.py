"""A world whose policy is known: a real transformer that writes by a table of token pairs.

One-hot embeddings and an unembedding that holds log-probs make the next token depend on the last one; small attention
and MLP weights on top make it depend on everything before as well, so that log-probs test the cache.
"""

import dataclasses

import jax
import numpy as np
import pytest

from masksearch_jax.data.records import Task
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout import device_programs, engine, episode
from masksearch_jax.rollout.request import Request
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.text import tags
from masksearch_jax.text import tokenizer as tokenizer_lib

_NEVER = -20.0
_WORDS = ["Karn", "Velith", "Tolmar", "river", "city", "born", "founded", "works", "in", "near", "of", "the"]


class Library:
    """Searches nothing: the hit depends on the query's text alone. Counts its calls."""

    fingerprint = "library"

    def __init__(self, texts):
        self.texts = texts
        self.queries = []

    def search(self, queries, k):
        self.queries.extend(queries)
        return [[self._hit(sum(query.text.encode()) + i) for i in range(k)] for query in queries]

    def _hit(self, number):
        number %= len(self.texts)
        return Hit(number, number, f"Karn {number}", self.texts[number], 1.0)


@dataclasses.dataclass
class World:
    tokenizer: tokenizer_lib.Tokenizer
    texts: list[str]
    model_cfg: ModelConfig
    base: dict  # parameters without a table

    def ids(self, name):
        """The ids that a name in a table stands for: 'q' and 'a' are disjoint sets of words, '*' is everything."""
        words = [i for i in range(self.tokenizer.vocab_size) if self.tokenizer.token(i) in {f"▁{w}" for w in _WORDS}]
        if name == "*":
            return list(range(self.tokenizer.vocab_size))
        if name in ("q", "a"):
            return words[: len(words) // 2] if name == "q" else words[len(words) // 2 :]
        return [self.tokenizer.eos_id] if name == "eos" else [self.tokenizer.id(name)]

    def params(self, rows, noise=0.003):
        """Parameters of a policy; rows: {name: {name of what follows: probability}}, later rows overrule."""
        table = np.full((self.model_cfg.vocab_size,) * 2, _NEVER)
        for name, following in rows.items():
            for i in self.ids(name):
                table[i] = _NEVER
                for target, share in following.items():
                    targets = self.ids(target)
                    table[i, targets] = np.log(share / len(targets))
        # No two tokens alike: an exact tie would be broken by their order.
        table += np.random.default_rng(0).normal(scale=0.05, size=table.shape)
        params = jax.tree.map(np.array, self.base)
        width = self.model_cfg.embed
        params["embedding"] = np.eye(width, dtype=np.float32)
        params["unembedding"] = (table / np.sqrt(width)).astype(np.float32)
        blocks = params["blocks"]
        blocks["attention"]["o"] *= noise
        blocks["mlp"]["down"] *= noise
        return jax.tree.map(jax.numpy.asarray, params)

    def task(self, number, prompt=" Karn Velith was born in [mask]."):
        ids = self.tokenizer.encode(prompt)
        return Task(
            f"task-{number}", "ramp", "test", ids, [], "spans", [["Tolmar"]], ["name"], prompt, "", "", number, number
        )

    def requests(self, groups, samples=1, **fields):
        prompts = [f" Karn {'river ' * (g % 4)}near {self.texts[g]}." for g in range(groups)]
        return [
            Request(self.task(g, prompts[g]), g, s, (0, g, s, 0), **fields)
            for g in range(groups)
            for s in range(samples)
        ]

    def engine(self, searcher=None, mesh=None, limits=None, sampling=None, **fields):
        limits = {"turns": 4, "turn_tokens": 10, "observation_tokens": 24, "total_tokens": 120} | (limits or {})
        small = {
            "slots": 4,
            "steps": 4,
            "hits": 1,
            "prompt_rows": 2,
            "prompt_lengths": (40,),
            "extend_rows": (4,),
            "extend_tokens": (16,),
        }
        cfg = engine.RolloutConfig(
            limits=episode.EpisodeLimits(**limits), sampling=sampling or device_programs.Sampling(), **(small | fields)
        )
        mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
        return engine.RolloutEngine(cfg, self.model_cfg, self.tokenizer, searcher or Library(self.texts), mesh)


# Searches once or more, sometimes makes a mistake, answers.
MIXED = {
    "*": {"<search>": 0.7, "<think>": 0.3},
    "<think>": {"q": 1.0},
    "<search>": {"q": 1.0},
    "<answer>": {"a": 1.0},
    "q": {"q": 0.45, "</search>": 0.4, "</think>": 0.15},
    "a": {"a": 0.5, "</answer>": 0.5},
    "</think>": {"<search>": 0.5, "<answer>": 0.5},
    "</information>": {"<search>": 0.85, "<answer>": 0.1, "<think>": 0.05},
}


@pytest.fixture(scope="session")
def mixed_rows():
    return MIXED


@pytest.fixture(scope="session")
def library():
    return Library


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("rollout") / "tokenizer.model")


def make_world(path):
    """The world; path: its tokenizer, trained if it is not there."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(_WORDS, size=10)) for _ in range(60)]
    if path.exists():
        tokenizer = tokenizer_lib.Tokenizer(path)
    else:
        tokenizer = tokenizer_lib.train(texts, path, 344, digit_pairs=False)
    assert all(f"▁{word}" in {tokenizer.token(i) for i in range(tokenizer.vocab_size)} for word in _WORDS)
    assert tokenizer.encode(tags.SEARCH[1]) == [tokenizer.id(tags.SEARCH[1])]
    cfg = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        layers=1,
        embed=tokenizer.vocab_size,
        heads=2,
        kv_heads=2,
        head_dim=16,
        ff=32,
        tie_embeddings=False,
    )
    mesh = mesh_lib.make_mesh(devices=jax.local_devices()[:1])
    return World(tokenizer, texts, cfg, transformer.init_params(cfg, 0, mesh))
