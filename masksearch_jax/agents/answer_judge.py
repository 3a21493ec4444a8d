"""The judge of a reward (paper, section on rewards): is what an episode answered right, says a language model.

Enters: texts, given answers, gold answers, by the batch. Leaves: verdicts, 1.0, 0.0, or NaN where there is none in
time: such an episode is left out of the update, it is no zero. Verdicts are cached with the client's replies, so an
answer that was judged once is judged for ever. Left out: which episodes have an answer (rl/rewards.py).
"""

import collections
import concurrent.futures
import math
import threading
from collections.abc import Sequence

from masksearch_jax.agents import judge
from masksearch_jax.llm.client import Client
from masksearch_jax.llm.interface import RequestError, Sampling, UnavailableError
from masksearch_jax.llm.structured import ReplyError

# (text of the task, given answers, accepted strings of each)
Asked = tuple[str, Sequence[str], Sequence[Sequence[str]]]


class AnswerJudge:
    """Thread-safe. `stats` counts since it was made."""

    def __init__(self, client: Client, sampling: Sampling, attempts: int, timeout_s: float, retries: int):
        """timeout_s: of one exchange. retries: after a transient failure. attempts: replies, until one has the form."""
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
        """right, wrong, dropped (no verdict), then the client's."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("right", "wrong", "dropped")}
        return counts | self._client.stats

    def __call__(self, asked: Sequence[Asked]) -> list[float]:
        """Returns a verdict each. Raises AccessError and BudgetSpentError: no verdict could follow."""
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
            said = judge.by_model(
                self._client, text, given, golds, self._sampling, self._attempts, **self._limits
            )
            verdict = float(said.correct)
        except (UnavailableError, RequestError, ReplyError):
            verdict = math.nan
        with self._lock:
            self._counts["dropped" if math.isnan(verdict) else "right" if verdict else "wrong"] += 1
        return verdict
