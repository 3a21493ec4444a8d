"""One episode to run: the task, who it is, and the integers that key its random bits.

Enters the engine as a list; nothing here knows of slots or devices.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from masksearch_jax.retrieval import interface


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
    expected: how long the episode may become, in any unit: longer ones enter slots first. It changes when an episode
    runs, not what it reads or writes.
    """

    task: Task
    group: int
    sample: int
    key: tuple[int, ...]
    pieces: np.ndarray | None = None
    forced_search: str | None = None
    expected: float = 0.0


def sampling_key(seed: int, key: Sequence[int]) -> np.ndarray:
    """Returns two uint32 words that identify (seed, *key), by a hash that is the same on every platform."""
    data = struct.pack(f"<{len(key) + 1}q", seed, *key)
    return np.frombuffer(hashlib.blake2b(data, digest_size=8).digest(), np.uint32)


def query_of(task: Task, text: str) -> interface.Query:
    return interface.Query(text, task.passage_id, task.article_id)
