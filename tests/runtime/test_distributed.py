"""Joining, agreeing and ending together. Training over several processes: tests/trainers/test_processes.py."""

import json
import os
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from masksearch_jax.runtime import distributed, stop_signals
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.workflows import training

ROOT = Path(__file__).parent.parent.parent


def settings(**changes):
    default = {"coordinator": "127.0.0.1:1", "processes": 2, "process_id": 0}
    return ConfigDict(default | {"timeout_s": 60, "heartbeat_s": 20, "stall_s": 60} | changes)


# --- The watchdog ----------------------------------------------------------------------------------------------------


def stuck_in_this_function(ended):
    ended.wait(10)


def test_a_stall_dumps_stacks_and_ends_with_the_status_for_retry(tmp_path):
    import threading

    ended, statuses = threading.Event(), []
    with (tmp_path / "log").open("w+") as log:
        watchdog = distributed.Watchdog(0.4, log, lambda status: (statuses.append(status), ended.set()))
        watchdog.alive("the third step")
        stuck_in_this_function(ended)
        watchdog.stop()
        text = (tmp_path / "log").read_text()
    assert statuses == [distributed.RETRY] == [75]
    assert "stuck_in_this_function" in text  # the stack of the thread that hangs
    assert "'the third step'" in text and "newest checkpoint" in text


def test_a_run_that_moves_is_left_alone(tmp_path):
    statuses = []
    with (tmp_path / "log").open("w+") as log:
        watchdog = distributed.Watchdog(0.4, log, statuses.append)
        for _ in range(16):
            time.sleep(0.05)
            watchdog.alive("a step")
        watchdog.stop()
        assert not statuses and not (tmp_path / "log").read_text()


# --- Refusals and exit statuses --------------------------------------------------------------------------------------


def test_a_wrong_number_of_processes_is_refused_before_the_first_program():
    distributed.check_count(4, 4, 8, 32)
    with pytest.raises(ValueError, match=r"distributed.processes=4, but this process sees 1 process\(es\) and 8"):
        distributed.check_count(4, 1, 8, 8)
    with pytest.raises(ValueError, match="every host of the slice"):
        distributed.check_count(4, 4, 8, 24)


@pytest.mark.parametrize(
    "error, status",
    [
        (ValueError("dapo.rows=3"), 1),
        (FileNotFoundError("W/data"), 1),
        (KeyError("x"), 1),
        (SystemExit("bad flag"), 1),
        (SystemExit(0), 0),
        (distributed.PreemptedError("saved"), 75),
        (stop_signals.AlarmError("stopped by an alarm"), 3),
        (TimeoutError("no answer"), 75),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: peer"), 75),
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: connection reset"), 75),
        (ValueError("UNKNOWN: Gloo AllGather failed: read error"), 75),  # JAX's types vary
        (
            jax.errors.JaxRuntimeError("UNKNOWN: Gloo context initialization failed: DEADLINE_EXCEEDED: GetKeyValue()"),
            75,
        ),
        (
            jax.errors.JaxRuntimeError(
                "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout. "
                "[type.googleapis.com/tensorflow.CoordinationServiceError='']"
            ),
            75,
        ),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of HBM"), 1),
    ],
    ids=repr,
)
def test_the_exit_status_says_whether_to_start_again(error, status):
    assert distributed._status(error) == status
    try:
        raise RuntimeError("wrapped") from error
    except RuntimeError as wrapped:
        if isinstance(error, jax.errors.JaxRuntimeError):
            assert distributed._status(wrapped) == status


def test_one_process_needs_nothing_and_changes_nothing(tmp_path):
    with distributed.processes(settings(processes=1)):
        pass
    with pytest.raises(KeyError):  # errors are the caller's
        with distributed.processes(settings(processes=1)):
            raise KeyError("x")
    distributed.same("anything", {"a": 1})
    distributed.check_shared(tmp_path / "missing")
    assert not list(tmp_path.iterdir())
    assert distributed.decide(3) == 3 and distributed.every(True) and not distributed.every(False)
    assert distributed.gather_bytes(b"x") == [b"x"] and distributed.total(5) == 5
    assert distributed.primary() and not distributed.preempted()


