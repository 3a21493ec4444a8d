"""One run of the engine: which request is in which slot, and which program runs next.

A run is a sequence of engine steps. Each engine step does the same work (the programs are in device_programs.py):

1. Wait for the searches that are due. Queue their observations, and the corrections of invalid turns, for extension.
   All hosts learn which episodes ended and how many tokens each slot has queued.
2. Insert requests into free slots, in order. Consecutive requests of equal group and prompt share a prefix. It is
   prefilled once, in batches of `prompt_rows`, and kept until the last of these requests is inserted.
3. Extend the slots by their queued tokens, in programs whose rows, tokens and context come from the config's buckets.
   Slots of one shard with equal tokens so far and equal queued tokens are extended once, and the cache of that slot is
   copied to the others. Samples of a group often write the same first query and then read the same observation.
4. Decode up to `steps` tokens in every slot that has a turn to write.
5. Parse the finished turns (episode.py) and submit their searches, which are due `search_steps` engine steps later.

With several hosts, each host keeps the same record of which request is in which slot, so that all of them choose the
same programs. The content of an episode (its turns, searches and tokens) is known only to the owner of its slot
(slot_sharding.py) until the finished trajectories are exchanged. So tokenising, parsing and searching are divided over
the hosts.
Left out: what outlives a run (engine.py).
"""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import bucketing, device_programs, episode, tool_queue, trajectory
from masksearch_jax.rollout.phase_clock import PhaseClock
from masksearch_jax.rollout.request import Request, query_of, sampling_key
from masksearch_jax.rollout.slot_state import Slots
from masksearch_jax.rollout.trajectory import StopReason, Trajectory
from masksearch_jax.runtime import distributed
from masksearch_jax.runtime.types import Params

if typing.TYPE_CHECKING:
    from masksearch_jax.rollout.engine import RolloutEngine


@dataclasses.dataclass
class _Live:
    """An episode in a slot."""

    index: int  # of its request
    request: Request
    state: episode.Episode | None  # None if another process owns the slot
    prompt_length: int
    born: int  # engine step at which it was inserted

    @property
    def episode(self) -> episode.Episode:
        """The state, of an episode whose slot this process owns."""
        assert self.state is not None, f"request {self.index} is in a slot of another process"
        return self.state


Following: typing.TypeAlias = episode.Search | episode.Extend | episode.Done  # what an episode does next
# Where in the engine step an episode ended. `Run._settle` frees the slots in this order.
_IN_TURN, _AT_DEADLINE, _AT_OBSERVATION = range(3)


