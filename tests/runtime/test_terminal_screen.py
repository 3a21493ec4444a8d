"""The live view in a real (pseudo) terminal: nothing that prints garbles it, and nothing printed is lost."""

import os
import signal
import sys
from pathlib import Path

import pytest
import terminals

from masksearch_jax.runtime.screen_process import Screen

ROOT = Path(__file__).parent.parent.parent
_HEAD = """
import os, subprocess, sys, time
from pathlib import Path
from masksearch_jax.runtime import metrics, progress
from masksearch_jax.runtime.stage_view import StageView
view = StageView("dapo", "iteration", Path(sys.argv[1]), True)
log = metrics.MetricsLog(sys.argv[1], True, [view])
log.cut(0)
"""
_TRAINS = """
for step in view.steps(0, 8):
    time.sleep(0.05)
    row = {"reward": step / 10, "reward_answer": 0.25, "seconds/rollout": 10.0, "rollout/tokens": 50_000, "mfu": 0.312}
    log.write(step, row)
    if step == 2:
        log.samples(step, {"episode": "--- one\\ntask: the [mask] of " + "words " * 900})
        print("by print")
        print("to stdout", file=sys.stdout)
    if step == 3:
        os.write(2, b"by native code\\n")
        subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    if step == 4:
        os.write(1, b"clears \\x1b[2J\\x1b[5Athe screen\\nand draws a bar 10%\\rand draws a bar 100%\\n")
    if step == 5:
        log.write(step, {"eval/ramp_1/recall": 0.5, "eval/ramp_1/hit": 0.75})
        view.saved(step)
        progress.print_message("validation", "step 5, ramp_1: recall 0.500")
        time.sleep(0.6)
log.close()
print("after the view")
"""


def _run(program: str, folder: Path, **options) -> tuple[terminals.Shown, int]:
    command = [sys.executable, "-c", _HEAD + program, str(folder)]
    return terminals.run(command, env={"PYTHONPATH": str(ROOT)}, **options)


@pytest.mark.parametrize(("columns", "rows"), [(40, 24), (140, 50)])
def test_what_is_printed_stands_whole_above_one_view(tmp_path, columns, rows):
    shown, status = _run(_TRAINS, tmp_path, columns=columns, rows=rows)
    assert status == 0 and not shown.unknown
    lines = shown.text.splitlines()
    printed = ["by print", "to stdout", "by native code", "by a child", "clears the screen", "and draws a bar 100%",
               "dapo: saves checkpoint 5", "validation: step 5, ramp_1: recall 0.500", "after the view"]  # fmt: skip
    assert [line for line in lines if line in printed] == printed
    # One view is left, below all but the last line.
    (head,) = [number for number, line in enumerate(lines) if line.startswith("dapo ")]
    view = lines[head : lines.index("after the view")]
    assert head > lines.index(printed[-2]) and "8/8" in view[0]
    told = " ".join(view)
    for part in ("reward 0.800", "answer 0.250", "5,000 tokens/s", "MFU 31.2%", "▁", "validation at iteration 5",
                 "checkpoint at iteration 5", "--- one", "task: the [mask] of"):  # fmt: skip
        assert part in told, part
    assert max(map(len, view)) <= columns and len(view) < rows and view[-1] == ".."


@pytest.mark.parametrize("size", [(40, 12), (120, 40)])
def test_a_terminal_of_another_size_shows_one_view(tmp_path, size):
    shown, status = _run(_TRAINS, tmp_path, resize=("checkpoint", *size))
    assert status == 0
    last = shown.text.splitlines()[-size[1] - 1 :]
    heads = [line for line in last if line.startswith("dapo ")]
    assert len(heads) == 1 and "8/8" in heads[0] and last[-1] == "after the view"
    assert "by native code" in shown.text


def test_the_last_words_of_a_killed_run_are_shown(tmp_path):
    program = """
for step in view.steps(0, 100):
    time.sleep(0.6)
    os.write(2, b"the last words\\n")
    time.sleep(60)
"""
    shown, status = _run(program, tmp_path, kill_after="dapo")
    assert status == -signal.SIGKILL
    shown, status = _run(program.replace("time.sleep(60)", "os.abort()"), tmp_path)
    assert status == -signal.SIGABRT and "the last words" in shown.text


def test_an_error_stands_below_the_view(tmp_path):
    program = """
from masksearch_jax.runtime import terminal_screen
def work():
    for step in view.steps(0, 3):
        raise ValueError("no luck")
try:
    work()
finally:
    terminal_screen.close()
"""
    shown, status = _run(program, tmp_path)
    lines = shown.text.rstrip().splitlines()
    assert status == 1 and lines[-1] == "ValueError: no luck" and "dapo" in lines[0]


def test_the_run_goes_on_if_the_process_of_the_view_is_killed(tmp_path):
    program = """
import signal
from masksearch_jax.runtime import terminal_screen
for step in view.steps(0, 3):
    if step == 1:
        time.sleep(0.6)
        terminal_screen._screen._process.send_signal(signal.SIGKILL)
        print("printed while nobody shows it")
        time.sleep(1.2)
    print("step", step)
"""
    shown, status = _run(program, tmp_path)
    assert status == 0 and all(f"step {step}" in shown.text for step in (1, 2, 3))
    assert "printed while nobody shows it" in shown.text


