"""Sum up several sampled episodes per task: avg@n and pass@k.

Enters: the rows of `runner.evaluate` with `samples`. Leaves: their means over all episodes (avg@n), and for several k
the probability that one of k episodes passes (pass@k), without bias from n episodes. A row passes if its score, or else
its EM, is 1.
"""

import collections
import math
from collections.abc import Mapping, Sequence

from masksearch_jax.evals.runner import Row
from masksearch_jax.runtime.types import Json, JsonObject


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return 1 - C(n - c, k) / C(n, k) for n samples of which c passed.

    It is the expected share of k-subsets that hold a passing sample, an unbiased estimate of pass@k (Chen et al. 2021,
    Evaluating Large Language Models Trained on Code, equation 1). Raises ValueError unless 0 <= passed <= samples and
    1 <= k <= samples.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {samples} samples, {passed} of them passed: 1 <= k <= samples is needed")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def summarise_samples(rows: Sequence[Row], samples: int, temperature: float) -> JsonObject:
    """Return {'samples', 'temperature', 'avg': {score: mean}, 'pass': {k: mean over tasks}} of one suite's rows.

    k: the powers of two up to the number of samples, and that number. Raises ValueError unless each task has `samples`
    rows.
    """
    passed: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    for row in rows:
        counts[row.task_id] += 1
        passed[row.task_id] += (row.em if row.score is None else row.score) >= 1.0
    if not rows or set(counts.values()) != {samples}:
        raise ValueError(f"{samples} rows of each task are needed, got {sorted(set(counts.values()))}")
    scores = ("recall", "em", "f1", "format", "searches")
    avg = {name: math.fsum(getattr(row, name) for row in rows) / len(rows) for name in scores}
    own = [row.score for row in rows if row.score is not None]
    if len(own) == len(rows):
        avg["score"] = math.fsum(own) / len(own)
    tries = sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})
    by_k = {str(k): math.fsum(pass_at_k(samples, passed[task], k) for task in counts) / len(counts) for k in tries}
    return {"samples": samples, "temperature": temperature, "avg": avg, "pass": by_k}


def sampled_table(scores: Mapping[str, Mapping[str, Json]]) -> str:
    """Return lines such as 'hotpotqa, 8 samples at temperature 1: avg@8 recall 0.210, em 0.150; pass@1 0.150, ..'."""
    lines = []
    for name, summary in scores.items():
        found = summary["sampled"]
        shown = {key: value for key, value in found["avg"].items() if key in ("recall", "em", "f1", "score")}
        avg = ", ".join(f"{key} {value:.3f}" for key, value in shown.items())
        by_k = ", ".join(f"pass@{k} {value:.3f}" for k, value in found["pass"].items())
        lines.append(
            f"{name}, {found['samples']} samples at temperature {found['temperature']:g}: "
            f"avg@{found['samples']} {avg}; {by_k}"
        )
    return "\n".join(lines)
