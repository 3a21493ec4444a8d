"""Choose how wide a built ScaNN index searches: the recall floor at the least cost, on queries like the real ones.

Enters: an index, `recall_check.Truth` of the probes, the floor, and which of leaves_to_search and reorder are left
open. Leaves: the index at its choice and what was tried. Neither number needs a new build. For each number of reordered
candidates, bisection finds the fewest leaves that reach the floor, since recall grows with the leaves. The more
candidates, the fewer leaves. The fastest of these pairs wins, by the clock, because cost depends on the machine. The
floor must hold on either half of the probes by itself, so that a pair that reaches it on one sample by luck is passed
over. Left out: settings that need another build.
"""

import time

import numpy as np

from masksearch_jax.retrieval.index import recall_check, scann_index
from masksearch_jax.retrieval.index.index_settings import ScannSettings
from masksearch_jax.runtime.types import JsonObject

_STEP = 1.25  # ratio of neighbouring numbers of leaves
_REORDER = (1, 2, 4, 8, 16, 32, 64)  # times k
_ROUNDS = 3  # timed searches of all probes; the fastest counts, because others share the machine


def tune(
    index: scann_index.ScannIndex, truth: recall_check.Truth, settings: ScannSettings, floor: float
) -> tuple[scann_index.ScannIndex, list[JsonObject]]:
    """Return (index at its choice, a dict for each pair that was timed).

    The dict holds leaves_to_search, reorder, recall and microseconds a query. If nothing reaches the floor, the widest
    search is returned and the caller decides.
    """
    if index.plan.method == "brute_force":
        return index, []
    size = len(index.vectors) // index.plan.shards
    leaves = [index.plan.leaves_to_search]
    if index.plan.method == "tree" and settings.leaves_to_search == 0:
        leaves = _widths(index.plan.leaves)
    reorders = [index.plan.reorder]
    if settings.reorder == 0:
        reorders = sorted({min(times * truth.k, size) for times in _REORDER})
    tried, best = [], None
    for reorder in reorders:
        if not leaves:
            break
        found = _fewest(index, truth, leaves, reorder, floor)
        if found is None:
            continue
        # At as many leaves, more reordered candidates only cost more: the next number has to do with fewer leaves.
        leaves = [count for count in leaves if count < found.plan.leaves_to_search]
        seconds = min(_seconds(found, truth.queries, truth.k) for _ in range(_ROUNDS))
        tried.append({
            "leaves_to_search": found.plan.leaves_to_search,
            "reorder": reorder,
            "recall": round(truth.measure(found), 4),
            "us_a_query": round(1e6 * seconds / len(truth.queries), 1),
        })
        if best is None or seconds < best[0]:
            best = seconds, found
    if best is None:  # then all leaves are still there
        return index.searching(leaves[-1], reorders[-1]), tried
    return best[1], tried


def _widths(most: int) -> list[int]:
    steps = [1]
    while steps[-1] < most:
        steps.append(min(most, max(steps[-1] + 1, int(steps[-1] * _STEP))))
    return steps


def _fewest(
    index: scann_index.ScannIndex, truth: recall_check.Truth, leaves: list[int], reorder: int, floor: float
) -> scann_index.ScannIndex | None:
    """Return the index at the first of the ascending `leaves` that reaches the floor; None if the last does not."""
    low, high, found = 0, len(leaves), None
    at = high - 1  # the last first: where it fails, so do all
    while low < high:
        tried = index.searching(leaves[at], reorder)
        if _reaches(truth.shares(tried), floor):
            high, found = at, tried
        elif at == len(leaves) - 1:
            return None
        else:
            low = at + 1
        at = (low + high) // 2
    return found


def _reaches(shares: np.ndarray, floor: float) -> bool:
    return min(shares[::2].mean(), shares[1::2].mean() if len(shares) > 1 else 1.0) >= floor


def _seconds(index: scann_index.ScannIndex, queries: np.ndarray, k: int) -> float:
    started = time.perf_counter()
    index.search(queries, k)
    return time.perf_counter() - started