def test_a_write_that_waits_when_the_process_of_the_view_is_killed_goes_on(tmp_path):
    program = """
import signal
from masksearch_jax.runtime import terminal_screen
for step in view.steps(0, 2):
    if step == 1:
        terminal_screen._screen._process.send_signal(signal.SIGKILL)
        terminal_screen._screen._process.wait()
        print("\\n".join(["words " * 10] * 4000))  # more than a pipe holds
    print("step", step)
"""
    shown, status = _run(program, tmp_path)
    assert status == 0 and "step 2" in shown.text
    assert shown.text.count("w") == 40_000  # nothing is lost, though two threads may write at the same time


def test_a_stopped_run_gives_the_terminal_back_and_the_view_returns(tmp_path):
    """Ctrl-Z, bg and fg, by a shell that sets no modes of the terminal itself."""
    program = """
for step, name in zip(view.steps(0, 2), ("background", "front")):
    while not (Path(sys.argv[1]) / name).exists():
        time.sleep(0.05)
    log.write(step, {"reward": 0.5})
    print("printed in the", name)
    time.sleep(1.0)
"""
    shell = """
import os, signal, subprocess, sys, termios, time
from pathlib import Path
def wait_for_echo(on):
    ends = time.monotonic() + 20
    while bool(termios.tcgetattr(0)[3] & termios.ECHO) != on:
        assert time.monotonic() < ends, f"keys are shown: {not on}"
        time.sleep(0.05)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
run = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], process_group=0)
os.tcsetpgrp(0, run.pid)
wait_for_echo(False)
time.sleep(0.7)
os.killpg(run.pid, signal.SIGTSTP)
os.waitpid(run.pid, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
wait_for_echo(True)
print("\\nshell: stopped", flush=True)
os.killpg(run.pid, signal.SIGCONT)
(Path(sys.argv[2]) / "background").touch()
time.sleep(1.5)
assert termios.tcgetattr(0)[3] & termios.ECHO
print("shell: to the front", flush=True)
os.tcsetpgrp(0, run.pid)
wait_for_echo(False)
(Path(sys.argv[2]) / "front").touch()
sys.exit(run.wait())
"""
    command = [sys.executable, "-c", shell, _HEAD + program, str(tmp_path)]
    shown, status = terminals.run(command, env={"PYTHONPATH": str(ROOT)})
    lines = shown.text.rstrip().splitlines()
    assert status == 0, shown.text
    stopped, front = lines.index("shell: stopped"), lines.index("shell: to the front")
    assert [line for line in lines[stopped:front] if line] == ["shell: stopped", "printed in the background"]
    after = [line for line in lines[front + 1 :] if line]
    assert after[0] == "printed in the front" and [line for line in after if line.startswith("dapo ")] == [after[1]]
    assert "2/2" in after[1] and any(line.startswith("dapo ") for line in lines[:stopped])


def test_a_pane_that_cannot_be_drawn_does_not_end_the_view(tmp_path):
    program = """
rendered, raised = view.render, []
def render(width, height):
    if len(raised) < 2:
        raised.append(1)
        raise IndexError("changed meanwhile")
    return rendered(width, height)
view.render = render
for step in view.steps(0, 1):
    time.sleep(1.2)
"""
    shown, status = _run(program, tmp_path)
    assert status == 0 and "1/1" in shown.text and "IndexError" not in shown.text


def test_a_system_without_room_for_the_process_of_the_view_shows_none(tmp_path):
    program = """
from masksearch_jax.runtime import terminal_screen
def none(*args, **options):
    raise BlockingIOError("no process is left")
terminal_screen.subprocess.Popen = none
for step in view.steps(0, 2):
    print("step", step)
"""
    shown, status = _run(program, tmp_path)
    assert status == 0 and shown.text.split() == ["step", "1", "step", "2"]


def test_bars_of_a_terminal(tmp_path):
    program = """
for total in (7, None):
    with progress.progress_bar(total, "encode") as done:
        done(5, "half way")
        time.sleep(0.6)
        done(7)
print("next")
"""
    shown, status = _run(program, tmp_path)
    first, second, last = shown.text.rstrip().splitlines()
    assert status == 0 and first.startswith("encode ━━━") and " 7/7 " in first and last == "next"
    assert second.startswith("encode  7 ")


@pytest.mark.parametrize("plain", [{"TERM": "dumb"}, {"JPY_PARENT_PID": "1"}])
def test_a_dumb_terminal_and_a_notebook_get_lines(tmp_path, plain):
    command = [sys.executable, "-c", _HEAD + _TRAINS, str(tmp_path)]
    shown, status = terminals.run(command, env={"PYTHONPATH": str(ROOT)} | plain)
    assert status == 0 and "dapo: 8/8 in 0:0" in shown.text and "reward 0.800" in shown.text


def test_text_waits_for_its_line_and_escapes_stay_harmless(tmp_path):
    reader, writer = os.pipe()
    screen = Screen(writer)
    screen.print(b"half")
    screen.show(b"view")
    screen.print(b" a line\x1b]0;title\x07\x1b(B \x1b[31mred\x1b[0m\x1b[?1049h \xc2\x9b2Jend\x1b\n")
    screen.end()
    os.close(writer)
    sent = os.read(reader, 1 << 16)
    assert b"half a line \x1b[31mred\x1b[0m 2Jend" in sent and b"title" not in sent and b"1049" not in sent
    os.close(reader)
