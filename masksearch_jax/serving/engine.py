"""The engine of a server: many sessions share the slots of one KV cache, and enter and leave between engine steps.

Enters: prompts as token ids, from coroutines of an event loop. Leaves: tokens with their log-probs, as they are
written. A session (serving/session.py) is one conversation with the model. It waits for a slot, writes a turn, and may
then append tokens and write another turn, as an agent does after a search. It keeps its slot, and what is cached in it,
until it is closed. One thread runs the devices. Each of its engine steps prefills sessions that wait, extends the slots
that have something to append, and decodes `steps` tokens in every slot that writes. So a reply does not wait for others
to end. What a session writes depends on its prompt, its sampling and its seed, up to float rounding of batched matrix
products.
Left out: text and stop strings (serving/reply_text.py), HTTP (serving/http_api.py), several processes.
"""

import collections
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rollout import bucketing, device_programs
from masksearch_jax.rollout.device_programs import BUDGET, KEY0, KEY1, STATE, TOKEN
from masksearch_jax.rollout.episode import Ending
from masksearch_jax.rollout.request import sampling_key
from masksearch_jax.rollout.slot_sharding import SlotSharding
from masksearch_jax.runtime.types import Params
from masksearch_jax.serving import sampling_programs
from masksearch_jax.serving.sampling_programs import ALTERNATIVES, TAGS, TEMPERATURE, TOP_P
from masksearch_jax.serving.session import BusyError, Command, Piece, Sampling, Session, Token
from masksearch_jax.text import stop_automaton, tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer

_SHORTEST_PROMPT, _SHORTEST_CONTEXT = 64, 256  # first buckets; each next one is twice as long
_PROMPT_ROWS = (1, 4)  # prompts of a prefill, for each shard of the slots
_EXTEND_TOKENS = (16, 64, 256)


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """slots: sessions that write at a time. steps: tokens of an engine step. total_tokens: of a session, its prompt
    included. pending: sessions that may wait for a slot."""

    slots: int
    steps: int
    total_tokens: int
    pending: int


