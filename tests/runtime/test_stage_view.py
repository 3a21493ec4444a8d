"""The view of a training stage: what it says on a pipe, and what it shows in windows of several sizes."""

import re
from pathlib import Path

import pytest

from masksearch_jax.runtime import metrics, progress, stage_view, terminal_screen

ITERATION = {
    "reward": 0.512, "reward_answer": 0.4, "reward_format": 1.0, "generated_tokens": 55.25, "loss": 0.01, "mfu": 0.25,
    "seconds/reshard": 1.0, "seconds/rollout": 5.0, "seconds/logprobs": 1.0, "seconds/update": 3.0,
    "seconds/since_last": 50.0, "rollout/tokens": 20_000,
}  # fmt: skip
EPISODE = "--- task-1, sample 0\ntask: Elisa was the [mask] of Cuba.\nturn 1: <search> Elisa</search>\n   read: 日本語"


def view_of(folder: Path) -> stage_view.StageView:
    view = stage_view.StageView("dapo", "iteration", folder, primary=True)
    steps = view.steps(0, 50)
    next(steps)
    for step in range(1, 21):
        view.write(step, {"step": step, **ITERATION, "reward": step / 40})
    view.write(20, {"step": 20, "eval/ramp_1/recall": 0.5, "eval/ramp_1/format": 1.0, "eval/ramp_1/searches": 1.0})
    view.saved(20)
    view.samples(20, {"episode": EPISODE}, dict)
    return view


def shown(view: stage_view.StageView, width: int = 80, height: int = 24) -> str:
    """Return what the view shows, without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal_screen.rendered([view], width, height))


def test_lines_of_a_pipe_have_the_numbers_of_the_view(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    view = stage_view.StageView("sft", "step", tmp_path, primary=True)
    log = metrics.MetricsLog(tmp_path, True, [view])
    log.cut(100)
    for step in view.steps(100, 103):
        now[0] += 12
        log.write(step, {"loss": 1 / step, "tokens_per_s": 5312.4, "mfu": 0.31})
        if step == 102:
            view.saved(step)
            log.write(step, {"alarm/throughput": 1, "loss": 0.25})
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "sft: 1/3 in 0:12, eta 0:24, loss 0.010, 5,312 tokens/s, MFU 31.0%",
        "sft: saves checkpoint 102",
        "sft: 2/3 in 0:24, eta 0:12, loss 0.250, ALARM throughput",
        "sft: 3/3 in 0:36, eta 0:00, loss 0.010, 5,312 tokens/s, MFU 31.0%",
        "sft: 3/3 in 0:36, loss 0.010, 5,312 tokens/s, MFU 31.0%",
    ]


def test_an_iteration_says_what_it_sampled_a_second(tmp_path):
    assert stage_view.tokens_per_second(ITERATION) == 2000
    assert stage_view.tokens_per_second({"tokens_per_s": 3.5, "rollout/tokens": 1}) == 3.5
    assert stage_view.tokens_per_second({"loss": 1.0}) is None
    view = view_of(tmp_path)
    assert view.note == ("reward 0.500, answer 0.400, format 1.000, tokens 55.2, 2,000 tokens/s, MFU 25.0%, "
                         "10 s an iteration")  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(40, 24), (80, 24), (140, 60), (40, 6), (20, 10)])
def test_the_view_fits_its_window(tmp_path, width, height):
    plain = shown(view_of(tmp_path), width, height).split("\n")
    assert len(plain) <= height - 1 and max(map(len, plain)) <= width
    assert plain[0].startswith("dapo") and "0/50" in plain[0]
    if height >= 24:
        told = "\n".join(plain)
        parts = "reward 0.500", "2,000 tokens/s", "MFU 25.0%", "▁", "validation at iteration 20", "task: Elisa was the"
        for part in (*parts, "checkpoint"):
            assert part in told, part


def test_a_resumed_stage_shows_the_curve_of_the_starts_before(tmp_path):
    log = metrics.MetricsLog(tmp_path)
    for step in range(1, 9):
        log.write(step, {"loss": 8.0 - step})
    log.close()
    view = stage_view.StageView("sft", "step", tmp_path, primary=True)
    metrics.MetricsLog(tmp_path, True, [view]).cut(6)
    assert "▇" in shown(view) and "first 7, last 2" in shown(view) and view.note == "loss 2.000"


def test_an_alarm_stands_in_the_view_until_it_ends(tmp_path):
    view = view_of(tmp_path)
    view.write(21, {"step": 21, **ITERATION, "alarm/entropy": 1})
    assert "ALARM" in shown(view) and view.note.endswith("ALARM entropy")
    view.write(22, {"step": 22, **ITERATION})
    assert "ALARM" not in shown(view)


def test_values_that_are_not_finite_are_shown_as_they_are(tmp_path):
    view = stage_view.StageView("sft", "step", tmp_path, primary=True)
    view.write(1, {"step": 1, "loss": "nan"})
    view.write(2, {"step": 2, "loss": "inf"})
    assert view.note == "loss inf" and "loss inf" in shown(view)


def test_a_long_curve_stays_small(tmp_path):
    view = stage_view.StageView("sft", "step", tmp_path, primary=True)
    for step in range(10_000):
        view.write(step, {"step": step, "loss": float(step)})
    assert len(view._curve) <= 2048 and "first 0, last 1e+04" in shown(view)
