"""The documented command on an empty workdir, killed with -9 at random moments: the same parameters, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from masksearch_jax.runtime import metrics
from masksearch_jax.workflows.context import RunContext

ROOT = Path(__file__).parent.parent.parent
# The default line, shorter: fewer articles, steps and iterations; everything else as the page says.
SHORT = {
    "prepare.entities": 240,
    "prepare.tasks.epochs": 2,
    "synthesize.examples.ramp_1": 200,
    "synthesize.examples.ramp_2": 60,
    "synthesize.examples.ramp_3": 0,
    "synthesize.examples.ramp_4": 0,
    "sft.steps": 40,
    "sft.curriculum": ((300, (("ramp_1", 1.0),)), (None, (("ramp_1", 0.6), ("ramp_2", 0.4)))),
    "sft.checkpoint_every": 10,
    "sft.log_every": 2,
    "sft.eval_every": 0,
    "dapo.iterations": 8,
    "dapo.prompts": 8,
    "dapo.groups": 4,
    "dapo.curriculum": ((16, (("ramp_1", 1.0),)), (None, (("ramp_1", 0.5), ("ramp_2", 0.5)))),
    "dapo.checkpoint_every": 2,
    "dapo.eval_every": 0,
}


def command(workdir: Path) -> list[str]:
    overrides = [f"--config.{name}={value}" for name, value in SHORT.items()]
    return [
        sys.executable, "-m", "masksearch_jax.train", "--config=configs/dapo.py", f"--workdir={workdir}", *overrides
    ]  # fmt: skip


def rows_written(workdir: Path) -> int:
    """How far a run is: rows of metrics of SFT and DAPO."""
    logs = [workdir / stage / "metrics.jsonl" for stage in ("sft", "dapo")]
    return sum(log.read_bytes().count(b"\n") for log in logs if log.exists())


def final_params(workdir: Path):
    from configs import dapo

    cfg = dapo.get_config()
    cfg.mesh.data = 1
    return jax.device_get(RunContext(cfg, workdir).parameters("dapo"))


@pytest.mark.slow
def test_killed_three_times_ends_with_the_same_parameters(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), cwd=ROOT, env=environment, check=True)
    rng = random.Random()  # truly random moments; what a failure needs is its workdir, not its seed
    moments = sorted(rng.sample(range(rows_written(whole) - 3), 3))
    for moment in moments:
        process = subprocess.Popen(command(killed), cwd=ROOT, env=environment, start_new_session=True)
        while rows_written(killed) < moment:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        assert process.poll() is None, "ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print("killed after", moments, "of", rows_written(whole), "rows of metrics")
    subprocess.run(command(killed), cwd=ROOT, env=environment, check=True)
    left, right = final_params(whole), final_params(killed)
    jax.tree.map(np.testing.assert_array_equal, left, right)
    rows = [metrics.read_rows(d / "dapo" / "metrics.jsonl") for d in (whole, killed)]
    assert [r["reward"] for r in rows[0]] == [r["reward"] for r in rows[1]]
