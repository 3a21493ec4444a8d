"""SIGTERM, SIGINT and the death of a parent, on real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# What an entry does around its work, without its imports of JAX.
AROUND = """
import contextlib, os, sys, time
from masksearch_jax.runtime import child_process, stop_signals
stop_signals._QUICK_SECONDS, stop_signals._SAVE_SECONDS = 0.5, 0.5

def held_by_one_call():
    import hashlib  # a call that keeps the main thread from its signal handlers, and not other threads
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

try:
    with stop_signals.listening():
        {work}
except stop_signals.PreemptedError as error:
    print(error, flush=True)
    raise SystemExit(75)
"""
STEPS = """
        with stop_signals.deferred():
            print("ready", flush=True)
            while not stop_signals.requested():
                time.sleep(0.01)
            print("saved", flush=True)
"""


def start(work, code=AROUND):
    process = subprocess.Popen(
        [sys.executable, "-c", code.format(work=work.strip())], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = process.stdout.readline()
    assert line == "ready\n", (line, process.kill(), process.stderr.read())
    return process


def ended(process, seconds=20):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_is_left_at_once_and_a_loop_saves_first(number):
    waiting = start('print("ready", flush=True); time.sleep(60)')
    looping = start(STEPS)
    for process in (waiting, looping):
        process.send_signal(number)
    status, out, _ = ended(waiting)
    assert status == 75 and out.startswith("told to stop")
    status, out, _ = ended(looping)
    assert status == 75 and out.startswith("saved\ntold to stop")


def test_a_second_interrupt_ends_it_at_once_and_a_second_sigterm_does_not():
    never = STEPS.replace("while not stop_signals.requested()", "while True")
    never = "stop_signals._SAVE_SECONDS = 30.0\n" + never
    process = start(never)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, _, err = ended(process, 5)
    assert status == 130 and "second Ctrl-C" in err
    slow = start(STEPS.replace('print("saved"', 'time.sleep(0.3); print("saved"'))
    for _ in range(2):
        slow.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert ended(slow)[0] == 75


@pytest.mark.parametrize("work, status", [("pass", 0), ("raise stop_signals.PreemptedError", 75)])
def test_sigterm_after_the_work_leaves_the_exit_status(work, status):
    """A machine may be told to stop while a process that is done frees its memory."""
    slow_end = 'import atexit; atexit.register(lambda: (print("ready", flush=True), time.sleep(1)))\n'
    process = start(work, AROUND.replace("try:", slow_end + "try:", 1).replace("print(error, flush=True)", "pass"))
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == status


@pytest.mark.parametrize("work", ["{}", "with stop_signals.deferred(): {}"])
def test_a_call_that_does_not_return_is_ended_in_time(work):
    process = start(work.format('print("ready", flush=True); held_by_one_call()'))
    time.sleep(0.3)  # it is in the call
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    status, _, err = ended(process)
    assert status == 75 and time.monotonic() - began < 5
    assert "exit status 75" in err and "did not come to its end in time" in err


def test_a_forked_process_does_not_stop_the_one_that_it_comes_from():
    process = start(STEPS.replace('print("ready", flush=True)', """
            child = os.fork()
            if not child:
                time.sleep(60)
            print("ready", flush=True)
            print(child, flush=True)
    """.strip()))  # fmt: skip
    child = int(process.stdout.readline())
    time.sleep(0.2)  # past its first moments, in which it still has what its parent had
    os.kill(child, signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75


CHILD = """
import os, sys, time
from masksearch_jax.runtime import child_process
child_process.{prctl}
child_process.end_with_parent()
print("ready", flush=True); print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("prctl", ["_PR_SET_PDEATHSIG", "_PR_SET_PDEATHSIG = 0"], ids=["kernel", "pipe alone"])
def test_a_child_ends_with_a_parent_that_is_killed(prctl):
    code = CHILD.format(prctl=prctl)
    process = start(f"child_process.run([sys.executable, '-c', {code!r}])")
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    until = time.monotonic() + 5
    while time.monotonic() < until and is_alive(child):
        time.sleep(0.01)
    assert not is_alive(child)


def test_a_child_of_a_parent_that_is_told_to_stop_ends_too():
    process = start(f"child_process.run([sys.executable, '-c', {CHILD.format(prctl='run')!r}])")
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75 and not is_alive(child)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
