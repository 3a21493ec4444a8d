import numpy as np
import pytest

from masksearch_jax.retrieval.service.latency_histogram import Latencies


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_those_of_the_sorted_values_to_a_tenth(share):
    seconds = np.random.default_rng(0).lognormal(-4, 1.5, 2000)
    latencies = Latencies()
    for one in seconds:
        latencies.add(one)
    true = np.quantile(seconds, share, method="inverted_cdf")
    assert true <= latencies.quantile(share) * (1 + 1e-9) and latencies.quantile(share) <= 1.1 * max(true, 1e-4)


def test_edges():
    latencies = Latencies()
    assert latencies.summary() == {"latency_p50_ms": 0.0, "latency_p99_ms": 0.0}
    latencies.add(0.0)
    assert latencies.quantile(0.5) == 1e-4
    latencies.add(1e6)
    assert 100 < latencies.quantile(1.0) < 1000  # the last bin has no upper end
