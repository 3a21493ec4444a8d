import jax
import numpy as np
import pytest

from masksearch_jax.runtime import device_peaks
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers.stage_costs import StageCosts

SECONDS = {"since_last": 7.0, "rollout": 3.0, "update": 1.0, "logprobs": 0.0}
FLOPS = {"rollout": 6e12, "update": 2e12, "logprobs": 0.0}


def test_rates_leave_out_what_is_between_the_iterations():
    costs = StageCosts(mesh_lib.make_mesh(1, 1, 1))
    jax.jit(lambda x: x - 5)(np.ones(3))
    row = costs.row(SECONDS, FLOPS, 1200)
    assert row["tokens_per_s"] == 300 and row["flops_per_s"] == 2e12 and row["update/flops"] == 2e12
    assert "mfu" not in row and "update/mfu" not in row  # a CPU has no peak
    assert row["compile/programs"] == 1 and row["compile/seconds"] > 0 and row["memory/host_peak_bytes"] > 0
    row = costs.row(SECONDS, FLOPS, 0)
    assert row["compile/programs"] == 0 == row["compile/seconds"]


def test_utilisation_is_of_all_devices(monkeypatch):
    monkeypatch.setattr(device_peaks, "peak_flops", lambda kind: 4e12)
    mesh = mesh_lib.make_mesh(1, 1, 1)
    row = StageCosts(mesh).row(SECONDS, FLOPS, 1)
    assert row["mfu"] == pytest.approx(8 / 4 / 4)
    assert row["rollout/mfu"] == pytest.approx(0.5) and row["update/mfu"] == 0.5 and "logprobs/mfu" not in row
    if len(jax.devices()) > 1:
        assert StageCosts(mesh_lib.make_mesh(2, 1, 1)).row(SECONDS, FLOPS, 1)["mfu"] == pytest.approx(0.25)
