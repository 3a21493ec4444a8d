"""One episode to run: its task, its place in the batch, and the integers that key its random bits.

The engine takes a list of requests. Left out: slots and devices.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from masksearch_jax.retrieval import interface


class Task(Protocol):
    """The fields of a data.records.Task that a rollout reads."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def passage_id(self) -> int: ...
    @property
    def article_id(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Request:
    """One episode to run.

    group, sample: which prompt of the batch, and which of its samples. Consecutive requests of one group share their
    prefill. key: integers that identify the episode, such as (epoch, prompt, sample, attempt). Together with the seed
    they key its random bits, so two requests with the same key and prompt write the same tokens.
    token_permutation: int32 [V], which leaves tags, pad and eos in place, or None. The model sees token_permutation[id]
    for each id of prompt and observation, and the ids that it writes are mapped back before they become text.
    forced_search: a query to run before the policy writes anything, or None. The policy then only completes the answer.
    length_hint: how long the episode may become, in any unit. Longer ones enter slots first. It changes when an episode
    runs, but not what it reads or writes.
    """

    task: Task
    group: int
    sample: int
    key: tuple[int, ...]
    token_permutation: np.ndarray | None = None
    forced_search: str | None = None
    length_hint: float = 0.0


def sampling_key(seed: int, key: Sequence[int]) -> np.ndarray:
    """Return uint32 [2], a hash of (seed, *key) that is the same on every platform."""
    data = struct.pack(f"<{len(key) + 1}q", seed, *key)
    return np.frombuffer(hashlib.blake2b(data, digest_size=8).digest(), np.uint32)


def query_of(task: Task, text: str, tool: str = "search", found: tuple[interface.Hit, ...] = ()) -> interface.Query:
    """Return the call of a tool in an episode of a task. found: as in interface.Query."""
    return interface.Query(text, task.passage_id, task.article_id, tool, found)
