"""Metrics: exact means, a log that resumes, progress in pipes."""

import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.runtime import metrics


def test_mean_divides_once():
    mean = metrics.Mean()
    mean.add({"loss": (10.0, 4), "kl": (jnp.float32(0.5), np.int32(2))})
    mean.add({"loss": (jnp.float32(2.0), jnp.int32(2)), "empty": (0.0, 0)})
    # A mean of means would give (2.5 + 1) / 2.
    assert mean.result() == {"loss": 2.0, "kl": 0.25}
    assert mean.result() == {}


def test_mean_of_many_small_terms_is_exact():
    mean = metrics.Mean()
    for _ in range(10):
        mean.add({"x": (0.1, 1)})
    assert mean.result() == {"x": 0.1}


def test_log_rows(tmp_path):
    log = metrics.MetricsLog(tmp_path / "run")
    log.write(1, {"loss": jnp.float32(0.5), "name": "a", "flag": True, "none": None, "per": {"1": np.float64(0.25)}})
    log.write(2, {"loss": math.nan, "top": -math.inf, "list": np.arange(2)})
    # Read while open: rows are flushed as they are written.
    rows = metrics.read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row.pop("time") > 1e9 for row in rows] == [True, True]
    assert rows == [
        {"step": 1, "loss": 0.5, "name": "a", "flag": True, "none": None, "per": {"1": 0.25}},
        {"step": 2, "loss": "nan", "top": "-inf", "list": [0, 1]},
    ]
    log.close()


def test_cut_drops_later_rows_and_a_torn_line(tmp_path):
    log = metrics.MetricsLog(tmp_path)
    assert log.cut(3) == 0
    for step in (1, 2, 3, 4, 5):
        log.write(step, {"x": step})
    with log.path.open("a") as file:
        file.write('{"step": 3, "x')
    assert log.cut(3) == 3
    log.write(4, {"x": 40})
    log.close()
    assert [(row["step"], row["x"]) for row in metrics.read_rows(log.path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_only_the_primary_process_writes(tmp_path, capsys):
    log = metrics.MetricsLog(tmp_path / "run", primary=False)
    log.write(1, {"x": 1})
    assert log.cut(0) == 0
    log.close()
    assert list(metrics.progress(range(3), 3, "work", primary=False)) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    log = metrics.MetricsLog(tmp_path, tensorboard=True)
    log.write(1, {"loss": 0.5, "bad": math.nan})
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes() and b"bad" not in events.read_bytes()


def test_tensorboard_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="tensorboard=True needs tensorboardX"):
        metrics.MetricsLog(tmp_path, tensorboard=True)


def test_progress_lines_in_a_pipe(monkeypatch, capsys):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    assert list(metrics.progress(iter("abcdef"), 6, "work")) == list("abcdef")
    *lines, last = capsys.readouterr().err.splitlines()
    # Every reading of the clock is six seconds after the one before.
    assert lines == ["work: 2/6 in 0:18, eta 0:36", "work: 4/6 in 0:36, eta 0:18", "work: 6/6 in 0:54, eta 0:00"]
    assert last == "work: 6/6 in 1:00"


def test_a_note_stands_behind_the_count(monkeypatch, capsys):
    clock = iter(range(0, 1000, 12))
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    note = metrics.Note()
    for step in metrics.progress(range(1, 3), 2, "sft", note=note):
        note.text = f"loss {1 / step:.3f}"
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "sft: 1/2 in 0:24, eta 0:24, loss 1.000" and last.endswith(", loss 0.500")
    metrics.say("sft", "done", primary=False)
    metrics.say("sft", "goes on")
    assert capsys.readouterr().err == "sft: goes on\n"


def test_progress_left_early_says_how_far(capsys):
    with pytest.raises(KeyError), metrics.progress_bar(None, "scan") as done:
        done(5)
        raise KeyError
    assert capsys.readouterr().err == "scan: 5 in 0:00\n"


def test_progress_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with metrics.progress_bar(7, "encode") as done:
        done(7)
    shown = capsys.readouterr().err
    assert "encode" in shown and "7/7" in shown and "eta" in shown


def test_rows_are_valid_json_for_strict_readers(tmp_path):
    log = metrics.MetricsLog(tmp_path)
    log.write(1, {"x": float("inf"), "nested": {"y": float("nan")}})
    log.close()

    def refuse(constant):
        raise ValueError(constant)

    assert json.loads(log.path.read_text(), parse_constant=refuse)["nested"] == {"y": "nan"}


def test_a_log_that_is_removed_under_the_run_is_an_error(tmp_path):
    log = metrics.MetricsLog(tmp_path)
    log.write(1, {"loss": 1.0})
    log.path.unlink()
    with pytest.raises(FileNotFoundError, match="metrics.jsonl was removed while the run wrote to it"):
        log.write(2, {"loss": 1.0})


def test_a_mean_goes_on_from_its_state_exactly():
    parts = [{"loss": (np.float32(0.1) * k, np.float32(3.0))} for k in range(1, 8)]
    whole, first, second = metrics.Mean(), metrics.Mean(), metrics.Mean()
    for number, part in enumerate(parts):
        whole.add(part)
        (first if number < 3 else second).add(part)
        if number == 2:
            second.set_state(json.loads(json.dumps(first.get_state())))
    assert second.result() == whole.result() and not second.get_state()