class Run:
    """The state of one `RolloutEngine.run`."""

    def __init__(
        self,
        engine: "RolloutEngine",
        params: Params,
        requests: Sequence[Request],
        prompts: Sequence[np.ndarray],
        seed: int,
        greedy: bool,
        overlap: Callable[[], bool] | None,
    ) -> None:
        self.engine, self.cfg, self.programs, self.params = engine, engine.cfg, engine.programs, params
        self.requests, self.prompts, self.seed, self.greedy = requests, prompts, seed, np.bool_(greedy)
        self.overlap = overlap
        self.sharding = engine._sharding
        self.slots = Slots(self.cfg.slots, engine._time, engine._stop_table)
        # The same on all processes.
        self.live: dict[int, _Live] = {}
        self.free = self.sharding.order[::-1]
        self.writing = np.zeros(self.cfg.slots, bool)  # slots in the middle of a turn
        self.cached = np.zeros(self.cfg.slots, np.int32)  # tokens of each slot in the cache: all but the newest
        self.extensions: dict[int, int] = {}  # by slot: number of tokens to extend it by in this engine step
        self.equals = np.zeros(self.cfg.slots, np.int32)  # of slots to extend: the first slot that becomes equal to it
        self.copied: list[tuple[int, int]] = []  # (first, end) of tokens that a slot got by a copy of another slot
        self.finite = True
        self.next = 0  # index of the next request to insert
        self.engine_step = 0
        # For the slots of this process only.
        self.queued: dict[int, np.ndarray] = {}  # by slot: ids to extend it by, as the model sees them
        self.ended: dict[int, int] = {}  # by slot: where its episode ended, since the last `_settle`
        self.trajectories: dict[int, Trajectory] = {}  # by request
        groups = [request.group for request in requests]
        self.prefixes = bucketing.prefix_batches(groups, prompts, engine._prompt_rows)
        self.prefix: tuple[int, kv.Cache | None] = (-1, None)  # number of the newest prefilled batch, and its cache
        self.inverses: dict[int, np.ndarray] = {}
        self.cache = engine._cache or self.programs.new_cache()
        engine._cache = None
        self.stats: dict[str, float] = dict.fromkeys(("prefilled", "extends", "copied_extends", "tokens"), 0)

    def to_end(self, version: int) -> list[Trajectory]:
        compiled, cfg = self.programs.compiled, self.cfg
        self.version = version
        with tool_queue.ToolQueue(
            self.engine.searcher, cfg.hits, cfg.search_steps, cfg.search_batch, cfg.search_threads
        ) as queue:
            self.queue, self.clock = queue, PhaseClock(lambda: queue.out > 0)
            while True:
                distributed.alive("an engine step of a rollout")
                distributed.stop_if_preempted()
                self._collect()
                self._settle()
                left = len(self.requests) - self.next + len(self.live)
                if not left:
                    break
                self.clock.in_tail = 10 * left <= len(self.requests)
                self._insert()
                self._extend()
                self._decode()
                self._deadlines()
                # Many slots wait for a search, or few episodes are left, so the devices have time for other work.
                if self.overlap and 2 * self.writing.sum() < self.cfg.slots:
                    with self.clock.phase("overlap_s"):
                        self.overlap = self.overlap if self.overlap() else None
                self.engine_step += 1
        if self.sharding.several:
            for data in distributed.gather_bytes(trajectory.to_bytes(self.trajectories)):
                self.trajectories |= trajectory.from_bytes(data)
        self.stats |= self.clock.stats()
        self.stats |= {"engine_steps": self.engine_step, "compiles": self.programs.compiled - compiled}
        self.stats["searches"] = distributed.total(queue.searches) if self.sharding.several else queue.searches
        # Values left in the cache that are not finite would spoil later episodes by 0 * nan in masked attention.
        self.engine._cache = self.cache if self.finite else None
        return [self.trajectories[index] for index in range(len(self.requests))]

    def _collect(self) -> None:
        with self.clock.phase("search_wait_s"):
            arrived = self.queue.collect(self.engine_step)
        for (slot, born), hits in arrived:
            live = self.live.get(slot)
            # Otherwise the episode was cancelled before its search arrived.
            if live is not None and live.index == born and slot not in self.ended:
                self._follow(slot, live, live.episode.observe(hits), _AT_OBSERVATION)

    def _settle(self) -> None:
        """Exchange between processes which episodes ended, how many tokens each slot has queued, and which are equal.

        The programs of this engine step depend on these. Frees the slots of the ended episodes.
        """
        # Number of queued tokens, or -1 - where the episode ended; and the first slot of the shard that becomes equal.
        own = np.zeros((self.cfg.slots, 2), np.int32)
        first: dict[tuple[int, int, bytes], int] = {}
        for slot, ids in sorted(self.queued.items()):
            tokens = np.concatenate([self.slots.ids[slot, : self.slots.length[slot]], ids]).tobytes()
            own[slot] = len(ids), first.setdefault((slot // self.sharding.per_shard, len(ids), tokens), slot)
        for slot, how in self.ended.items():
            own[slot, 0] = -1 - how
        self.ended = {}
        news, self.equals = self.sharding.gather(own).T

        def order(slot: int) -> tuple[int, int]:
            return -news[slot], self.live[slot].index if news[slot] == -1 - _AT_DEADLINE else slot

        for slot in sorted(np.flatnonzero(news < 0).tolist(), key=order):
            self.writing[slot] = False
            del self.live[slot]
            self.free.append(slot)
        self.extensions = {slot: int(news[slot]) for slot in np.flatnonzero(news > 0).tolist()}

    def _follow(self, slot: int, live: _Live, following: Following, how: int) -> interface.Query | None:
        """Act on what an episode does next. Returns the query if that calls a tool. how: where it ended, if it did."""
        if isinstance(following, episode.Done):
            self._finish(slot, live, following.stop, how)
        elif isinstance(following, episode.Extend):
            ids = np.asarray(following.ids, np.int32)
            permutation = live.request.token_permutation
            self.queued[slot] = ids if permutation is None else np.asarray(permutation, np.int32)[ids]
        else:
            return query_of(live.request.task, following.query, following.tool, following.found)
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
            turns=tuple(live.episode.turns),
            stop=stop,
            answer=live.episode.answer,
        )
        slots.stop(slot)
        self.queued.pop(slot, None)
        self.ended[slot] = how

    def _insert(self) -> None:
        """Insert requests into free slots and submit their forced searches at once."""
        inserted: dict[int, list[tuple[int, int]]] = {}  # by prefix batch: (slot, row of the batch)
        forced = []
        while self.free and self.next < len(self.requests):
            index, slot = self.next, self.free.pop()
            request, prompt = self.requests[index], self.prompts[index]
            self.live[slot] = _Live(index, request, None, len(prompt), self.engine_step)
            self.cached[slot] = len(prompt) - 1
            batch, row = self.prefixes.place[index]
            inserted.setdefault(batch, []).append((slot, row))
            self.writing[slot] = request.forced_search is None
            if self.sharding.own[slot] and (query := self._enter(slot, self.live[slot], prompt)):
                forced.append((slot, index, query))
            self.next += 1
        self._submit(forced)
        if not inserted:
            return
        with self.clock.phase("prefill_s"):
            for batch, pairs in inserted.items():
                self._copy_prefix(batch, pairs)
            jax.block_until_ready(self.cache.lengths)

    def _enter(self, slot: int, live: _Live, prompt: np.ndarray) -> interface.Query | None:
        """Begin the episode of a slot of this process. Returns its forced search, if it has one."""
        request = live.request
        live.state = self.engine.new_episode(request, len(prompt))
        self.slots.insert(slot, prompt, sampling_key(self.seed, request.key))
        if live.episode.forced_query is not None:
            return query_of(request.task, live.episode.forced_query)
        self.slots.begin_turn(slot, live.episode.budget)
        return None

    def _copy_prefix(self, batch: int, pairs: list[tuple[int, int]]) -> None:
        whole = self.sharding.whole
        if self.prefix[0] != batch:
            prompts = [self.prompts[index][:-1] for index in self.prefixes.first[batch]]
            length = bucketing.bucket_for(self.engine._prompt_lengths, max(map(len, prompts)))
            ids, counts = bucketing.padded(prompts, self.engine._prompt_rows, length)
            self.prefix = (batch, self.programs.prefill(self.params, whole(ids), whole(counts)))
            self.stats["prefilled"] += len(prompts)
        for part, rows in bucketing.row_chunks(len(pairs), self.engine._extend_rows):
            slots, sources = np.full(rows, self.cfg.slots, np.int32), np.zeros(rows, np.int32)
            slots[: part.stop - part.start], sources[: part.stop - part.start] = np.array(pairs[part], np.int32).T
            self.cache = self.programs.insert(self.cache, self.prefix[1], whole(slots), whole(sources))

    def _extend(self) -> None:
        """Feed the queued tokens to the model, after the newest token of each slot, which no step has fed yet."""
        if not self.extensions:
            return
        own = {}
        for slot, ids in self.queued.items():
            own[slot] = np.concatenate([self.slots.ids[slot, self.slots.length[slot] - 1 :][:1], ids[:-1]])
            self.slots.extend(slot, ids)
            self.slots.begin_turn(slot, self.live[slot].episode.budget)
        self.queued = {}
        work = self.sharding.gather_lists(own, self.extensions)
        self.writing[list(work)] = True
        with self.clock.phase("extend_s"):
            calls, copies = self._plan_extension()
            for call in calls:
                self._extend_slots(call, work)
            self._copy_slots(copies)
            jax.block_until_ready(self.cache.lengths)

    def _plan_extension(self) -> tuple[list[bucketing.ExtendCall], list[int]]:
        """Return the calls that extend slots, and the slots that are copied afterwards from the ones they equal."""
        sharding, engine = self.sharding, self.engine
        # A program reads as far as its longest slot, so slots of similar length share one: each shard's longest first.
        lengths = {slot: self.extensions[slot] for slot in self._longest_first(self.extensions)}
        buckets = (sharding.per_shard, sharding.shards, engine._extend_rows, engine._extend_tokens)
        calls = bucketing.extend_calls(lengths, *buckets)
        once = bucketing.extend_calls({s: n for s, n in lengths.items() if self.equals[s] == s}, *buckets)
        # Where copies only make room for padding, a copy costs more than it saves.
        if bucketing.padded_tokens(once) < bucketing.padded_tokens(calls):
            return once, [slot for slot in lengths if self.equals[slot] != slot]
        return calls, []

    def _longest_first(self, slots: Iterable[int]) -> list[int]:
        return sorted(slots, key=lambda slot: -self.cached[slot])

    def _extend_slots(self, call: bucketing.ExtendCall, work: dict[int, np.ndarray]) -> None:
        """Feed one call's part of the lists in `work` to the model."""
        whole, part = self.sharding.whole, slice(call.start, call.start + call.size)
        taken = call.targets < self.cfg.slots
        nothing = np.zeros(0, np.int32)
        chosen = [work[slot][part] if slot in work else nothing for slot in call.targets.tolist()]
        ids, counts = bucketing.padded(chosen, len(chosen), call.size)
        self.cached[call.targets[taken]] += counts[taken]
        head, rest = self._reach(int(self.cached[call.targets[taken]].max()))
        head = self.programs.extend(self.params, head, whole(call.targets), whole(ids), whole(counts))
        self.cache = kv.rejoin(head, rest)
        self.stats["extends"] += 1

    def _copy_slots(self, slots: list[int]) -> None:
        """Copy the cache of the slot that each of `slots` equals, which was extended, to it."""
        sharding = self.sharding
        for slot in slots:
            known, self.cached[slot] = int(self.cached[slot]), self.cached[self.equals[slot]]
            self.copied.append((known, int(self.cached[slot])))
        self.stats["copied_extends"] += len(slots)
        for targets in bucketing.shard_chunks(
            self._longest_first(slots), sharding.per_shard, sharding.shards, self.engine._extend_rows
        ):
            taken = targets < self.cfg.slots
            sources = np.zeros_like(targets)
            sources[taken] = self.equals[targets[taken]]
            head, rest = self._reach(int(self.cached[targets[taken]].max()))
            head = self.programs.copy_slots(head, sharding.whole(targets), sharding.whole(sources))
            self.cache = kv.rejoin(head, rest)

    def _reach(self, tokens: int) -> tuple[kv.Cache, kv.Cache]:
        """Return the cache split in two parts; a context of `tokens` fits the first part."""
        return kv.split(self.cache, bucketing.bucket_for(self.engine._contexts, tokens))

    def _decode(self) -> None:
        if not self.writing.any():
            return
        sharding = self.sharding
        with self.clock.phase("decode_s"):
            decode_state, greedy = sharding.rows(self.slots.decode_state), sharding.whole(self.greedy)
            head, rest = self._reach(int(self.cached[self.writing].max()) + self.cfg.steps)
            head, outputs = self.programs.decode(self.params, head, decode_state, greedy)
            self.cache = kv.rejoin(head, rest)
            ids, logprobs, counts, endings = jax.device_get(outputs)
        self.cached += counts
        self.stats["tokens"] += int(counts.sum())
        self.finite = self.finite and bool(np.isfinite(logprobs).all())
        self.writing &= endings == 0
        if sharding.several:
            counts, endings = np.where(sharding.own, counts, 0), np.where(sharding.own, endings, 0)
        self.slots.record(ids, logprobs, counts, endings)
        found = []
        for slot in np.flatnonzero(endings).tolist():
            live = self.live[slot]
            ids = self._written(slot, live.request.token_permutation)
            query = self._follow(slot, live, live.episode.end_turn(ids, episode.Ending(endings[slot])), _IN_TURN)
            if query is not None:
                found.append((slot, live.index, query))
        self._submit(found)

    def _written(self, slot: int, permutation: np.ndarray | None) -> list[int]:
        """Return the ids of the current turn in the tokenizer's vocabulary."""
        ids = self.slots.turn(slot)
        if permutation is not None:
            if id(permutation) not in self.inverses:
                self.inverses[id(permutation)] = np.argsort(permutation)
            ids = self.inverses[id(permutation)][ids]
        written: list[int] = ids.tolist()
        return written

    def _submit(self, found: list[tuple[int, int, interface.Query]]) -> None:
        if found:
            owners, queries = [(slot, index) for slot, index, _ in found], [query for *_, query in found]
            self.queue.submit(self.engine_step, owners, queries)
            self.clock.mark()

    def _deadlines(self) -> None:
        limit = self.cfg.limits.deadline_steps
        if not limit:
            return
        for slot, live in self.live.items():
            if self.sharding.own[slot] and slot not in self.ended and self.engine_step - live.born + 1 >= limit:
                writing = self.slots.decode_state[slot, device_programs.BUDGET] > 0
                ids = self._written(slot, live.request.token_permutation) if writing else []
                self._finish(slot, live, live.episode.cancel(ids).stop, _AT_DEADLINE)
