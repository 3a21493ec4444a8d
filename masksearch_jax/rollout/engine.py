"""The rollout engine: many episodes in few slots, searching while others decode.

Enters: parameters, requests (request.py) and a searcher. Leaves: one Trajectory per request, in request order. Holds
what outlives a run: the compiled programs, the memory of the cache, the ladders of shapes. A run itself is
scheduler.py. What an episode reads, writes and when (in ticks) depends on its request, the seed and the parameters:
not on slots, neighbours or thread timing, up to float rounding of batched matrix products.
Left out: the fault handling of the search tool (retrieval), rewards (rl).
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from masksearch_jax.model import cache as kv
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import decode, episode, scheduler, shapes
from masksearch_jax.rollout.owners import Owners
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.text import prompt as prompt_text
from masksearch_jax.text import stops
from masksearch_jax.text.interface import Tokenizer


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """slots: episodes at a time. steps: tokens decoded per tick. hits: passages per search.

    search_ticks: ticks from the end of a turn to its observation; 1 waits for the search, more decode meanwhile.
    search_batch: queries per call. search_threads: calls at a time.
    prompt_rows: prompts per prefill. prompt_lengths, append_rows, append_tokens: ladders of program shapes; each
    entry costs a compilation, and work is padded to the next entry. Rows are rounded up to a multiple of the shards
    that the slots lie on. Prompts longer than the last of prompt_lengths take a program of limits.total_tokens, which
    is compiled with the others. context_lengths: where the cache is cut, in tokens; a decode or an append reads as far
    as the first of them that holds its longest slot, and at most limits.total_tokens.
    What each costs: docs/rollouts.md.
    """

    slots: int = 64
    limits: episode.EpisodeLimits = episode.EpisodeLimits()
    sampling: decode.Sampling = decode.Sampling()
    steps: int = 8
    hits: int = 3
    search_ticks: int = 1
    search_batch: int = 64
    search_threads: int = 2
    prompt_rows: int = 8
    prompt_lengths: tuple[int, ...] = (64, 128, 256)
    append_rows: tuple[int, ...] = (8, 32)
    append_tokens: tuple[int, ...] = (16, 64)
    context_lengths: tuple[int, ...] = ()

    def __post_init__(self):
        for name in ("slots", "steps", "hits", "search_ticks", "search_batch", "search_threads", "prompt_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"RolloutConfig.{name} is {getattr(self, name)}; it has to be >= 1")
        for name in ("prompt_lengths", "append_rows", "append_tokens", "context_lengths"):
            ladder = getattr(self, name)
            if list(ladder) != sorted(set(ladder)) or min(ladder, default=1) < 1:
                raise ValueError(f"RolloutConfig.{name} is {ladder}; it has to be an increasing tuple of sizes >= 1")
            if not ladder and name != "context_lengths":
                raise ValueError(f"RolloutConfig.{name} is empty; it has to name one size at least")


class RolloutEngine:
    """Runs episodes. `stats` describes the last run: counts, and seconds by phase."""

    def __init__(
        self,
        cfg: RolloutConfig,
        model_cfg: ModelConfig,
        tokenizer: Tokenizer,
        searcher: interface.Searcher,
        mesh: jax.sharding.Mesh,
        new_episode: Callable[[Request, int], episode.Episode] | None = None,
    ):
        """new_episode: (request, prompt length) -> the rules of its episode; by default those of the limits.

        Raises ValueError if vocabulary, slots or ladders do not fit the model or the mesh.
        """
        if model_cfg.vocab_size < tokenizer.vocab_size:  # published embeddings are padded to more rows
            raise ValueError(
                f"ModelConfig.vocab_size is {model_cfg.vocab_size}, the tokenizer {tokenizer.path} has "
                f"{tokenizer.vocab_size} pieces; train a model for this tokenizer"
            )
        self.cfg, self.model_cfg, self.tokenizer, self.searcher, self.mesh = cfg, model_cfg, tokenizer, searcher, mesh
        self.new_episode = new_episode or self._new_episode
        self._stops = stops.build(tokenizer, model_cfg.vocab_size)
        self._fixed = stops.fixed_ids(tokenizer)
        self._time = cfg.limits.total_tokens
        # Any prompt and any context fit the last rung; longer appends are fed in parts, more rows in several programs.
        self._contexts = shapes.to_the_end(cfg.context_lengths, self._time)
        self._prompt_lengths = shapes.to_the_end(cfg.prompt_lengths, self._time)
        self._append_tokens = shapes.clipped(cfg.append_tokens, self._time)
        self._owners = Owners(mesh, cfg.slots)
        # Every shard of the slots prefills and appends as many rows as any other.
        shards = self._owners.shards
        self._append_rows = shapes.clipped([-(-rows // shards) * shards for rows in cfg.append_rows], cfg.slots)
        self._prompt_rows = -(-cfg.prompt_rows // shards) * shards
        self.programs = decode.programs(
            model_cfg, mesh, cfg.slots, self._contexts, cfg.steps, cfg.sampling, self._stops
        )
        self._cache = None
        self.stats: dict[str, float] = {}

    def run(
        self,
        params,
        requests: Sequence[Request],
        version: int,
        seed: int,
        greedy: bool = False,
        meanwhile: Callable[[], bool] | None = None,
    ) -> list[Trajectory]:
        """Runs every request to its end and returns the trajectories in request order.

        params: in the DECODE layout (or any, at the price of a gather). version: stamped on every generated token.
        meanwhile: other work for the devices, called once a tick while less than half of the slots write, for as long
        as it returns true (there is more); all processes call it at the same ticks. It must not touch `params`.
        Raises ValueError for a request that cannot run (prompt too long, no permutation) before any work is done, and
        whatever the searcher raises. Every process calls it alike and gets every trajectory; the seconds and host
        times of `stats` are its own.
        """
        prompts = [self._prompt(request) for request in requests]
        order = shapes.longest_first([r.group for r in requests], [r.expected for r in requests])
        with jax.set_mesh(self.mesh):
            requests, prompts = [requests[i] for i in order], [prompts[i] for i in order]
            params = self.programs.prepare(params)
            run = scheduler.Run(self, params, requests, prompts, seed, greedy, meanwhile)
            found = dict(zip(order, run.to_end(version), strict=True))
        self.stats = run.stats
        return [found[index] for index in range(len(requests))]

    def warm_up(self, params) -> int:
        """Compiles every program shape of the ladders, with no rows in them; returns how many that were."""
        cfg, programs, whole = self.cfg, self.programs, self._owners.whole
        before = programs.compiled
        with jax.set_mesh(self.mesh):
            params, cache = programs.prepare(params), programs.new_cache()
            for length in self._prompt_lengths:
                ids, counts = shapes.padded([], self._prompt_rows, length)
                prefix = programs.prefill(params, whole(ids), whole(counts))
                for rows in self._append_rows:
                    nowhere = np.full(rows, cfg.slots, np.int32)
                    cache = programs.admit(cache, prefix, whole(nowhere), whole(np.zeros(rows, np.int32)))
            registers = np.zeros((cfg.slots, decode.REGISTERS), np.int32)
            for context in self._contexts:
                head, rest = kv.split(cache, context)
                for rows in self._append_rows:
                    for length in self._append_tokens:
                        nowhere = np.full(rows, cfg.slots, np.int32)
                        ids, counts = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
                        head = programs.append(params, head, whole(nowhere), whole(ids), whole(counts))
                head, _ = programs.decode(params, head, self._owners.rows(registers), whole(np.bool_(False)))
                cache = kv.rejoin(head, rest)
            self._cache = cache
        return programs.compiled - before

    def _new_episode(self, request: Request, prompt_length: int) -> episode.Episode:
        opened = prompt_text.opened_thought(request.task.prompt, self.tokenizer)
        return episode.Episode(prompt_length, self.cfg.limits, self.tokenizer, request.forced_search, opened)

    def _prompt(self, request: Request) -> np.ndarray:
        """Returns the prompt as the model sees it; raises ValueError naming the task."""
        prompt, limit = np.asarray(request.task.prompt, np.int32), self._time
        name = f"task {request.task.id}"
        if not 0 < len(prompt) < limit:
            raise ValueError(
                f"{name}: its prompt has {len(prompt)} tokens; EpisodeLimits.total_tokens = {limit} leaves room for "
                f"1 to {limit - 1}: raise it or cut shorter passages"
            )
        if prompt.min() < 0 or prompt.max() >= self.model_cfg.vocab_size:
            raise ValueError(f"{name}: prompt ids outside the vocabulary of {self.model_cfg.vocab_size}; prepare again")
        if request.pieces is None:
            return prompt
        pieces = np.asarray(request.pieces)
        size = self.model_cfg.vocab_size
        whole = pieces.shape == (size,) and pieces.min() >= 0 and (np.bincount(pieces, minlength=size) == 1).all()
        if not whole or (pieces[self._fixed] != self._fixed).any() or not self._stops.admits(pieces):
            raise ValueError(f"{name}: Request.pieces has to permute the whole vocabulary and leave tags, pad and eos")
        return pieces[prompt].astype(np.int32)