def test_put_and_fetch_are_inverse_under_every_layout():
    mesh = mesh_lib.make_mesh(2, 2, 2)
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    for layout in (mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)):
        array = distributed.put({"x": x}, layout)["x"]
        assert array.sharding == layout
        np.testing.assert_array_equal(distributed.fetch(array), x)


def test_several_processes_refuse_to_synthesize_and_say_what_to_run(tmp_path):
    from configs import dapo

    cfg = dapo.get_config()
    cfg.distributed.processes = 2
    job = types.SimpleNamespace(cfg=cfg, workdir=tmp_path)
    with pytest.raises(ValueError, match="masksearch_jax.synthesize` once"):
        training.ensure_demonstrations(job)


# --- Real processes --------------------------------------------------------------------------------------------------

WORKER = """
import json, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import jax, numpy as np
from ml_collections import ConfigDict
from masksearch_jax.runtime import distributed

settings = ConfigDict(json.loads(sys.argv[1]))
folders = [Path(folder) for folder in json.loads(sys.argv[2])]
with distributed.processes(settings):
    me = jax.process_index()
    assert distributed.gather_bytes(b"ab" * (1 + me)) == [b"ab", b"abab"]
    assert distributed.decide(7 + me) == 7
    assert distributed.every(True) and not distributed.every(me == 0)
    assert distributed.total(2 + me) == 5
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    layout = jax.NamedSharding(mesh, jax.P("x"))
    x = distributed.put(np.arange(6.0), layout)
    assert not x.is_fully_addressable and distributed.fetch(x * 2).tolist() == [0, 2, 4, 6, 8, 10]
    distributed.same("facts", {{"index": "a"}})
    for shown in (lambda: distributed.same("facts", {{"index": "ab"[me], "seed": 0}}),
                  lambda: distributed.check_shared(folders[me])):
        try:
            shown()
        except ValueError as error:
            print(error, flush=True)
    distributed.check_shared(folders[0])
    if me == 1:
        raise ValueError("only this process fails")
    distributed.every(True)  # which the other waits for
"""


def start(settings_of, folders):
    code = WORKER.format(root=str(ROOT))
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(one.to_dict()), json.dumps([str(folder) for folder in folders])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        for one in settings_of
    ]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_two_processes_agree_exchange_and_end_together(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    folders = [tmp_path / "a", tmp_path / "b"]
    began = time.monotonic()
    running = start([settings(coordinator=address, process_id=number) for number in (0, 1)], folders)
    texts = [process.communicate(timeout=200)[0] for process in running]
    for text in texts:
        assert "the processes differ in facts, by process: index: 'a', 'b'" in text and "seed" not in text
        assert "of process 0 is not what process(es) [1] see there" in text
    assert not list(folders[0].iterdir())
    # The one with the error says so and asks for no retry; the other does not wait for it for ever.
    assert running[1].returncode == 1 and "process 1: only this process fails" in texts[1]
    assert running[0].returncode in (75, 134, -6), texts[0]
    print(f"{time.monotonic() - began:.1f} s")


@pytest.mark.slow
def test_a_process_that_finds_nobody_says_whom_it_asked_and_may_be_retried(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    for number, message in ((1, f"process 0 does not answer at {address}"), (0, "joining 2 processes")):
        (alone,) = start([settings(coordinator=address, process_id=number, timeout_s=5)], [tmp_path])
        text = alone.communicate(timeout=100)[0]
        assert alone.returncode == 75 and message in text, text
    for changes, message in (({"coordinator": "host"}, "host:port"), ({"process_id": 2}, "0 to 1")):
        (alone,) = start([settings(**changes)], [tmp_path])
        text = alone.communicate(timeout=100)[0]
        assert alone.returncode == 1 and message in text, text
