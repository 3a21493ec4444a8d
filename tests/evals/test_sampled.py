"""avg@n and pass@k: the published estimator, its lack of bias, and the sums over tasks."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from masksearch_jax.evals import runner, sampled


def row(task, em, score=None, sample=0):
    return runner.Row(task, "qa", 1, ["answer"], "", [["a"]], "a", ["a"], [em], [em], [em], em, em, em, 1.0, [True],
                      1.0, 2, ["q"], 1, 3, "answer", [], score=score, sample=sample)  # fmt: skip


def published(n: int, c: int, k: int) -> float:
    """The estimator as Chen et al. (2021) compute it, a product that needs no factorials."""
    return 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def test_the_published_formula_and_every_subset():
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            passed = [True] * c + [False] * (n - c)
            subsets = [any(chosen) for chosen in itertools.combinations(passed, k)]
            assert sampled.pass_at_k(n, c, k) == pytest.approx(published(n, c, k))
            assert sampled.pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_it_is_unbiased(share):
    """Over all outcomes of 6 draws, the expected estimate is 1 - (1 - p)^k."""
    for k in range(1, 7):
        chance = [math.comb(6, c) * share**c * (1 - share) ** (6 - c) for c in range(7)]
        expected = sum(weight * sampled.pass_at_k(6, c, k) for c, weight in enumerate(chance))
        assert expected == pytest.approx(1 - (1 - share) ** k)


def test_summary_over_tasks():
    ems = {"a": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), "b": (1.0, 1.0, 1.0, 0.0, 0.0, 0.0), "c": (0.0,) * 6}
    rows = [row(task, em, sample=i) for task, given in ems.items() for i, em in enumerate(given)]
    found = sampled.summarise_samples(rows, 6, 0.7)
    assert (found["samples"], found["temperature"]) == (6, 0.7) and list(found["pass"]) == ["1", "2", "4", "6"]
    assert found["avg"]["em"] == pytest.approx(4 / 18) == pytest.approx(found["pass"]["1"])  # avg@n is pass@1
    assert found["pass"]["6"] == pytest.approx(2 / 3)
    assert "avg@6 recall 0.222" in sampled.sampled_table({"qa": {"sampled": found}})
    # The chosen metric decides where there is one.
    judged = [dataclasses.replace(one, score=1.0) for one in rows]
    found = sampled.summarise_samples(judged, 6, 0.7)
    assert found["pass"]["1"] == found["avg"]["score"] == 1.0
    with pytest.raises(ValueError, match="6 rows of each task"):
        sampled.summarise_samples(rows[1:], 6, 0.7)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_numbers_that_cannot_be(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        sampled.pass_at_k(n, c, k)
