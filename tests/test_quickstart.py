"""The whole line at its real size: what the quickstart promises, for three seeds. Half an hour; run by name.

    bash launch/test.sh -m slow tests/test_quickstart.py -s

Workdirs are runs/proof/seed-<n>, where finished stages are reused: remove them to prove from nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from masksearch_jax.data import records
from masksearch_jax.evals import report
from masksearch_jax.evals.runner import read_rows

ROOT = Path(__file__).parent.parent


def experiment(page: str, seed: int, workdir: Path) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-m", "masksearch_jax.experiment", f"--config=configs/{page}", f"--config.seed={seed}",
         f"--workdir={workdir}"],
        cwd=ROOT, env=environment, check=True,
    )  # fmt: skip
    return json.loads((workdir / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_search_is_learned_and_dapo_raises_the_held_out_score(seed):
    workdir = ROOT / "runs" / "proof" / f"seed-{seed}"
    found = experiment("quickstart.py:proof", seed, workdir)
    for policy in report.POLICIES:
        assert found[policy]["episodes"] >= 400
        assert set(report.SCORES) <= set(found[policy])
    assert found["untrained"]["recall"] <= 0.05
    assert found["sft"]["recall"] >= 0.35
    assert found["dapo"]["recall"] >= 0.50
    for control in ("sft", "sft_more"):
        gain = found["gains"][control]
        assert gain["difference"] > 3 * gain["se"], (control, gain)
    assert_held_out(workdir)


@pytest.mark.slow
def test_a_strong_teacher_beside_it():
    """No floor: the report tells what the weak teacher contributed."""
    found = experiment("quickstart.py:strong", 0, ROOT / "runs" / "proof" / "strong-0")
    assert found["sft"]["recall"] > found["untrained"]["recall"]


def assert_held_out(workdir: Path) -> None:
    """No name of a test article stands in a training prompt, a gold answer, the training index or tokenizer text."""
    passages = list(records.read(workdir / "data" / "passages.array_record", records.Passage))
    test = {p.title for p in passages if p.split == "test"}
    evaluated = read_rows(workdir / "evaluate" / "dapo" / "rows.jsonl")
    assert {name for row in evaluated if row.kind == "ramp" for name in _names(row.text)} & test
    # Train passages are all that the tokenizer and the training index were made of (tests/prep, tests/retrieval).
    seen = [p.text for p in passages if p.split == "train"]
    for path in sorted((workdir / "data" / "tasks" / "train").glob("*/*.array_record")):
        for task in records.read(path, records.Task):
            seen += [task.text, *(gold for golds in task.answers for gold in golds)]
    assert not {name for text in seen for name in _names(text)} & test


def _names(text: str) -> set[str]:
    words = text.replace(".", " ").replace(",", " ").replace("(", " ").replace(")", " ").split()
    return {f"{a} {b}" for a, b in zip(words, words[1:], strict=False)}
