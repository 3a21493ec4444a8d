"""Metrics: exact means, and a log that resumes and is shown elsewhere."""

import json
import math

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


class Seen:
    """A tracker that keeps what it gets."""

    def __init__(self):
        self.calls = []

    def cut(self, step):
        self.calls.append(("cut", step))

    def write(self, step, row):
        self.calls.append((step, {name: value for name, value in row.items() if name != "time"}))

    def samples(self, step, texts, histograms):
        self.calls.append((step, texts, sorted(histograms())))

    def close(self):
        self.calls.append("close")


def test_trackers_get_the_rows_as_they_are_written(tmp_path):
    seen = Seen()
    log = metrics.MetricsLog(tmp_path, trackers=[seen])
    log.cut(0)
    log.write(1, {"loss": jnp.float32(0.5), "bad": math.nan})
    log.samples(1, {"episode": "text"}, lambda: {"lengths": metrics.Histogram.of([1, 2])})
    log.close()
    row = {"step": 1, "loss": 0.5, "bad": "nan"}
    assert seen.calls == [("cut", 0), (1, row), (1, {"episode": "text"}, ["lengths"]), "close"]


def test_only_the_primary_process_writes(tmp_path):
    seen = Seen()
    log = metrics.MetricsLog(tmp_path / "run", primary=False, trackers=[seen])
    log.write(1, {"x": 1})
    log.samples(1, {}, lambda: pytest.fail("nobody asked"))
    assert log.cut(0) == 0
    log.close()
    assert list(tmp_path.iterdir()) == [] and not seen.calls


def test_a_histogram_counts_the_finite_values():
    found = metrics.Histogram.of([0.0, 1.0, 1.0, math.nan, math.inf])
    assert found.counts.sum() == 3 and found.counts[-1] == 2 and (found.edges[0], found.edges[-1]) == (0.0, 1.0)
    assert metrics.Histogram.of([math.nan]) is None and metrics.Histogram.of([2.0]).counts.sum() == 1


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
