"""A checkpoint as the language model: chat prompts go through the rollout engine, one reply per episode.

Enters: conversations, from any number of threads. Leaves: completions. Requests that arrive at about the same time
share a run of the engine. A reply ends with an end token, at its limit, or with one of our closing tags, because the
decode programs are those of the policy. A thought that the chat template has opened is part of the reply, with its tag.
Left out: several system messages, and what a chat template writes for earlier turns: a conversation becomes one user
message.
"""

import concurrent.futures
import dataclasses
import hashlib
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from masksearch_jax.llm.chat_types import (
    AccessError,
    Completion,
    Message,
    RequestError,
    Sampling,
    TransientError,
    Usage,
)
from masksearch_jax.rollout import device_programs, episode
from masksearch_jax.rollout.engine import RolloutConfig, RolloutEngine
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.runtime.types import Json, Params
from masksearch_jax.text import prompt, tags
from masksearch_jax.text.chat_template import ChatTemplate, open_chat_template
from masksearch_jax.text.tokenizer_protocol import Tokenizer

_MOST_TEMPLATES = 64  # that are kept, one for each system message; the agents have a few
_GATHER_S = 0.02  # how long the first request of a batch waits for others
_FINISH = {episode.Ending.STOP: StopReason.ANSWER, episode.Ending.EOS: StopReason.EOS}


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """A conversation as token ids, in the form of a `rollout.request.Task`."""

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
    """A search tool that is never used: the engine needs one, a reply does not."""

    fingerprint = "none"
    stats: dict[str, float] = {}

    def search(self, queries, k):
        raise AssertionError("a reply does not search")


class _Reply:
    """The rules of an episode that is one reply: it has one turn."""

    forced_query, answer = None, ""

    def __init__(self, request: Request, prompt_length: int, total_tokens: int, tokenizer: Tokenizer):
        self.budget = min(cast(_Prompt, request.task).max_tokens, total_tokens - prompt_length)
        self.turns: list[Turn] = []
        self._start, self._tokenizer = prompt_length, tokenizer
        self._opened = prompt.opened_thought(request.task.prompt, tokenizer)

    def end_turn(self, ids: Sequence[int], ending: episode.Ending) -> episode.Done:
        kept = ids[:-1] if ending == episode.Ending.EOS else ids
        text = self._opened + self._tokenizer.decode(kept)
        self.turns.append(Turn("answer", self._start, self._start + len(ids), text))
        return episode.Done(_FINISH.get(ending, StopReason.TURN_TOKENS))


class LocalModel:
    """A checkpoint behind the rollout engine. Implements `chat_types.Backend`."""

    def __init__(
        self,
        name: str,
        cfg: RolloutConfig,
        model_cfg: Any,  # a ModelConfig and a jax.sharding.Mesh, which are only handed to the rollout engine
        params: Params,
        tokenizer: Tokenizer,
        mesh: Any,
        chat: str,
        temperature: float,
        chat_variables: Mapping[str, Json] | None = None,
    ):
        """Build the engine and start the thread that runs it.

        cfg: slots, buckets and limits.total_tokens (prompt and reply). params: in the DECODE layout. chat,
        chat_variables: as for text.chat_template.open_chat_template. temperature: the only one besides 0 (greedy),
        compiled in. Raises ValueError as the engine does, and for a chat template that does not work."""
        self.name, self._params, self._tokenizer = name, params, tokenizer
        self._chat, self._chat_variables = chat, dict(chat_variables or {})
        self._templates: dict[str, ChatTemplate] = {}  # by system message
        self._template("")  # a template that does not work fails here
        self._temperature, self._total = temperature, cfg.limits.total_tokens
        cfg = dataclasses.replace(cfg, sampling=device_programs.Sampling(temperature or 1.0))

        def rules(request: Request, length: int) -> Any:  # a _Reply, which does what the engine asks of an Episode
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
        """Return the ids of a conversation: the system message, then all other messages as one user message.

        Messages quote passages, so none of our tags except the mask survives."""
        said = [(m.role, tags.neutralise_all_but_masks(m.content)) for m in messages]
        system = "\n\n".join(content for role, content in said if role == "system")
        rest = "\n\n".join(content for role, content in said if role != "system").strip()
        if not self._chat:  # a base model knows no roles
            system, rest = "", "\n\n".join(filter(None, [system, rest]))
        return self._template(system).encode(self._tokenizer, rest)

    def _template(self, system: str) -> ChatTemplate:
        """Return the chat template with a system message. Two threads at once may both open it, which does no harm."""
        found = self._templates.get(system)
        if found is None:
            found = open_chat_template(self._tokenizer, self._chat, system, self._chat_variables)
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            self._templates[system] = found
        return found

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
                        self._waiting.put(None)  # for the next iteration of this loop
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
        except Exception as error:  # whatever it is, each caller has to get it
            for asked in batch:
                asked.reply.set_exception(error)
            return
        for asked, one in zip(batch, found, strict=True):
            asked.reply.set_result(_completion(one))


def _completion(one: Trajectory) -> Completion:
    usage = Usage(one.prompt_length, one.generated)
    return Completion(one.turns[0].text.strip(), usage, "length" if one.stop == StopReason.TURN_TOKENS else "stop")
