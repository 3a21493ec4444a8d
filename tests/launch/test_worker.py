"""launch/worker.sh and the start-up script, run for real; trainer, bucket and metadata server are stubs."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Makes an environment whose python plays the trainer: it notes its arguments and ends with the next of $CODES.
SETUP = """#!/bin/bash
mkdir -p .venv/bin
echo "$1" >"$NOTES/extras"
cp "$NOTES/trainer" .venv/bin/python
chmod +x .venv/bin/python
"""
TRAINER = """#!/bin/bash
echo "$@" >>"$NOTES/starts"
code=$(cut -d, -f"$(wc -l <"$NOTES/starts")" <<<"$CODES")
wait_for_a_signal() {
    touch "$NOTES/asleep"
    while :; do sleep 0.05; done
}
case $code in
    abort) kill -ABRT $$ ;;
    finishing) trap 'exit 0' TERM; wait_for_a_signal ;;
    saving) trap 'sleep 0.3; touch "$NOTES/saved"; exit 1' TERM; wait_for_a_signal ;;
    *) exit "$code" ;;
esac
"""
FOUR = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "h0,h1,h2,h3", "MASKSEARCH_EXPECTED_HOSTS": "4"}


@pytest.fixture
def host(tmp_path):
    """(folder with an unpacked `code`, a `workdir` and `notes`, environment)."""
    for name in ("code/launch", "workdir", "notes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "code/launch/worker.sh").write_text((ROOT / "launch/worker.sh").read_text())
    (tmp_path / "code/launch/setup.sh").write_text(SETUP)
    (tmp_path / "notes/trainer").write_text(TRAINER)
    environment = os.environ | {
        "NOTES": str(tmp_path / "notes"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MASKSEARCH_WORKDIR": str(tmp_path / "workdir"),
        "MASKSEARCH_CONFIG": "configs/dapo.py",
        "MASKSEARCH_EXTRAS": "tpu,retrieval",
        "MASKSEARCH_EXPECTED_HOSTS": "1",
        "MASKSEARCH_RESTARTS": "3",
        "MASKSEARCH_PAUSE": "0",
        "CODES": "0",
    }
    for name in ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"):
        environment.pop(name, None)
    return tmp_path, environment


def worker(host, *arguments, **settings) -> subprocess.CompletedProcess:
    folder, environment = host
    return subprocess.run(
        ["bash", str(folder / "code/launch/worker.sh"), *arguments],
        env=environment | settings, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def starts(host) -> list[str]:
    path = host[0] / "notes/starts"
    return path.read_text().splitlines() if path.exists() else []


def write_record(records: Path, number: int, code: int) -> None:
    records.mkdir(parents=True, exist_ok=True)
    (records / f"exit-{number}").write_text(f"{number} 4 {code} 2026-01-01T00:00:00Z because\n")


@pytest.mark.parametrize(
    "codes, settings, code, count",
    [
        ("0", {}, 0, 1),
        ("75,75,0", {}, 0, 3),
        ("75,75,75,75,0", {}, 75, 4),  # a first start and three more
        ("1,0", {}, 1, 1),
        ("137,0", {}, 137, 1),  # killed for its memory: it would be again
        ("143,0", {}, 0, 2),
        ("abort,0", {}, 134, 1),
        ("abort,0", FOUR, 0, 2),  # with several hosts, JAX has lost one
    ],
)
def test_exit_statuses(host, codes, settings, code, count):
    done = worker(host, CODES=codes, **settings)
    assert (done.returncode, len(starts(host))) == (code, count), done.stdout + done.stderr
    record = host[0] / f"workdir/launch/exit-{settings.get('TPU_WORKER_ID', 0)}"
    assert record.exists() == (code != 75)
    assert (host[0] / "notes/extras").read_text() == "tpu,retrieval\n"


def test_a_single_host_names_no_coordinator(host):
    worker(host, "--config.seed=1", "--config.note=a b")
    workdir = host[0] / "workdir"
    line = f"-m masksearch_jax.train --config=configs/dapo.py --workdir={workdir} --config.seed=1 --config.note=a b"
    assert starts(host) == [line]


def test_several_hosts_get_their_place(host):
    worker(host, **FOUR)
    for setting in ("coordinator=h0:8476", "processes=4", "process_id=2"):
        assert f"--config.distributed.{setting}" in starts(host)[0].split()


def test_a_slice_of_another_size_stops(host):
    done = worker(host, **{**FOUR, "MASKSEARCH_EXPECTED_HOSTS": "2"})
    assert done.returncode == 64 and not starts(host)


def test_a_host_that_stopped_stops_the_others(host):
    write_record(host[0] / "workdir/launch", 0, 9)
    assert worker(host, **FOUR).returncode == 9
    assert not starts(host)


def test_after_the_end_a_boot_does_nothing(host):
    assert worker(host).returncode == 0
    assert worker(host).returncode == 0
    assert len(starts(host)) == 1


def test_one_finished_host_starts_again_with_the_others(host):
    """It was done when another one was lost; without it the others would wait in vain."""
    write_record(host[0] / "workdir/launch", 2, 0)
    assert worker(host, **FOUR).returncode == 0
    assert len(starts(host)) == 1


@pytest.mark.parametrize("behaviour, code", [("finishing", 0), ("saving", 75)])
def test_a_host_that_is_taken_away_lets_the_trainer_end(host, behaviour, code):
    folder, environment = host
    process = subprocess.Popen(
        ["bash", str(folder / "code/launch/worker.sh")], env=environment | {"CODES": f"{behaviour},0"}, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (folder / "notes/asleep").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert (folder / "notes/saved").exists() == (behaviour == "saving")
    assert len(starts(host)) == 1


def test_installation_is_tried_three_times(host):
    (host[0] / "code/launch/setup.sh").write_text('echo x >>"$NOTES/installs"; exit 1\n')
    assert worker(host).returncode == 69
    assert (host[0] / "notes/installs").read_text().count("x") == 3


def test_the_start_up_script_from_metadata_to_trainer(host):
    """Rendered by the launcher; booted twice, the second time after the run has ended."""
    folder, environment = host
    script = subprocess.run(
        [sys.executable, "launch/tpu_vm.py", "create", "--project=p", "--zone=z", "--accelerator=v5e-16", "--dry-run",
         "--workdir=gs://bucket/runs/demo", "--config=configs/dapo.py", "--", "--config.note=a 'b' $c"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    mount = folder / "mount"
    head = "#!/usr/bin/env bash\n"
    script = head + script.partition(head)[2].partition("\n# next:")[0].replace("/mnt/masksearch", str(mount))
    (folder / "startup.sh").write_text(script)

    # ---- what a TPU VM has: metadata, gcsfuse, and the archive in the bucket ----
    endpoints = ",".join(f"name{n}:8470:10.0.0.{n}" for n in range(4))
    stubs = {
        "curl": f'case "$*" in *agent-worker-number) echo 1;; *worker-network-endpoints) echo "{endpoints}";; esac',
        "gcsfuse": f'echo "$@" >>"$NOTES/mounts"; touch {folder}/mounted',
        "mountpoint": f"test -e {folder}/mounted",
    }
    (folder / "bin").mkdir()
    for name, body in stubs.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    archive = Path(script.partition("export MASKSEARCH_CODE=")[2].partition("\n")[0])
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "code/launch", "launch")
    environment = {k: v for k, v in environment.items() if not k.startswith("MASKSEARCH")} | {
        "PATH": f"{folder / 'bin'}:{environment['PATH']}",
        "MASKSEARCH_LOG": str(folder / "log"),
        "MASKSEARCH_LOCAL": str(folder / "local"),
        "MASKSEARCH_PAUSE": "0",
        "CODES": "143,75,0",
    }

    records = mount / "runs/demo/launch"
    for _ in range(2):
        done = subprocess.run(["bash", str(folder / "startup.sh")], env=environment, check=False, timeout=60)
        assert done.returncode == 0, (folder / "log").read_text()
        assert len(starts(host)) == 3
        for other in (0, 2, 3):
            write_record(records, other, 0)
    (mounted,) = (folder / "notes/mounts").read_text().splitlines()  # once
    assert mounted.endswith(f" bucket {mount}") and "--rename-dir-limit=10000" in mounted
    assert starts(host)[0].endswith(
        "--config.distributed.coordinator=10.0.0.0:8476 --config.distributed.processes=4 "
        "--config.distributed.process_id=1 --config.note=a 'b' $c"
    )
    assert "start 2" in (records / "log-1.txt").read_text()


@pytest.mark.parametrize("name", ["worker.sh", "tpu_vm_startup.sh"])
def test_scripts_parse(name):
    subprocess.run(["bash", "-n", str(ROOT / "launch" / name)], check=True)
