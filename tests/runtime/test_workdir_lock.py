"""One run in one folder: refused by name, given up at the end, taken over from the dead."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from masksearch_jax.runtime import child_process, workdir_lock
from masksearch_jax.runtime.workdir_lock import locked

ROOT = Path(__file__).parent.parent.parent
HOLD = (
    "import sys, time; from pathlib import Path; from masksearch_jax.runtime.workdir_lock import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def edit(folder, **changes):
    """Rewrites a lock in place, as its holder would have."""
    path = folder / workdir_lock.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_other_run_is_named_and_a_killed_one_is_taken_over(holder, tmp_path, capsys):
    with pytest.raises(ValueError) as refused, locked(tmp_path):
        pass
    said = str(refused.value)
    assert f"process {holder.pid} on {os.uname().nodename}" in said and str(tmp_path) in said
    assert f"`kill {holder.pid}`" in said and "another --workdir" in said and "-c" in said
    holder.send_signal(signal.SIGKILL)
    while Path(f"/proc/{holder.pid}").exists() and "Z" not in Path(f"/proc/{holder.pid}/stat").read_text():
        time.sleep(0.01)  # a zombie, as where nobody waits for it
    with locked(tmp_path):
        assert f"process {holder.pid} " in capsys.readouterr().err
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
        with pytest.raises(ValueError, match=f"process {os.getpid()} on "), locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_the_folder_is_made_and_an_empty_one_goes_again(tmp_path):
    with locked(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()
    with locked(tmp_path / "c"):
        (tmp_path / "c" / "file").touch()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["file"]
    (tmp_path / "d").touch()
    with pytest.raises(ValueError, match="d/lock.json cannot be written"), locked(tmp_path / "d"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'], ids=str)
def test_a_lock_that_a_kill_cut_is_taken_over(tmp_path, content):
    (tmp_path / "lock.json").write_text(content)
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def left_by(tmp_path, **changes):
    """A lock that no living process of this machine holds."""
    found = workdir_lock._self("0" * 16) | {"pid": 1, "host": "other", "machine": "other boot"} | changes
    (tmp_path / "lock.json").write_text(json.dumps(found))


def test_a_process_id_that_is_another_ones_by_now_is_gone(tmp_path):
    left_by(tmp_path, pid=os.getpid(), machine=workdir_lock._machine(), started="1")
    with locked(tmp_path):
        pass


def test_a_silent_holder_on_another_machine_is_gone_and_a_beating_one_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workdir_lock, "_SILENT_SECONDS", 0.3)
    left_by(tmp_path)
    path, slept, sleep = tmp_path / "lock.json", [], time.sleep

    def beat(seconds):
        slept.append(seconds)
        os.utime(path, ns=(0, 1000 * len(slept)))
        sleep(0.001)

    with monkeypatch.context() as patch:
        patch.setattr(workdir_lock.time, "sleep", beat)
        with pytest.raises(ValueError, match="in use by process 1 on other"), locked(tmp_path):
            pass
    assert len(slept) == 1  # the first sign is enough
    with locked(tmp_path):
        assert "which is gone: this run takes over" in capsys.readouterr().err


def test_without_locks_of_the_kernel_the_content_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lock, "_flock", lambda file: None)
    monkeypatch.setattr(workdir_lock.time, "sleep", lambda seconds: None)
    with locked(tmp_path):
        with pytest.raises(ValueError, match=f"process {os.getpid()} on "), locked(tmp_path):
            pass
    left_by(tmp_path, machine=workdir_lock._machine(), pid=2**22 + 1)
    with locked(tmp_path):
        pass


def test_one_that_was_taken_over_ends(tmp_path, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(workdir_lock, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(workdir_lock.os, "_exit", ended.append)
    with locked(tmp_path):
        edit(tmp_path, token="another", host="elsewhere")
        until = time.monotonic() + 5
        while not ended and time.monotonic() < until:
            time.sleep(0.01)
    assert ended and set(ended) == {1} and "taken over by process" in capsys.readouterr().err
    assert (tmp_path / "lock.json").exists()  # the other one's


def test_a_child_works_under_the_lock_of_its_parent(tmp_path):
    command = [sys.executable, "-c", HOLD.replace("time.sleep(60)", "pass"), str(tmp_path)]
    with locked(tmp_path):
        assert child_process.run(command, cwd=ROOT, capture_output=True).returncode == 0
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 1
        assert (tmp_path / "lock.json").exists()
