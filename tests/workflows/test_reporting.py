"""The page by command, and at the end of an experiment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from masksearch_jax.workflows import dispatch, reporting

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def drawing():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "W"
    (folder / "sft").mkdir(parents=True)
    rows = [{"step": n, "time": 1795730000.0 + n, "loss": 2.0 / n, "tokens_per_s": 100.0 * n} for n in (50, 100)]
    (folder / "sft" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_command_gives_the_same_bytes_in_another_process(workdir, drawing):
    here = reporting.write(workdir).read_bytes()
    (workdir / "report.html").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "masksearch_jax.report", f"--workdir={workdir}"],
        cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "77"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(workdir / "report.html")
    assert (workdir / "report.html").read_bytes() == here


def test_the_command_names_what_to_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "masksearch_jax.report", f"--workdir={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and "holds no run" in done.stderr and "Traceback" not in done.stderr


def test_an_experiment_ends_with_its_page(workdir, monkeypatch, capsys, drawing):
    monkeypatch.setitem(dispatch._WORKFLOWS, "made", lambda cfg, folder: {"done": True})
    settings = ConfigDict({"workflow": "made", "distributed": {"processes": 1}, "benchmarks": {"custom": ""}})
    assert dispatch.run(settings, workdir) == {"done": True}
    assert (workdir / "report.html").exists() and "report.html" in capsys.readouterr().out


def test_results_are_kept_where_a_library_is_missing(workdir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    dispatch.show(workdir)
    assert "masksearch_jax.report" in capsys.readouterr().err and not (workdir / "report.html").exists()
