"""Progress as lines, for pipes and log files."""

import pytest

from masksearch_jax.runtime import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: clock[0]."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_and_one_at_the_end(clock, capsys):
    with progress.progress_bar(6, "work") as done:
        for count in range(1, 7):
            clock[0] += 6
            done(count, f"loss {1 / count:.3f}")
    assert capsys.readouterr().err.splitlines() == [
        "work: 2/6 in 0:12, eta 0:24, loss 0.500",
        "work: 4/6 in 0:24, eta 0:12, loss 0.250",
        "work: 6/6 in 0:36, eta 0:00, loss 0.167",
        "work: 6/6 in 0:36, loss 0.167",
    ]


def test_after_an_hour_it_is_a_line_a_minute(clock, capsys):
    with progress.progress_bar(None, "scan") as done:
        for count in range(1, 7201):
            clock[0] += 1
            done(count)
    lines = capsys.readouterr().err.splitlines()
    assert 200 < len(lines) < 260 and lines[-1] == "scan: 7200 in 2:00:00"


def test_left_early_it_says_how_far(capsys):
    with pytest.raises(KeyError), progress.progress_bar(None, "scan") as done:
        done(5)
        raise KeyError
    assert capsys.readouterr().err == "scan: 5 in 0:00\n"


def test_other_processes_show_nothing(capsys):
    with progress.progress_bar(2, "work", primary=False) as done:
        done(1, "note")
    progress.print_message("sft", "done", primary=False)
    assert capsys.readouterr().err == ""


def test_text_of_models_and_passages_cannot_control_the_terminal(capsys):
    progress.print_message("validation", "turn 1: \x1b[2J\x9b2J\u202eevil\x07\n\tread: 日本")
    assert capsys.readouterr().err == "validation: turn 1: \ufffd[2J\ufffd2J\ufffdevil\ufffd\n\tread: 日本\n"


def test_durations():
    assert [progress.duration(seconds) for seconds in (5, 65, 7384, 3 * 86400 + 4, -1)] == [
        "0:05", "1:05", "2:03:04", "3 d 0:00:04", "0:00"]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 80, 140])
def test_a_bar_fits_its_width(width):
    clock = progress.Clock(100)
    clock.move(50)
    line = progress.bar_line("prepare: spans", clock, "a note of some length", width)
    assert (
        len(line.plain) <= width
        and line.plain.startswith("prepare: spans")
        and ("50/100" in line.plain) == (width > 20)
    )
