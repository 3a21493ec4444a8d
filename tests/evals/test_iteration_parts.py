import pytest

from masksearch_jax.evals.report import iteration_parts


def row(step, scale):
    phases = {f"rollout/{name}": scale for name in ("prefill_s", "decode_s", "search_wait_s", "host_s")}
    return phases | {
        "step": step, "seconds/reshard": 0.01 * scale, "seconds/rollout": 5 * scale, "seconds/logprobs": 2 * scale,
        "seconds/update": 2 * scale, "seconds/since_last": scale, "rollout/flops": 10e9 * scale,
        "update/flops": 4e9 * scale, "update/mfu": 0.2,
    }  # fmt: skip


def test_the_parts_of_an_iteration_are_its_whole():
    parts = iteration_parts.measure([row(1, 100), {"step": 1, "eval/ramp_1/recall": 0.5}, row(2, 1), row(3, 3)])
    assert parts.steps == 2 and parts.whole == pytest.approx(2 * 10.01)
    assert list(parts.seconds) == [
        "reshard", "prefill", "decode", "search wait", "rollout, host", "tasks and rewards", "log-probs", "update",
        "checkpoint, eval",
    ]  # fmt: skip
    chart = iteration_parts.picture(parts, "iteration")
    assert sum(curve.y[0] for curve in chart.curves) == pytest.approx(parts.whole) and len(chart.curves) == 8
    assert chart.curves[0].label == "prefill, 10%" and chart.curves[-1].label == "other, 10%"
    rows = {line[0]: line[1:] for line in iteration_parts.table(parts, "iteration").rows}
    assert rows["update"] == ("4", "20.0%", "2.0", "20.0%")
    assert rows["rollout, all of it"] == ("10", "50.0%", "2.0", "")


def test_a_row_of_sft_is_divided_by_its_steps():
    rows = [{"step": n, "seconds/data": 1.0, "seconds/step": 9.0, "step/flops": 18e9} for n in (50, 100, 150)]
    parts = iteration_parts.measure(rows)
    assert parts.seconds == {"data": 0.02, "step": 0.18} and parts.steps == 100
    assert iteration_parts.table(parts, "step").rows[1][3] == "2.0"
    assert iteration_parts.measure(rows[:1]) is None and iteration_parts.measure([]) is None
