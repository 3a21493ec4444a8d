"""A checkpoint as the language model: chat prompts through the rollout engine, one reply an episode.

Enters: conversations, from as many threads as there are. Leaves: completions. What is asked at about the same time
shares a run of the engine. A reply ends with an end token, at its limit, or (as the decode programs are the policy's)
with a closing tag of ours. Left out: several system messages, and what a chat template writes for earlier turns: a
conversation becomes one user message.
"""

import concurrent.futures
import dataclasses
import hashlib
import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from masksearch_jax.llm.interface import AccessError, Completion, Message, RequestError, Sampling, TransientError, Usage
from masksearch_jax.rollout import decode, episode
from masksearch_jax.rollout.engine import RolloutConfig, RolloutEngine
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.text import chat, tags
from masksearch_jax.text.interface import Tokenizer

_GATHER_S = 0.02  # how long the first of a batch waits for others
_FINISH = {episode.Ending.STOP: StopReason.ANSWER, episode.Ending.EOS: StopReason.EOS}


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """A `rollout.request.Task`: a conversation as token ids."""

    id: str
    prompt: list[int]
    max_tokens: int
    passage_id: int = -1
    article_id: int = -1


@dataclasses.dataclass(frozen=True)
class _Asked:
    task: _Prompt
    key: tuple[int, ...]
    greedy: bool
    reply: concurrent.futures.Future


class _NoSearch:
    """The engine asks for a search tool; a reply uses none."""

    fingerprint, stats = "none", {}

    def search(self, queries, k):
        raise AssertionError("a reply does not search")


class _Reply:
    """The rules of a reply: one turn."""

    forced_query, answer = None, ""

    def __init__(self, request: Request, prompt_length: int, total_tokens: int, tokenizer: Tokenizer):
        self.budget = min(request.task.max_tokens, total_tokens - prompt_length)
        self.turns: list[Turn] = []
        self._start, self._tokenizer = prompt_length, tokenizer

    def end_turn(self, ids: Sequence[int], ending: episode.Ending) -> episode.Done:
        kept = ids[:-1] if ending == episode.Ending.EOS else ids
        self.turns.append(Turn("answer", self._start, self._start + len(ids), self._tokenizer.decode(kept)))
        return episode.Done(_FINISH.get(ending, StopReason.TURN_TOKENS))


class LocalModel:
    """Implements `interface.Backend`."""

    def __init__(
        self,
        name: str,
        cfg: RolloutConfig,
        model_cfg: Any,
        params: Any,
        tokenizer: Tokenizer,
        mesh: Any,
        family: str,
        temperature: float,
    ):
        """cfg: slots, ladders and limits.total_tokens (prompt and reply). params: in the DECODE layout. family: as
        text.chat.frame. temperature: the one that is not 0 (greedy), compiled in. Raises ValueError as the engine."""
        self.name, self._params, self._tokenizer, self._family = name, params, tokenizer, family
        self._temperature, self._total = temperature, cfg.limits.total_tokens
        cfg = dataclasses.replace(cfg, sampling=decode.Sampling(temperature or 1.0))

        def rules(request: Request, length: int) -> _Reply:
            return _Reply(request, length, self._total, tokenizer)

        self._engine = RolloutEngine(cfg, model_cfg, tokenizer, _NoSearch(), mesh, rules)
        self._slots = cfg.slots
        self._waiting: queue.Queue[_Asked | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="local model", daemon=True)
        self._thread.start()

    def complete(self, messages: Sequence[Message], sampling: Sampling, timeout_s: float) -> Completion:
        if sampling.temperature not in (0.0, self._temperature):
            raise AccessError(f"temperature {sampling.temperature}: {self.name} samples at 0 or {self._temperature}")
        ids = self.prompt(messages)
        if len(ids) >= self._total:
            raise RequestError(f"a prompt of {len(ids)} tokens; llm.total_tokens={self._total} holds it and the reply")
        digest = hashlib.blake2b(repr((ids, sampling)).encode(), digest_size=24).digest()
        key = tuple(int(word) for word in np.frombuffer(digest, np.int64))
        task = _Prompt(digest.hex()[:16], ids, sampling.max_tokens)
        asked = _Asked(task, key, sampling.temperature == 0, concurrent.futures.Future())
        self._waiting.put(asked)
        try:
            return asked.reply.result(timeout_s)
        except concurrent.futures.TimeoutError:
            asked.reply.cancel()
            raise TransientError(f"no reply of {self.name} within {timeout_s} s") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation: the system message, then all others as one user message. Passages are quoted
        there, so no tag of ours but the mask survives."""
        said = [(m.role, tags.neutralise_all_but_masks(m.content)) for m in messages]
        system = "\n\n".join(content for role, content in said if role == "system")
        rest = "\n\n".join(content for role, content in said if role != "system").strip()
        if not self._family:  # a base model knows no roles
            return chat.frame(self._tokenizer, "").encode(self._tokenizer, "\n\n".join(filter(None, [system, rest])))
        return chat.frame(self._tokenizer, self._family, system).encode(self._tokenizer, rest)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            try:
                while len(batch) < self._slots:
                    asked = self._waiting.get(timeout=_GATHER_S)
                    if asked is None:
                        self._waiting.put(None)  # for the next turn of this loop
                        break
                    batch.append(asked)
            except queue.Empty:
                pass
            for greedy in (True, False):
                self._run([a for a in batch if a.greedy == greedy and a.reply.set_running_or_notify_cancel()], greedy)

    def _run(self, batch: list[_Asked], greedy: bool) -> None:
        if not batch:
            return
        requests = [Request(a.task, group, 0, a.key) for group, a in enumerate(batch)]
        try:
            found = self._engine.run(self._params, requests, version=0, seed=0, greedy=greedy)
        except Exception as error:  # whatever it is, each asker has to hear of it
            for asked in batch:
                asked.reply.set_exception(error)
            return
        for asked, one in zip(batch, found, strict=True):
            asked.reply.set_result(_completion(one))


def _completion(one: Trajectory) -> Completion:
    usage = Usage(one.prompt_length, one.generated)
    return Completion(one.turns[0].text.strip(), usage, "length" if one.stop == StopReason.TURN_TOKENS else "stop")
