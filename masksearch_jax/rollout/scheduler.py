"""The rollout engine: many episodes in few slots, searching while others decode.

Enters: parameters, requests (tasks with the id permutation and the sampling key of each) and a searcher. Leaves: one
Trajectory per request, in request order. A run is a sequence of ticks, each the same programs (decode.py):

1. searches due at this tick are waited for; their observations, and corrections, are queued for appending; all hosts
   learn which episodes ended and how many tokens each slot has queued;
2. requests enter free slots, in order; each run of consecutive requests with one group and one prompt shares a prefix,
   prefilled once in batches of `prompt_rows` and kept until its last request is admitted;
3. queued tokens are appended, by rows and tokens from the ladders of the config;
4. up to `steps` tokens are decoded in every slot that has a turn to write;
5. finished turns are read (episode.py); their searches are submitted, due `search_ticks` later.

What an episode reads, writes and when (in ticks) depends on its request, the seed and the parameters: not on slots,
neighbours or thread timing, up to float rounding of batched matrix products.

Several hosts: each keeps the same book of which request is in which slot, so that all choose the same programs; the
inside of an episode (its turns, its searches, its tokens) is known to the owner of its slot alone (owners.py), until
the finished trajectories are exchanged. So tokenising, parsing and searching divide over the hosts.
Left out: the fault handling of the search tool (retrieval), rewards (rl).
"""

import dataclasses
import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np

from masksearch_jax import distributed
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import decode, episode, searches, shapes, trajectory
from masksearch_jax.rollout.owners import Owners
from masksearch_jax.rollout.slots import Slots
from masksearch_jax.rollout.trajectory import StopReason, Trajectory
from masksearch_jax.text import stops, tags
from masksearch_jax.text.interface import Tokenizer


class Task(Protocol):
    """What a rollout needs of a data.records.Task."""

    id: str
    prompt: Sequence[int]
    passage_id: int
    article_id: int


