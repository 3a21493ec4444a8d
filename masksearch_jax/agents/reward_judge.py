"""The judge of a reward (paper, section on rewards): a language model says whether an episode's answer is right.

Enters: batches of task texts, given answers and gold answers. Leaves: verdicts, 1.0 or 0.0, or NaN if there is none in
time. An episode with NaN is left out of the update, it does not count as zero. Verdicts are cached with the client's
replies, so the same answer is never judged twice. Left out: which episodes have an answer (rl/rewards.py).
"""

import collections
import concurrent.futures
import math
import threading
from collections.abc import Sequence

from masksearch_jax.agents import trajectory_judge
from masksearch_jax.llm.chat_types import RequestError, Sampling, UnavailableError
from masksearch_jax.llm.client import Client
from masksearch_jax.llm.structured import ReplyError

# (text of the task, given answers, accepted strings of each)
Asked = tuple[str, Sequence[str], Sequence[Sequence[str]]]


class AnswerJudge:
    """A judge that asks a language model. Thread-safe. `stats` counts since the judge was made."""

    def __init__(self, client: Client, sampling: Sampling, attempts: int, timeout_s: float, retries: int):
        """attempts: most replies asked for until one has the right form.

        timeout_s: seconds for one exchange. retries: how often a transient failure is tried again."""
        if not timeout_s > 0 or retries < 0 or attempts < 1:
            raise ValueError(
                f"judge.timeout_s={timeout_s}, retries={retries}, attempts={attempts}: > 0, >= 0 and >= 1 are needed"
            )
        self._client, self._sampling, self._attempts = client, sampling, attempts
        self._limits = {"timeout_s": timeout_s, "retries": retries}
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()

    @property
    def stats(self) -> dict[str, float]:
        """Counts of the verdicts right, wrong and dropped (no verdict), then the client's counts."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("right", "wrong", "dropped")}
        return counts | self._client.stats

    def __call__(self, asked: Sequence[Asked]) -> list[float]:
        """Return one verdict for each answer.

        Raises AccessError and BudgetSpentError, after which no further verdict is possible."""
        with concurrent.futures.ThreadPoolExecutor(self._client.settings.concurrency) as pool:
            verdicts = [pool.submit(self._one, one) for one in asked]
            try:
                return [verdict.result() for verdict in verdicts]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # the rest would be refused as well, one by one
                raise

    def _one(self, asked: Asked) -> float:
        text, given, golds = asked
        try:
            said = trajectory_judge.by_model(
                self._client, text, given, golds, self._sampling, self._attempts, **self._limits
            )
            verdict = float(said.correct)
        except (UnavailableError, RequestError, ReplyError):
            verdict = math.nan
        with self._lock:
            self._counts["dropped" if math.isnan(verdict) else "right" if verdict else "wrong"] += 1
        return verdict
