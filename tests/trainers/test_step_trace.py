"""The setting `profile`: which steps are traced, and what the trace holds."""

import time

import jax
import jax.numpy as jnp
import pytest

from masksearch_jax.trainers.step_trace import StepTrace, parse
from masksearch_jax.trainers.stopwatch import Stopwatch
from masksearch_jax.workflows import settings


def traced(folder) -> dict[str, tuple[list[int], set[str]]]:
    """By name of a trace below a folder: the numbers of its steps, and the names of its events on the host."""
    found = {}
    for path in folder.rglob("*.xplane.pb"):
        planes = jax.profiler.ProfileData.from_file(str(path)).planes
        events = [event for plane in planes for line in plane.lines for event in line.events]
        steps = [dict(event.stats)["step_num"] for event in events if event.name == "toy"]
        found[path.parent.name] = (steps, {event.name for event in events})
    return found


def test_the_text_reads_as_a_slice():
    assert list(parse("10:13")) == [10, 11, 12] and not parse("")
    for wrong in ("10", "0:3", "3:3", "4:2", "-1:2", "1:", ":4", "1:2:3", "a:b", "1.5:3"):
        with pytest.raises(ValueError, match=r"give FROM:TO with 1 <= FROM < TO, such as 10:13"):
            parse(wrong)


def test_settings_that_trace_nothing_are_refused(cfg):
    cfg.profile = "3:2"
    with pytest.raises(ValueError, match="profile='3:2': give FROM:TO"):
        settings.validate_settings(cfg)
    cfg.profile = "5:6"
    with pytest.raises(ValueError, match=r"profile='5:6': the run ends before step 5 \(dapo.iterations=4\)"):
        settings.validate_settings(cfg)
    cfg.profile = "4:9"
    settings.validate_settings(cfg)


def test_the_steps_asked_for_are_traced_with_their_stages_and_no_others(tmp_path):
    said: list[str] = []
    program, seconds = jax.jit(lambda x: x @ x), Stopwatch()
    program(jnp.ones((64, 64)))

    def train(steps, fails_at=0):
        trace = StepTrace("3:5", tmp_path, "toy", said.append, primary=True)
        for step in trace.around(steps):
            seconds.start("update")
            program(jnp.ones((64, 64)))
            if step == fails_at:
                raise RuntimeError("stopped")
            seconds.pause()

    train(range(1, 8))
    train(range(4, 8))  # resumed after step 3
    with pytest.raises(RuntimeError, match="stopped"):
        train(range(3, 8), fails_at=3)  # what there was is written
    train(range(5, 8))
    assert [text.split(" to ")[:2] for text in said] == [
        ["wrote a trace of 3", "4"], ["wrote a trace of 4", "4"], ["wrote a trace of 3", "3"],
    ]  # fmt: skip
    found = traced(tmp_path)
    assert {name: steps for name, (steps, _) in found.items()} == {"3_to_4": [3], "4_to_4": [4]}
    assert "update" in found["4_to_4"][1]


def test_a_process_that_is_not_the_first_traces_nothing(tmp_path):
    assert list(StepTrace("1:3", tmp_path / "p", "toy", print, primary=False).around(range(1, 5))) == [1, 2, 3, 4]
    assert not (tmp_path / "p").exists()


def test_a_stopwatch_gives_each_second_one_name():
    watch, began = Stopwatch(), time.perf_counter()
    watch.start("a")
    time.sleep(0.02)
    watch.start("b")
    watch.start("a")
    time.sleep(0.01)
    watch.pause()
    first = watch.take()
    assert set(first) == {"since_last", "a", "b"} and first["a"] >= 0.03 > 0.01 > first["b"]
    time.sleep(0.01)
    second = watch.take()
    assert set(second) == {"since_last"} and second["since_last"] >= 0.01
    assert sum(first.values()) + sum(second.values()) == pytest.approx(time.perf_counter() - began, abs=0.01)
