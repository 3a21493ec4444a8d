"""The rollout engine: it runs many episodes in few slots, and decodes some while others wait for a search.

Enters: parameters, requests (request.py) and a searcher. Leaves: one Trajectory per request, in request order. The
engine holds what outlives a run: the compiled programs, the memory of the cache and the buckets of shapes. A single run
is in scheduler.py. What an episode reads and writes, and at which engine step after its start, depends only on its
request, the seed and the parameters. It does not depend on slots, other episodes or thread timing, up to float rounding
of batched matrix products.
Left out: fault handling of the search tool (retrieval), rewards (rl).
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import bucketing, device_programs, episode, sampling_flops, scheduler
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.slot_sharding import SlotSharding
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.runtime.types import Params
from masksearch_jax.text import prompt as prompt_text
from masksearch_jax.text import stop_automaton, tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """The settings of the rollout engine. docs/guides/rollouts.md says what each of them costs.

    slots: episodes at a time. steps: decode steps inside an engine step, one token each. hits: passages per search.
    search_steps: engine steps from the end of a turn to its observation. With 1 the engine waits for the search; with
    more it decodes other slots in the meantime. search_batch: queries per call. search_threads: calls at a time.
    prompt_rows: prompts per prefill. prompt_lengths, extend_rows, extend_tokens: buckets of program shapes. Each entry
    costs a compilation, and work is padded to the next entry. Rows are rounded up to a multiple of the number of shards
    of the slots. Prompts longer than the last of prompt_lengths use a program of limits.total_tokens, which is compiled
    with the others. context_lengths: where the cache is cut into blocks, in tokens. A decode or extend program reads up
    to the first of these lengths that holds its longest slot, and at most limits.total_tokens. tools: the names of the
    tools that an episode may call; the searcher answers queries to each of them.
    """

    slots: int = 64
    limits: episode.EpisodeLimits = episode.EpisodeLimits()
    sampling: device_programs.Sampling = device_programs.Sampling()
    steps: int = 8
    hits: int = 3
    search_steps: int = 1
    search_batch: int = 64
    search_threads: int = 2
    prompt_rows: int = 8
    prompt_lengths: tuple[int, ...] = (64, 128, 256)
    extend_rows: tuple[int, ...] = (8, 32)
    extend_tokens: tuple[int, ...] = (16, 64)
    context_lengths: tuple[int, ...] = ()
    tools: tuple[str, ...] = tags.ONE_TOOL

    def __post_init__(self) -> None:
        tags.check_tools(self.tools)
        for name in ("slots", "steps", "hits", "search_steps", "search_batch", "search_threads", "prompt_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"RolloutConfig.{name} is {getattr(self, name)}; it has to be >= 1")
        for name in ("prompt_lengths", "extend_rows", "extend_tokens", "context_lengths"):
            buckets = getattr(self, name)
            if list(buckets) != sorted(set(buckets)) or min(buckets, default=1) < 1:
                raise ValueError(f"RolloutConfig.{name} is {buckets}; it has to be an increasing tuple of sizes >= 1")
            if not buckets and name != "context_lengths":
                raise ValueError(f"RolloutConfig.{name} is empty; it has to name one size at least")


class RolloutEngine:
    """The engine that runs episodes. `stats` describes the last run: counts, and seconds by phase."""

    def __init__(
        self,
        cfg: RolloutConfig,
        model_cfg: ModelConfig,
        tokenizer: Tokenizer,
        searcher: interface.Searcher,
        mesh: jax.sharding.Mesh,
        new_episode: Callable[[Request, int], episode.Episode] | None = None,
    ):
        """new_episode: (request, prompt length) -> the Episode of the request; by default one with `cfg.limits`.

        Raises ValueError if vocabulary, slots or buckets do not fit the model or the mesh.
        """
        if model_cfg.vocab_size < tokenizer.vocab_size:  # published embeddings are padded to more rows
            raise ValueError(
                f"ModelConfig.vocab_size is {model_cfg.vocab_size}, the tokenizer {tokenizer.path} has "
                f"{tokenizer.vocab_size} tokens; train a model for this tokenizer"
            )
        self.cfg, self.model_cfg, self.tokenizer, self.searcher, self.mesh = cfg, model_cfg, tokenizer, searcher, mesh
        self.new_episode = new_episode or self._new_episode
        closing = tags.closing_tags(cfg.tools)
        self._stop_table = stop_automaton.build_table(tokenizer, model_cfg.vocab_size, closing)
        self._fixed = stop_automaton.fixed_ids(tokenizer, cfg.tools)
        self._time = cfg.limits.total_tokens
        # Every prompt and every context fit the last bucket. Tokens beyond the last bucket of extend_tokens are fed in
        # parts, and rows beyond the last one of extend_rows by several programs.
        self._contexts = bucketing.to_the_end(cfg.context_lengths, self._time)
        self._prompt_lengths = bucketing.to_the_end(cfg.prompt_lengths, self._time)
        self._extend_tokens = bucketing.clipped(cfg.extend_tokens, self._time)
        self._sharding = SlotSharding(mesh, cfg.slots)
        # All shards of the slots prefill and extend the same number of rows.
        shards = self._sharding.shards
        self._extend_rows = bucketing.clipped([-(-rows // shards) * shards for rows in cfg.extend_rows], cfg.slots)
        self._prompt_rows = -(-cfg.prompt_rows // shards) * shards
        self.programs = device_programs.programs(
            model_cfg, mesh, cfg.slots, self._contexts, cfg.steps, cfg.sampling, self._stop_table
        )
        self._cache: kv.Cache | None = None
        self.stats: dict[str, float] = {}

    def run(
        self,
        params: Params,
        requests: Sequence[Request],
        version: int,
        seed: int,
        greedy: bool = False,
        overlap: Callable[[], bool] | None = None,
    ) -> list[Trajectory]:
        """Run every request to its end and return the trajectories in request order.

        params: in the DECODE layout (or any other, at the cost of a gather). version: recorded with every generated
        token. overlap: a function that does other work on the devices and returns true while there is more. It is
        called once per engine step while fewer than half of the slots are writing, at the same engine steps on all
        processes. It must not touch `params`.
        Raises ValueError for a request that cannot run (prompt too long, `token_permutation` that is none) before any
        work is done, and whatever the searcher raises. Every process has to call it with the same arguments, and gets
        every trajectory. The times in `stats` are those of the process itself.
        """
        prompts = [self._prompt(request) for request in requests]
        order = bucketing.longest_first([r.group for r in requests], [r.length_hint for r in requests])
        with jax.set_mesh(self.mesh):
            requests, prompts = [requests[i] for i in order], [prompts[i] for i in order]
            params = self.programs.prepare(params)
            run = scheduler.Run(self, params, requests, prompts, seed, greedy, overlap)
            trajectories = run.to_end(version)
        groups = [request.group for request in requests]
        work = sampling_flops.of_run(self.model_cfg, groups, prompts, trajectories, run.copied)
        self.stats = run.stats | {"flops": work}
        found = dict(zip(order, trajectories, strict=True))
        return [found[index] for index in range(len(requests))]

    def warm_up(self, params: Params) -> int:
        """Compile the programs for all buckets by running them without rows. Returns how many were compiled."""
        cfg, programs, whole = self.cfg, self.programs, self._sharding.whole
        before = programs.compiled
        with jax.set_mesh(self.mesh):
            params, cache = programs.prepare(params), programs.new_cache()
            for length in self._prompt_lengths:
                ids, counts = bucketing.padded([], self._prompt_rows, length)
                prefix = programs.prefill(params, whole(ids), whole(counts))
                for rows in self._extend_rows:
                    nowhere = np.full(rows, cfg.slots, np.int32)
                    cache = programs.insert(cache, prefix, whole(nowhere), whole(np.zeros(rows, np.int32)))
            decode_state = np.zeros((cfg.slots, device_programs.STATE_COLUMNS), np.int32)
            for context in self._contexts:
                head, rest = kv.split(cache, context)
                for rows in self._extend_rows:
                    nowhere = np.full(rows, cfg.slots, np.int32)
                    head = programs.copy_slots(head, whole(nowhere), whole(np.zeros(rows, np.int32)))
                    for length in self._extend_tokens:
                        ids, counts = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
                        head = programs.extend(params, head, whole(nowhere), whole(ids), whole(counts))
                head, _ = programs.decode(params, head, self._sharding.rows(decode_state), whole(np.bool_(False)))
                cache = kv.rejoin(head, rest)
            self._cache = cache
        return programs.compiled - before

    def _new_episode(self, request: Request, prompt_length: int) -> episode.Episode:
        opened = prompt_text.opened_thought(request.task.prompt, self.tokenizer)
        tools = self.cfg.tools
        return episode.Episode(prompt_length, self.cfg.limits, self.tokenizer, request.forced_search, opened, tools)

    def _prompt(self, request: Request) -> np.ndarray:
        """Return the prompt as the model sees it. Raises ValueError that names the task."""
        prompt, limit = np.asarray(request.task.prompt, np.int32), self._time
        name = f"task {request.task.id}"
        if not 0 < len(prompt) < limit:
            raise ValueError(
                f"{name}: its prompt has {len(prompt)} tokens; EpisodeLimits.total_tokens = {limit} leaves room for "
                f"1 to {limit - 1}: raise it or cut shorter passages"
            )
        if prompt.min() < 0 or prompt.max() >= self.model_cfg.vocab_size:
            raise ValueError(f"{name}: prompt ids outside the vocabulary of {self.model_cfg.vocab_size}; prepare again")
        if request.token_permutation is None:
            return prompt
        moved = np.asarray(request.token_permutation)
        size = self.model_cfg.vocab_size
        whole = moved.shape == (size,) and moved.min() >= 0 and (np.bincount(moved, minlength=size) == 1).all()
        if not whole or (moved[self._fixed] != self._fixed).any() or not self._stop_table.admits(moved):
            raise ValueError(
                f"{name}: Request.token_permutation has to permute the whole vocabulary and leave tags, pad and eos"
            )
        return moved[prompt].astype(np.int32)