class ServingEngine:
    """The engine and its thread. stats: counts since the start, for the log."""

    def __init__(
        self,
        settings: EngineSettings,
        model_cfg: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        mesh: Mesh,
        tools: tuple[str, ...] = tags.ONE_TOOL,
    ):
        """params: in the DECODE layout. tools: those whose closing tags may end a turn. Starts the thread.

        Raises ValueError if slots or heads do not divide over the mesh, or if the vocabulary does not fit the model.
        """
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        settings = dataclasses.replace(settings, slots=-(-settings.slots // shards) * shards)
        self.settings, self._mesh = settings, mesh
        self._sharding = SlotSharding(mesh, settings.slots)
        table = stop_automaton.build_table(tokenizer, model_cfg.vocab_size, tags.closing_tags(tools))
        total = settings.total_tokens
        self._contexts = bucketing.to_the_end(_doubling(_SHORTEST_CONTEXT, total), total)
        self._prompt_lengths = bucketing.to_the_end(_doubling(_SHORTEST_PROMPT, total), total)
        self._prompt_rows = bucketing.clipped([rows * shards for rows in _PROMPT_ROWS], settings.slots)
        self._extend_rows = bucketing.clipped([shards, settings.slots], settings.slots)
        self._extend_tokens = bucketing.clipped(_EXTEND_TOKENS, total)
        self._programs = device_programs.programs(
            model_cfg, mesh, settings.slots, self._contexts, settings.steps, device_programs.Sampling(), table
        )
        self._sampling = sampling_programs.SamplingPrograms(model_cfg, mesh, settings.slots, settings.steps, table)
        with jax.set_mesh(mesh):
            self._params = self._programs.prepare(params)
            self._cache: kv.Cache | None = self._programs.new_cache()  # None after a failure, until it is needed
        self.stats: collections.Counter[str] = collections.Counter()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._waiting: collections.deque[Session] = collections.deque()
        self._slots: dict[int, Session] = {}
        self._free = self._sharding.order[::-1]
        self._queued: dict[int, tuple[list[int], int]] = {}  # by slot: ids to append, and the budget after them
        self._cached = np.zeros(settings.slots, np.int32)  # tokens of each slot in the cache: all but the newest
        self._state = np.zeros((settings.slots, sampling_programs.COLUMNS), np.int32)
        self._knobs = np.zeros((settings.slots, 2), np.float32)
        self._thread = threading.Thread(target=self._work, name="serving engine", daemon=True)
        self._thread.start()

    # --- called in the event loop ---

    @contextlib.contextmanager
    def session(
        self,
        prompt: list[int],
        budget: int,
        sampling: Sampling,
        *,
        alternatives: int = 0,
        scored: bool = False,
        at_tags: bool = False,
    ) -> Iterator[Session]:
        """Open a session and begin a turn of at most `budget` tokens; leaving the block frees its slot.

        alternatives: how many of the likeliest tokens to report. scored: begin with the log-probs of the prompt; the
        budget may then be 0. at_tags: a closing tag ends a turn. Raises ValueError if prompt and budget do not fit,
        BusyError if too many sessions wait.
        """
        if not prompt or budget < (0 if scored else 1) or len(prompt) + budget > self.settings.total_tokens:
            raise ValueError(f"a prompt of {len(prompt)} tokens and a turn of {budget} do not fit")
        if self.waiting >= self.settings.pending:
            raise BusyError(f"{self.settings.pending} requests wait already")
        total = self.settings.total_tokens
        found = Session(self.send, total, prompt, budget, sampling, alternatives, scored, at_tags)
        self.send((found, prompt, budget))
        try:
            yield found
        finally:
            self.send((found, None, 0))

    @property
    def busy(self) -> int:
        """The number of slots in use."""
        return len(self._slots)

    @property
    def waiting(self) -> int:
        """The number of sessions that wait for a slot."""
        return len(self._waiting) + self._commands.qsize()

    def send(self, command: Command) -> None:
        """Hand a command to the thread."""
        self._commands.put(command)

    def close(self) -> None:
        """End the thread; sessions that are open get no more pieces."""
        self.send(None)
        self._thread.join()

    def warm_up(self, extends: bool) -> int:
        """Compile the programs of every bucket, before the first session, and return their number.

        extends: also those that append tokens, which a search loop needs.
        """
        before = self._programs.compiled
        with jax.set_mesh(self._mesh):
            for length in self._prompt_lengths:
                for rows in self._prompt_rows:
                    ids, counts = bucketing.padded([], rows, length)
                    prefix = self._programs.prefill(self._params, self._whole(ids), self._whole(counts))
                    self._insert(prefix, [])
            for context in self._contexts:
                self._run_decode(context, 0)
                for rows in self._extend_rows if extends else ():
                    for length in self._extend_tokens:
                        self._run_extend(np.full(rows, self.settings.slots, np.int32), {}, length, context)
        return self._programs.compiled - before + len(self._contexts)

    # --- the thread ---

    def _work(self) -> None:
        with jax.set_mesh(self._mesh):
            while self._receive():
                try:
                    self._admit()
                    self._extend()
                    self._decode()
                except Exception as error:  # whatever it is, each session has to get it
                    self._fail(error)

    def _receive(self) -> bool:
        """Follow the commands that have come; wait for one if there is nothing to do. Returns False at the end."""
        idle = not (self._queued or (self._waiting and self._free) or self._state[:, BUDGET].any())
        while True:
            try:
                command = self._commands.get(block=idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            session, ids, budget = command
            slot = next((slot for slot, held in self._slots.items() if held is session), None)
            if ids is None:
                self._release(session, slot)
            elif slot is not None:
                self._queued[slot] = ids, budget
            elif ids is session.prompt:
                self._waiting.append(session)
            idle = False

    def _release(self, session: Session, slot: int | None) -> None:
        if slot is None:
            if session in self._waiting:
                self._waiting.remove(session)
            return
        self._state[slot, BUDGET] = 0
        self._queued.pop(slot, None)
        del self._slots[slot]
        self._free.append(slot)

    def _fail(self, error: Exception) -> None:
        """Tell every session in a slot, and drop the cache, which may be donated, or not finite.

        The next session makes a new one, once the memory of the old one is free, and hears if that fails too.
        """
        self.stats["failures"] += 1
        for slot, session in list(self._slots.items()):
            session.deliver(error)
            self._state[slot, BUDGET] = 0
        self._queued.clear()
        self._cache = None

    def _admit(self) -> None:
        """Give free slots to sessions that wait, as many as one prefill holds. Equal prompts are prefilled once."""
        entering: list[tuple[int, Session]] = []
        prompts: dict[bytes, int] = {}
        rows: list[Session] = []
        scored = bool(self._waiting) and self._waiting[0].scored
        while self._waiting and self._free and self._waiting[0].scored == scored:
            session = self._waiting[0]
            identity = np.asarray(session.prompt, np.int32).tobytes()
            if identity not in prompts and len(rows) == self._prompt_rows[-1]:
                break
            if identity not in prompts:
                prompts[identity] = len(rows)
                rows.append(session)
            slot = self._free.pop()
            self._slots[slot] = self._waiting.popleft()
            entering.append((slot, session))
        if not entering:
            return
        prefix, scores = self._prefill([session.prompt for session in rows], scored)
        places = [prompts[np.asarray(session.prompt, np.int32).tobytes()] for _, session in entering]
        self._insert(prefix, [(slot, row) for (slot, _), row in zip(entering, places, strict=True)])
        for (slot, session), row in zip(entering, places, strict=True):
            self._cached[slot] = len(session.prompt) - 1
            self._knobs[slot, TEMPERATURE], self._knobs[slot, TOP_P] = (
                session.sampling.temperature,
                session.sampling.top_p,
            )
            key = sampling_key(session.sampling.seed, (session.sampling.number,))
            self._state[slot, KEY0 : KEY1 + 1] = key.view(np.int32)
            self._state[slot, TAGS] = session.at_tags
            self._begin_turn(slot, session.prompt[-1], session.budget)
            if scored:
                session.deliver(_scores_of(session, {name: value[row] for name, value in scores.items()}))

    def _prefill(self, prompts: list[list[int]], scored: bool) -> tuple[kv.Cache, dict[str, np.ndarray]]:
        """Return the cache of the prompts without their newest tokens, and with `scored` what `score` returns."""
        width = bucketing.bucket_for(self._prompt_rows, len(prompts))
        length = bucketing.bucket_for(self._prompt_lengths, max(map(len, prompts)) - 1)
        fed, after = ([np.asarray(one[part], np.int32) for one in prompts] for part in (slice(0, -1), slice(1, None)))
        ids, counts = bucketing.padded(fed, width, length)
        self.stats["prompt_tokens"] += int(counts.sum()) + len(prompts)
        whole = self._whole
        if not scored:
            return self._programs.prefill(self._params, whole(ids), whole(counts)), {}
        targets, _ = bucketing.padded(after, width, length)
        prefix, scores = self._sampling.score(self._params, whole(ids), whole(counts), whole(targets))
        return prefix, jax.device_get(scores)

    def _insert(self, prefix: kv.Cache, pairs: list[tuple[int, int]]) -> None:
        """Copy rows of a prefix to slots; pairs: (slot, row). Without pairs it only compiles."""
        chunks = bucketing.row_chunks(len(pairs), self._extend_rows) or [(slice(0, 0), n) for n in self._extend_rows]
        for part, rows in chunks:
            slots, sources = np.full(rows, self.settings.slots, np.int32), np.zeros(rows, np.int32)
            if chosen := pairs[part]:
                slots[: len(chosen)], sources[: len(chosen)] = np.array(chosen, np.int32).T
            self._cache = self._programs.insert(self._some_cache(), prefix, self._whole(slots), self._whole(sources))

    def _begin_turn(self, slot: int, newest: int, budget: int) -> None:
        self._state[slot, TOKEN], self._state[slot, BUDGET] = newest, budget
        self._state[slot, STATE] = stop_automaton.START

    def _extend(self) -> None:
        """Feed the queued tokens to the model, after the newest token of each slot, which no step has fed yet."""
        work = {}
        for slot, (added, budget) in self._queued.items():
            work[slot] = np.asarray([self._state[slot, TOKEN], *added[:-1]], np.int32)
            self._begin_turn(slot, added[-1], budget)
        self._queued = {}
        shards = self._sharding.shards
        while work:
            length = bucketing.bucket_for(self._extend_tokens, max(map(len, work.values())))
            slots = sorted(work, key=lambda slot: -self._cached[slot])
            for targets in bucketing.shard_chunks(slots, self.settings.slots // shards, shards, self._extend_rows):
                taken = targets[targets < self.settings.slots]
                self._cached[taken] += [min(length, len(work[slot])) for slot in taken.tolist()]
                self._run_extend(targets, work, length, int(self._cached[taken].max()))
            work = {slot: rest[length:] for slot, rest in work.items() if len(rest) > length}

    def _run_extend(self, targets: np.ndarray, work: dict[int, np.ndarray], length: int, reach: int) -> None:
        """Feed the first `length` tokens of `work` to the slots `targets`; entries that are no slot do nothing."""
        parts = [work[slot][:length] if slot in work else np.zeros(0, np.int32) for slot in targets.tolist()]
        ids, counts = bucketing.padded(parts, len(targets), length)
        head, rest = self._reach(reach)
        head = self._programs.extend(self._params, head, self._whole(targets), self._whole(ids), self._whole(counts))
        self._cache = kv.rejoin(head, rest)

    def _decode(self) -> None:
        writing = np.flatnonzero(self._state[:, BUDGET])
        if not len(writing):
            return
        wanted = any(self._slots[slot].alternatives for slot in writing.tolist())
        reach = int(self._cached[writing].max()) + self.settings.steps
        found = self._run_decode(reach, ALTERNATIVES if wanted else 0)
        if not np.isfinite(found["logprobs"]).all():
            raise FloatingPointError("the model's log-probs are not finite; is the checkpoint damaged?")
        counts, endings = found["counts"], found["endings"]
        self._cached += counts
        self.stats["tokens"] += int(counts.sum())
        self.stats["engine_steps"] += 1
        self._state[writing, TOKEN] = found["ids"][writing, counts[writing] - 1]
        self._state[writing, STATE] = found["states"][writing]
        self._state[:, BUDGET] = np.where(endings == 0, self._state[:, BUDGET] - counts, 0)
        for slot in writing.tolist():
            session = self._slots[slot]
            tokens = _tokens({name: value[slot, : counts[slot]] for name, value in found.items() if value.ndim > 1},
                             session.alternatives)  # fmt: skip
            session.deliver(Piece(tokens, Ending(endings[slot])))

    def _run_decode(self, reach: int, alternatives: int) -> dict[str, np.ndarray]:
        head, rest = self._reach(reach)
        state, knobs = self._sharding.rows(self._state), self._sharding.rows(self._knobs)
        head, found = self._sampling.decode[alternatives](self._params, head, state, knobs)
        self._cache = kv.rejoin(head, rest)
        fetched: dict[str, np.ndarray] = jax.device_get(found)
        return fetched

    def _reach(self, tokens: int) -> tuple[kv.Cache, kv.Cache]:
        """Return the cache split in two parts; a context of `tokens` fits the first part."""
        return kv.split(self._some_cache(), bucketing.bucket_for(self._contexts, tokens))

    def _some_cache(self) -> kv.Cache:
        """Return the cache, an empty one after a failure."""
        if self._cache is None:
            self._cache = self._programs.new_cache()
        return self._cache

    def _whole(self, array: np.ndarray) -> np.ndarray | np.bool_ | jax.Array:
        return self._sharding.whole(array)


def _doubling(first: int, last: int) -> list[int]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(2 * sizes[-1])
    return sizes


def _tokens(found: dict[str, np.ndarray], alternatives: int) -> list[Token]:
    """Return the tokens of one row; found: arrays by name, one entry for each token."""
    return [
        Token(
            int(id),
            float(found["logprobs"][place]),
            tuple(
                (int(other), float(logprob))
                for other, logprob in zip(
                    found["top_ids"][place, :alternatives], found["top_logprobs"][place, :alternatives], strict=True
                )
            ),
        )
        for place, id in enumerate(found["ids"])
    ]


def _scores_of(session: Session, scores: dict[str, np.ndarray]) -> Piece:
    """Return the tokens of a prompt with their log-probs."""
    count = len(session.prompt) - 1
    after = {name: value[:count] for name, value in scores.items()} | {"ids": np.asarray(session.prompt[1:])}
    tokens = [Token(session.prompt[0], None), *_tokens(after, session.alternatives)]
    return Piece(tokens)
