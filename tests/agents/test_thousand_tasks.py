"""A thousand tasks by the entry itself, against a server in a process of its own that is killed and started again.

Slow. The server's own log says what it was asked, the journal what became of it.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scripted_teacher

from masksearch_jax.data import records

pytest.importorskip("openai")
ROOT = Path(__file__).parents[2]
TASKS, WORKERS, CONCURRENCY = 1000, 16, 8
PATIENCE_S = 1500  # on a busy machine


def start_server(port, log):
    server = subprocess.Popen([
        sys.executable,
        ROOT / "tests" / "chat_server.py",
        str(port),
        "scripted_teacher:write",
        str(log),
    ])
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return server
        time.sleep(0.05)
    raise AssertionError("the server does not start")


def start_run(workdir, port):
    command = [
        sys.executable, "-m", "masksearch_jax.synthesize", "--config=configs/synthesize.py:agents",
        f"--workdir={workdir}", f"--config.llm.url=http://127.0.0.1:{port}/v1", "--config.llm.model=scripted",
        "--config.llm.retries=5", f"--config.llm.concurrency={CONCURRENCY}",
        f"--config.synthesize.examples.ramp_1={TASKS}",
        *(f"--config.synthesize.examples.ramp_{k}=0" for k in (2, 3, 4)),
        f"--config.synthesize.agents.workers={WORKERS}",
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journal(workdir):
    """Task ids of every whole line."""
    found = []
    for path in sorted((workdir / "demonstrations" / "agents").glob("ramp_1.*.jsonl")):
        lines = path.read_text().splitlines(keepends=True)
        found += [json.loads(line)["task_id"] for line in lines if line.endswith("\n")]
    return found


def wait_for(workdir, lines, process):
    deadline = time.monotonic() + PATIENCE_S
    while len(journal(workdir)) < lines:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_server_and_run_are_killed(tmp_path):
    made = scripted_teacher.make_workdir(tmp_path / "killed", TASKS)
    workdir, log, began = tmp_path / "killed", tmp_path / "asked.jsonl", time.monotonic()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kills = 0
    server = start_server(port, log)
    try:
        # Killed and back within the retries: the run does not notice.
        run = start_run(workdir, port)
        wait_for(workdir, 200, run)
        server.kill()
        server.wait()
        kills += 1
        time.sleep(1.0)
        server = start_server(port, log)
        wait_for(workdir, 450, run)
        # Killed and gone: the run ends and says how to go on.
        server.kill()
        server.wait()
        kills += 1
        _, said = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 1 and "start this line again to go on" in said and "Traceback" not in said
        stopped_at = len(journal(workdir))
        assert 450 <= stopped_at < TASKS
        # The run itself is killed.
        server = start_server(port, log)
        run = start_run(workdir, port)
        wait_for(workdir, 750, run)
        run.send_signal(signal.SIGKILL)
        run.wait()
        kills += 1
        run = start_run(workdir, port)
        out, said = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0, said
        seconds = time.monotonic() - began
        # ---- each task stands in the journal once, each request was answered once but for those under a kill ----
        ids = journal(workdir)
        assert sorted(ids) == sorted(task.id for task in made)
        asked = log.read_text().splitlines()
        doubled = len(asked) - len(set(asked))
        assert doubled <= kills * CONCURRENCY
        # ---- the demonstrations are those of a run in one go ----
        (tmp_path / "whole").mkdir()
        (tmp_path / "whole" / "data").symlink_to(workdir / "data")
        whole = start_run(tmp_path / "whole", port)
        assert whole.wait(timeout=PATIENCE_S) == 0
        read = [
            list(records.read(w / "demonstrations" / "ramp_1.array_record", records.Demonstration))
            for w in (workdir, tmp_path / "whole")
        ]
        assert read[0] == read[1] and len(read[0]) > 0.8 * TASKS
        made = json.loads(out)["tasks"]["ramp_1"]
        print(json.dumps({
            "tasks": TASKS, "outcomes": made["outcomes"], "stopped_at": stopped_at, "requests": len(asked),
            "asked_again": doubled, "kills": kills, "seconds": round(seconds, 1),
        }))  # fmt: skip
    finally:
        server.kill()
        server.wait()
