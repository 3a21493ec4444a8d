"""Our tasks in SeqIO's own cache: written by its command seqio_cache_tasks (Beam), read back with use_cached."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio

from masksearch_jax.prep.tasks import registry

ROOT = Path(__file__).parents[2]


def examples_of(task, split, **arguments):
    """The examples of a task as comparable values, sorted: a cache keeps no order."""
    dataset = seqio.get_mixture_or_task(task).get_dataset(None, split=split, shuffle=False, **arguments)
    return sorted(
        tuple((name, np.asarray(value).tolist()) for name, value in sorted(example.items()))
        for example in dataset.as_numpy_iterator()
    )


@pytest.mark.slow
def test_cached_tasks_are_the_tasks(prepared, tmp_path):
    pytest.importorskip("apache_beam")
    command = [
        str(Path(sys.executable).with_name("seqio_cache_tasks")), "--module_import=masksearch_jax.prep.tasks",
        "--tasks=ramp_2,qa", f"--output_cache_dir={tmp_path}", "--min_shards=2",
        "--pipeline_options=--runner=DirectRunner",
    ]  # fmt: skip
    environment = {**os.environ, registry.ENVIRONMENT: str(prepared), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, timeout=400)
    registry.register(prepared)
    seqio.set_global_cache_dirs([str(tmp_path)])
    try:
        for task, splits in (("ramp_2", ("train", "test")), ("qa", ("test",))):
            assert seqio.get_mixture_or_task(task).cache_dir, f"{task} is not cached"
            for split in splits:
                wanted = examples_of(task, split)
                assert wanted and examples_of(task, split, use_cached=True) == wanted
    finally:
        seqio.set_global_cache_dirs([])
