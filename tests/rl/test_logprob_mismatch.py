import numpy as np
import pytest

from masksearch_jax.rl import logprob_mismatch


def mean(found):
    return {name: total / count for name, (total, count) in found.items()}


def test_measures_equal_numpy_on_ratios_worked_by_hand():
    logs = np.log([1.05, 0.9, 2.5, 1, 0.5, 3, 1.02])  # rl.md, test vector of TIS
    sampler = np.log([0.5, 0.4, 0.1, 0.7, 0.9, 0.2, 0.3])
    found = mean(logprob_mismatch.measure(sampler + logs, sampler))
    assert found["sampler_abs_diff"] == pytest.approx(np.abs(logs).mean())
    assert found["sampler_kl"] == pytest.approx(-logs.mean())
    assert found["sampler_max_diff"] == pytest.approx(np.log(3))
    trainer = np.exp(sampler + logs)
    assert found["sampler_prob_diff"] == pytest.approx(np.abs(trainer - np.exp(sampler)).mean())
    assert found["sampler_correlation"] == pytest.approx(np.corrcoef(trainer, np.exp(sampler))[0, 1])
    assert logprob_mismatch.measure(np.zeros(0), np.zeros(0)) == {}
    assert "sampler_correlation" not in logprob_mismatch.measure(np.full(3, -1.0), np.full(3, -1.0))