@dataclasses.dataclass(frozen=True)
class Request:
    """One episode to run.

    group, sample: which prompt of the batch and which of its samples; consecutive requests of one group share their
    prefill. key: integers that identify the episode, such as (epoch, prompt, sample, attempt); with the seed they key
    its random bits, so two requests with one key and one prompt write the same.
    pieces: int32 [V] permutation of the vocabulary that fixes tags, pad and eos, or None; the model sees pieces[id] for
    each id of prompt and observation, and its own ids are mapped back before they become text.
    forced_search: a query to run before the policy writes, which then only completes the answer; or None.
    """

    task: Task
    group: int
    sample: int
    key: tuple[int, ...]
    pieces: np.ndarray | None = None
    forced_search: str | None = None


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """slots: episodes at a time. steps: tokens decoded per tick. hits: passages per search.

    search_ticks: ticks from the end of a turn to its observation; 1 waits for the search, more decode meanwhile.
    search_batch: queries per call. search_threads: calls at a time.
    prompt_rows: prompts per prefill. prompt_lengths, append_rows, append_tokens: ladders of program shapes; each
    entry costs a compilation, and work is padded to the next entry. Rows are rounded up to a multiple of the shards
    that the slots lie on. On CPU narrow programs are fastest: a row's step takes 30 us among 64 slots, 47 among 192; a
    token 20 us appended 8 to 32 rows at a time, 60 with 192.
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

    def __post_init__(self):
        for name in ("slots", "steps", "hits", "search_ticks", "search_batch", "search_threads", "prompt_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"RolloutConfig.{name} is {getattr(self, name)}; it has to be >= 1")
        for name in ("prompt_lengths", "append_rows", "append_tokens"):
            ladder = getattr(self, name)
            if not ladder or list(ladder) != sorted(set(ladder)) or ladder[0] < 1:
                raise ValueError(f"RolloutConfig.{name} is {ladder}; it has to be an increasing tuple of sizes >= 1")


@dataclasses.dataclass
class _Live:
    """An episode in a slot."""

    index: int  # of its request
    request: Request
    state: episode.Episode | None  # None: another process owns the slot
    prompt_length: int
    born: int  # tick of admission


# How an episode ended since the last `_Run._settle`, in the order in which slots become free again.
_IN_TURN, _AT_DEADLINE, _AT_OBSERVATION = range(3)


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
        self._fixed = np.array(sorted({tokenizer.pad_id, tokenizer.eos_id, *sum(map(tokenizer.encode, tags.ALL), [])}))
        self._time = cfg.limits.total_tokens
        self._prompt_lengths = shapes.clipped(cfg.prompt_lengths, self._time)
        self._append_tokens = shapes.clipped(cfg.append_tokens, self._time)
        self._owners = Owners(mesh, cfg.slots)
        # Every shard of the slots prefills and appends as many rows as any other.
        shards = self._owners.shards
        self._append_rows = shapes.clipped([-(-rows // shards) * shards for rows in cfg.append_rows], cfg.slots)
        self._prompt_rows = -(-cfg.prompt_rows // shards) * shards
        self.programs = decode.programs(model_cfg, mesh, cfg.slots, self._time, cfg.steps, cfg.sampling, self._stops)
        self._cache = None
        self.stats: dict[str, float] = {}

    def run(self, params, requests: Sequence[Request], version: int, seed: int, greedy=False) -> list[Trajectory]:
        """Runs every request to its end and returns the trajectories in request order.

        params: in the DECODE layout (or any, at the price of a gather). version: stamped on every generated token.
        Raises ValueError for a request that cannot run (prompt too long, no permutation) before any work is done, and
        whatever the searcher raises. Every process calls it alike and gets every trajectory; the seconds and host
        times of `stats` are its own.
        """
        prompts = [self._prompt(request) for request in requests]
        with jax.set_mesh(self.mesh):
            run = _Run(self, params, requests, prompts, seed, greedy)
            trajectories = run.to_end(version)
        self.stats = run.stats
        return trajectories

    def warm_up(self, params) -> int:
        """Compiles every program shape of the ladders, with no rows in them; returns how many that were."""
        cfg, programs, whole = self.cfg, self.programs, self._owners.whole
        before = programs.compiled
        with jax.set_mesh(self.mesh):
            cache = programs.new_cache()
            for length in self._prompt_lengths:
                ids, counts = shapes.padded([], self._prompt_rows, length)
                prefix = programs.prefill(params, whole(ids), whole(counts))
                for rows in self._append_rows:
                    nowhere = np.full(rows, cfg.slots, np.int32)
                    cache = programs.admit(cache, prefix, whole(nowhere), whole(np.zeros(rows, np.int32)))
            for rows in self._append_rows:
                for length in self._append_tokens:
                    nowhere = np.full(rows, cfg.slots, np.int32)
                    ids, counts = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
                    cache = programs.append(params, cache, whole(nowhere), whole(ids), whole(counts))
            registers = np.zeros((cfg.slots, decode.REGISTERS), np.int32)
            self._cache, _ = programs.decode(params, cache, self._owners.rows(registers), whole(np.bool_(False)))
        return programs.compiled - before

    def _new_episode(self, request: Request, prompt_length: int) -> episode.Episode:
        return episode.Episode(prompt_length, self.cfg.limits, self.tokenizer, request.forced_search)

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
        whole = pieces.shape == (self.model_cfg.vocab_size,)
        if not whole or (pieces[self._fixed] != self._fixed).any() or not self._stops.admits(pieces):
            raise ValueError(f"{name}: Request.pieces has to permute the whole vocabulary and leave tags, pad and eos")
        return pieces[prompt].astype(np.int32)


class _Run:
    """The state of one `RolloutEngine.run`."""

    def __init__(self, engine: RolloutEngine, params, requests, prompts, seed: int, greedy: bool):
        self.engine, self.cfg, self.programs, self.params = engine, engine.cfg, engine.programs, params
        self.requests, self.prompts, self.seed, self.greedy = requests, prompts, seed, np.bool_(greedy)
        self.owners = engine._owners
        self.slots = Slots(self.cfg.slots, engine._time, engine._stops)
        # Known to all processes alike.
        self.live: dict[int, _Live] = {}
        self.free = self.owners.order[::-1]
        self.writing = np.zeros(self.cfg.slots, bool)  # slots in the middle of a turn
        self.appends: dict[int, int] = {}  # by slot: number of tokens to append at this tick
        self.finite = True
        self.next = 0  # request
        self.tick = 0
        # Of this process's own slots.
        self.queued: dict[int, np.ndarray] = {}  # by slot: ids to append, as the model sees them
        self.ended: dict[int, int] = {}  # by slot: how, since the last `_settle`
        self.trajectories: dict[int, Trajectory] = {}  # by request
        groups = [request.group for request in requests]
        self.prefixes = shapes.prefix_batches(groups, prompts, engine._prompt_rows)
        self.prefix: tuple[int, object] = (-1, None)  # number of the batch in `prefix`, its cache
        self.inverses: dict[int, np.ndarray] = {}
        self.cache, engine._cache = engine._cache or self.programs.new_cache(), None
        self.stats = dict.fromkeys(("prefill_s", "append_s", "decode_s", "search_wait_s", "host_s", "seconds"), 0.0)
        self.stats |= dict.fromkeys(("ticks", "prefilled", "appends", "searches", "tokens", "compiles"), 0)

    def to_end(self, version: int) -> list[Trajectory]:
        began, compiled, cfg = time.perf_counter(), self.programs.compiled, self.cfg
        self.version = version
        with searches.SearchQueue(
            self.engine.searcher, cfg.hits, cfg.search_ticks, cfg.search_batch, cfg.search_threads
        ) as queue:
            self.queue = queue
            while True:
                distributed.alive("a tick of a rollout")
                self._collect()
                self._settle()
                if not self.live and self.next == len(self.requests):
                    break
                self._admit()
                self._append()
                self._decode()
                self._deadlines()
                self.tick += 1
        if self.owners.several:
            for data in distributed.gather_bytes(trajectory.to_bytes(self.trajectories)):
                self.trajectories |= trajectory.from_bytes(data)
        stats = self.stats
        stats["seconds"] = time.perf_counter() - began
        stats["search_wait_s"] = queue.wait_seconds
        phases = ("prefill_s", "append_s", "decode_s", "search_wait_s")
        stats["host_s"] = stats["seconds"] - sum(stats[phase] for phase in phases)
        stats |= {"ticks": self.tick, "compiles": self.programs.compiled - compiled}
        stats["searches"] = distributed.total(queue.searches) if self.owners.several else queue.searches
        # Leftovers that are not finite would poison later episodes through 0 * nan in masked attention.
        self.engine._cache = self.cache if self.finite else None
        return [self.trajectories[index] for index in range(len(self.requests))]

    def _collect(self) -> None:
        for (slot, born), hits in self.queue.collect(self.tick):
            live = self.live.get(slot)
            # Else it was cancelled meanwhile.
            if live is not None and live.index == born and slot not in self.ended:
                self._follow(slot, live, live.state.observe(hits), _AT_OBSERVATION)

    def _settle(self) -> None:
        """Tells all processes what each owner knows and the programs of this tick depend on."""
        news = np.zeros(self.cfg.slots, np.int32)  # tokens queued; or -1 - how the episode ended
        for slot, ids in self.queued.items():
            news[slot] = len(ids)
        for slot, how in self.ended.items():
            news[slot] = -1 - how
        self.ended = {}
        news = self.owners.gather(news)

        def order(slot):
            return -news[slot], self.live[slot].index if news[slot] == -1 - _AT_DEADLINE else slot

        for slot in sorted(np.flatnonzero(news < 0).tolist(), key=order):
            self.writing[slot] = False
            del self.live[slot]
            self.free.append(slot)
        self.appends = {slot: int(news[slot]) for slot in np.flatnonzero(news > 0).tolist()}

    def _follow(self, slot: int, live: _Live, following, how: int) -> interface.Query | None:
        """Acts on what an episode does next; returns the query if it is a search. how: it ended, if it did."""
        if isinstance(following, episode.Done):
            self._finish(slot, live, following.stop, how)
        elif isinstance(following, episode.Append):
            ids = np.asarray(following.ids, np.int32)
            self.queued[slot] = ids if live.request.pieces is None else np.asarray(live.request.pieces, np.int32)[ids]
        else:
            return _query(live.request.task, following.query)
        return None

    def _finish(self, slot: int, live: _Live, stop: StopReason, how: int) -> None:
        slots, request, end = self.slots, live.request, self.slots.length[slot]
        trainable = slots.trainable[slot, :end].copy()
        self.trajectories[live.index] = Trajectory(
            task_id=request.task.id,
            group=request.group,
            sample=request.sample,
            ids=slots.ids[slot, :end].copy(),
            trainable=trainable,
            logprobs=slots.logprobs[slot, :end].copy(),
            versions=np.where(trainable, self.version, -1).astype(np.int32),
            prompt_length=live.prompt_length,
            turns=tuple(live.state.turns),
            stop=stop,
            answer=live.state.answer,
        )
        slots.stop(slot)
        self.queued.pop(slot, None)
        self.ended[slot] = how

    def _admit(self) -> None:
        """Fills free slots; forced searches are submitted at once."""
        admitted: dict[int, list[tuple[int, int]]] = {}  # by prefix batch: (slot, row of the batch)
        forced = []
        while self.free and self.next < len(self.requests):
            index, slot = self.next, self.free.pop()
            request, prompt = self.requests[index], self.prompts[index]
            self.live[slot] = _Live(index, request, None, len(prompt), self.tick)
            batch, row = self.prefixes.place[index]
            admitted.setdefault(batch, []).append((slot, row))
            self.writing[slot] = request.forced_search is None
            if self.owners.own[slot] and (query := self._enter(slot, self.live[slot], prompt)):
                forced.append((slot, index, query))
            self.next += 1
        self._submit(forced)
        if not admitted:
            return
        began = time.perf_counter()
        for batch, pairs in admitted.items():
            self._copy_prefix(batch, pairs)
        jax.block_until_ready(self.cache.lengths)
        self.stats["prefill_s"] += time.perf_counter() - began

    def _enter(self, slot: int, live: _Live, prompt: np.ndarray) -> interface.Query | None:
        """Begins the episode of a slot of this process; returns its forced search, if it has one."""
        request = live.request
        live.state = self.engine.new_episode(request, len(prompt))
        self.slots.admit(slot, prompt, sampling_key(self.seed, request.key))
        if live.state.forced_query is not None:
            return _query(request.task, live.state.forced_query)
        self.slots.begin_turn(slot, live.state.budget)
        return None

    def _copy_prefix(self, batch: int, pairs: list[tuple[int, int]]) -> None:
        whole = self.owners.whole
        if self.prefix[0] != batch:
            prompts = [self.prompts[index][:-1] for index in self.prefixes.first[batch]]
            length = shapes.rung((*self.engine._prompt_lengths, self.engine._time), max(map(len, prompts)))
            ids, counts = shapes.padded(prompts, self.engine._prompt_rows, length)
            self.prefix = (batch, self.programs.prefill(self.params, whole(ids), whole(counts)))
            self.stats["prefilled"] += len(prompts)
        for part, rows in shapes.row_chunks(len(pairs), self.engine._append_rows):
            slots, sources = np.full(rows, self.cfg.slots, np.int32), np.zeros(rows, np.int32)
            slots[: part.stop - part.start], sources[: part.stop - part.start] = np.array(pairs[part], np.int32).T
            self.cache = self.programs.admit(self.cache, self.prefix[1], whole(slots), whole(sources))

    def _append(self) -> None:
        """Feeds the queued tokens, and with them the newest token of each slot, which no step has fed yet."""
        if not self.appends:
            return
        began, whole = time.perf_counter(), self.owners.whole
        own = {}
        for slot, ids in self.queued.items():
            own[slot] = np.concatenate([self.slots.ids[slot, self.slots.length[slot] - 1 :][:1], ids[:-1]])
            self.slots.append(slot, ids)
            self.slots.begin_turn(slot, self.live[slot].state.budget)
        self.queued = {}
        work = self.owners.gather_lists(own, self.appends)
        self.writing[list(work)] = True
        tokens = self.engine._append_tokens
        while work:
            by_rung: dict[int, list[int]] = {}
            for slot, ids in work.items():
                by_rung.setdefault(shapes.rung(tokens, len(ids)), []).append(slot)
            for length, rows_of in sorted(by_rung.items()):
                shards = self.owners.shards
                for targets in shapes.shard_chunks(rows_of, self.cfg.slots // shards, shards, self.engine._append_rows):
                    chosen = [work[slot][:length] if slot in work else () for slot in targets.tolist()]
                    ids, counts = shapes.padded(chosen, len(targets), length)
                    self.cache = self.programs.append(
                        self.params, self.cache, whole(targets), whole(ids), whole(counts)
                    )
                    self.stats["appends"] += 1
                for slot in rows_of:
                    work[slot] = work[slot][length:]
            work = {slot: ids for slot, ids in work.items() if len(ids)}
        jax.block_until_ready(self.cache.lengths)
        self.stats["append_s"] += time.perf_counter() - began

    def _decode(self) -> None:
        if not self.writing.any():
            return
        began, owners = time.perf_counter(), self.owners
        registers, greedy = owners.rows(self.slots.registers), owners.whole(self.greedy)
        self.cache, outputs = self.programs.decode(self.params, self.cache, registers, greedy)
        ids, logprobs, counts, endings = jax.device_get(outputs)
        self.stats["decode_s"] += time.perf_counter() - began
        self.stats["tokens"] += int(counts.sum())
        self.finite = self.finite and bool(np.isfinite(logprobs).all())
        self.writing &= endings == 0
        if owners.several:
            counts, endings = np.where(owners.own, counts, 0), np.where(owners.own, endings, 0)
        self.slots.record(ids, logprobs, counts, endings)
        found = []
        for slot in np.flatnonzero(endings).tolist():
            live = self.live[slot]
            ids = self._written(slot, live.request.pieces)
            query = self._follow(slot, live, live.state.end_turn(ids, episode.Ending(endings[slot])), _IN_TURN)
            if query is not None:
                found.append((slot, live.index, query))
        self._submit(found)

    def _written(self, slot: int, pieces: np.ndarray | None) -> list[int]:
        """Returns the ids of the current turn in the tokenizer's vocabulary."""
        ids = self.slots.turn(slot)
        if pieces is not None:
            if id(pieces) not in self.inverses:
                self.inverses[id(pieces)] = np.argsort(pieces)
            ids = self.inverses[id(pieces)][ids]
        return ids.tolist()

    def _submit(self, found: list[tuple[int, int, interface.Query]]) -> None:
        if found:
            self.queue.submit(self.tick, [(slot, index) for slot, index, _ in found], [query for *_, query in found])

    def _deadlines(self) -> None:
        limit = self.cfg.limits.deadline_ticks
        if not limit:
            return
        for slot, live in self.live.items():
            if self.owners.own[slot] and slot not in self.ended and self.tick - live.born + 1 >= limit:
                writing = self.slots.registers[slot, decode.BUDGET] > 0
                ids = self._written(slot, live.request.pieces) if writing else []
                self._finish(slot, live, live.state.cancel(ids).stop, _AT_DEADLINE)


def sampling_key(seed: int, key: Sequence[int]) -> np.ndarray:
    """Returns two uint32 words that identify (seed, *key), by a hash that is the same on every platform."""
    data = struct.pack(f"<{len(key) + 1}q", seed, *key)
    return np.frombuffer(hashlib.blake2b(data, digest_size=8).digest(), np.uint32)


def _query(task: Task, text: str) -> interface.Query:
    return interface.Query(text, task.passage_id, task.article_id)
