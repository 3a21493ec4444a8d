"""How a stage stops: what it said was saved is on disk, and its trace and trackers are closed."""

from types import SimpleNamespace

import pytest

from masksearch_jax.runtime import stop_signals
from masksearch_jax.trainers.stage import TrainingStage


@pytest.mark.parametrize(("alarmed", "status"), [("", stop_signals.RETRY), ("loss", stop_signals.ALARMED)])
def test_a_stop_waits_for_the_checkpoint_and_closes_the_log(alarmed, status):
    done = []
    stage = SimpleNamespace(
        name="sft", unit="step", alarmed=alarmed,
        checkpoints=SimpleNamespace(wait=lambda: done.append("saved")),
        _trace=SimpleNamespace(stop=lambda step: done.append("traced")),
        log=SimpleNamespace(close=lambda: done.append("closed")),
    )  # fmt: skip
    with pytest.raises(stop_signals.PreemptedError, match="sft was .*saved step 3") as caught:
        TrainingStage.stop(stage, 3)
    assert caught.value.status == status and done == ["saved", "traced", "closed"]
