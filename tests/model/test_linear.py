"""Linear maps in their two forms, against numpy in float64."""

import jax
import numpy as np
import pytest

from masksearch_jax.model import linear

_MAPS = {
    "linear": (linear.linear, (2, 5, 256), (256, 300), "bsd,df->bsf"),
    "to_heads": (linear.to_heads, (2, 5, 256), (256, 6, 48), "bsd,dnh->bnsh"),
    "from_heads": (linear.from_heads, (2, 6, 5, 48), (6, 48, 256), "bnsh,nhd->bsd"),
}


@pytest.mark.parametrize("name", _MAPS)
@pytest.mark.parametrize("least", [1 << 16, 1 << 20])  # as a matrix; as it is written
def test_outputs_and_gradients(name, least, monkeypatch):
    monkeypatch.setattr(linear, "_LARGE", least)
    call, shape, weight_shape, spec = _MAPS[name]
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=size).astype(np.float32) for size in (shape, weight_shape))
    wide = x.astype(np.float64), weight.astype(np.float64)
    expected = np.einsum(spec, *wide)
    grad = rng.normal(size=expected.shape).astype(np.float32)

    out, back = jax.vjp(jax.jit(call), x, weight)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    (left, right), result = spec.split("->")[0].split(","), spec.split("->")[1]
    by_x, by_weight = back(grad)
    np.testing.assert_allclose(by_x, np.einsum(f"{result},{right}->{left}", grad, wide[1]), atol=1e-4)
    np.testing.assert_allclose(by_weight, np.einsum(f"{left},{result}->{right}", wide[0], grad), atol=1e-4)


def test_a_large_weight_on_a_cpu_is_one_matrix_product():
    """No transposed weight in the program, which einsum leaves there."""
    weight = np.ones((576, 9, 64), np.float32)
    text = jax.jit(linear.to_heads).lower(np.ones((2, 4, 576), np.float32), weight).as_text()
    assert "(tensor<8x576xf32>, tensor<576x576xf32>) -> tensor<8x576xf32>" in text
