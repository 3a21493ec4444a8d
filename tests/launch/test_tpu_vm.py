"""launch/tpu_vm.py against a gcloud that keeps its queued resources and its bucket in a folder."""

import re
import shlex
from pathlib import Path

import pytest

WHERE = ("--project=p", "--zone=us-west4-a", "--workdir=gs://bucket/runs/demo")
SLICE = ("--accelerator=v5e-16", "--config=configs/dapo.py")

# Queued resources are files that hold their state; the bucket is a folder. Messages are those of gcloud 528.
GCLOUD = r"""
[[ $1 == alpha ]] && shift
echo "$*" >>"$FAKE/calls"
if [[ $1 == storage ]]; then
    target=${@: -1}
    target=$FAKE/gs/${target#gs://}
    if [[ $2 == cp ]]; then
        mkdir -p "${target%/*}" && cp "${@: -2:1}" "$target"
        exit
    fi
    compgen -G "$target" >/dev/null || { echo "ERROR: The following URLs matched no objects or files:" >&2; exit 1; }
    case $2 in cat) cat $target ;; rm) rm $target ;; esac
    exit
fi
verb=$4 resource=$FAKE/$5
case $verb in
    create)
        [[ -f $resource ]] && { echo "ERROR: ALREADY_EXISTS" >&2; exit 1; }
        printf "${NEXT_STATE:-WAITING_FOR_RESOURCES}" >"$resource"
        [[ -d $FAKE/hidden ]] && cp "$FAKE"/hidden/exit-* "$FAKE/gs/bucket/runs/demo/launch/" ;;
    *)
        [[ -f $resource ]] || { echo "ERROR: NOT_FOUND: Resource was not found." >&2; exit 1; }
        case $verb in describe) cat "$resource" ;; delete) rm "$resource" ;; esac ;;
esac
exit 0
"""


@pytest.fixture
def cloud(tmp_path, tools, monkeypatch):
    """The folder that the fake gcloud keeps everything in; the run's data is prepared."""
    tools("gcloud", GCLOUD)
    monkeypatch.setenv("FAKE", str(tmp_path))
    for folder in ("data", "demonstrations"):
        manifest = tmp_path / "gs/bucket/runs/demo" / folder / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text("{}")
    return tmp_path


@pytest.fixture
def launch(launcher):
    return lambda *arguments, **environment: launcher("tpu_vm", *arguments, **environment)


def calls(cloud: Path, verb: str) -> int:
    log = cloud / "calls"
    return log.read_text().count(f"queued-resources {verb} ") if log.exists() else 0


def host_ended(cloud: Path, host: int, code: int) -> None:
    records = cloud / "gs/bucket/runs/demo/launch"
    records.mkdir(parents=True, exist_ok=True)
    (records / f"exit-{host}").write_text(f"{host} 4 {code} 2026-01-01T00:00:00Z because\n")


def test_the_same_line_twice_makes_one_slice(cloud, launch):
    for _ in range(2):
        done = launch("create", *WHERE, *SLICE, "--spot")
        assert done.returncode == 0, done.stderr
    assert calls(cloud, "create") == 1
    assert "nothing to create" in done.stderr
    assert len(list((cloud / "gs/bucket/runs/demo/launch").glob("code-*.tar.gz"))) == 1


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_preempted_slice_is_replaced_under_its_name(cloud, launch, state):
    (cloud / "demo").write_text(state)
    assert launch("create", *WHERE, *SLICE, "--spot").returncode == 0
    assert (calls(cloud, "delete"), calls(cloud, "create")) == (1, 1)
    assert (cloud / "demo").read_text() == "WAITING_FOR_RESOURCES"


def test_a_finished_run_is_not_created_again(cloud, launch):
    for host in range(4):
        host_ended(cloud, host, 0)
    assert launch("create", *WHERE, *SLICE).returncode == 0
    assert calls(cloud, "create") == 0


def test_status_says_by_its_exit_status_what_to_do(cloud, launch):
    assert launch("status", *WHERE).returncode == 75  # nothing there yet
    for state, code in (("WAITING_FOR_RESOURCES", 75), ("ACTIVE", 75), ("SUSPENDED", 75), ("FAILED", 1)):
        (cloud / "demo").write_text(state)
        assert launch("status", *WHERE).returncode == code, state
    (cloud / "demo").write_text("ACTIVE")
    for host in range(3):
        host_ended(cloud, host, 0)
    assert launch("status", *WHERE).returncode == 75  # one host of four is still at it
    host_ended(cloud, 3, 0)
    done = launch("status", *WHERE)
    assert done.returncode == 0 and "still billed" in done.stdout
    host_ended(cloud, 2, 7)
    assert launch("status", *WHERE).returncode == 7


def test_an_error_of_gcloud_is_not_taken_for_an_absent_resource(cloud, launch, tools):
    tools("gcloud", "echo 'ERROR: PERMISSION_DENIED' >&2; exit 1")
    done = launch("create", *WHERE, *SLICE)
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr


def test_watch_goes_on_after_a_preemption_and_deletes_at_the_end(cloud, launch):
    """The slice is preempted; the hosts of the next one end well as soon as it is created."""
    (cloud / "demo").write_text("SUSPENDED")
    for host in range(4):
        host_ended(cloud, host, 0)
    records = cloud / "gs/bucket/runs/demo/launch"
    records.rename(cloud / "hidden")
    done = launch("watch", *WHERE, *SLICE, "--spot", "--every=0", NEXT_STATE="ACTIVE")
    assert done.returncode == 0, done.stderr
    assert (calls(cloud, "create"), calls(cloud, "delete")) == (1, 2)
    assert not (cloud / "demo").exists()


def test_watch_ends_with_75_when_preempted_too_often(cloud, launch):
    arguments = (*WHERE, *SLICE, "--spot", "--every=0", "--recreations=2")
    done = launch("watch", *arguments, NEXT_STATE="SUSPENDED")
    assert done.returncode == 75
    assert calls(cloud, "create") == 3


def test_a_stopped_run_stops_watch_too(cloud, launch):
    (cloud / "demo").write_text("ACTIVE")
    host_ended(cloud, 1, 3)
    done = launch("watch", *WHERE, *SLICE, "--every=0")
    assert done.returncode == 3
    assert calls(cloud, "create") == 0 and not (cloud / "demo").exists()


@pytest.mark.parametrize(
    "capacity, track, flags",
    [
        ((), "gcloud compute", ()),
        (("--spot",), "gcloud compute", ("--spot",)),
        (("--reserved",), "gcloud compute", ("--reserved",)),
        (("--reserved=mine",), "gcloud alpha compute", ("--reservation=mine",)),
        (("--flex-start=4h",), "gcloud alpha compute", ("--provisioning-model=flex-start", "--max-run-duration=4h")),
    ],
)
def test_a_dry_run_shows_every_command_and_runs_none(cloud, launch, capacity, track, flags):
    done = launch("create", *WHERE, *SLICE, *capacity, "--dry-run", "--", "--config.seed=1")
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"^\$ (.* queued-resources create .*)$", done.stdout, flags=re.M)
    assert line.startswith(f"{track} tpus")
    for flag in (*flags, "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"):
        assert flag in line.split()
    assert "export MASKSEARCH_WORKDIR=/mnt/masksearch/runs/demo" in done.stdout  # the script, whole
    assert "overrides=(--config.seed=1)" in done.stdout
    assert not (cloud / "calls").exists()


def test_delete_twice_deletes_once(cloud, launch):
    (cloud / "demo").write_text("ACTIVE")
    for _ in range(2):
        assert launch("delete", *WHERE).returncode == 0
    assert calls(cloud, "delete") == 1


def test_logs_come_from_the_bucket_without_a_slice(cloud, launch, capfd):
    host_ended(cloud, 0, 0)
    (cloud / "gs/bucket/runs/demo/launch/log-2.txt").write_text("step 7\n")
    assert launch("logs", *WHERE, "--host=2").returncode == 0
    assert capfd.readouterr().out == "step 7\n"


@pytest.mark.parametrize("folder, entry", [("data", "prepare"), ("demonstrations", "synthesize")])
def test_no_slice_is_requested_for_a_run_without_data(cloud, launch, folder, entry):
    (cloud / "gs/bucket/runs/demo" / folder / "manifest.json").unlink()
    recipe = ("--accelerator=v5e-16", "--config=configs/dapo.py:qwen2.5-0.5b@v5e-16")
    done = launch("create", *WHERE, *recipe, "--", "--config.dapo.iterations=7", "--config.search.url=http://h/{index}")
    assert done.returncode == 1 and calls(cloud, "create") == 0
    # With the settings of this run: demonstrations of any other config would be refused on the slice.
    (line,) = [line for line in done.stderr.splitlines() if "masksearch_jax." in line]
    assert shlex.split(line)[1:] == [
        "-m", f"masksearch_jax.{entry}", "--config=configs/dapo.py:qwen2.5-0.5b@v5e-16", "--workdir=W",
        "--config.dapo.iterations=7", "--config.search.url=http://h/{index}",
    ]  # fmt: skip
    assert "gcloud storage rsync" in done.stderr


def test_the_check_of_the_settings_is_named_before_a_slice_is_paid(cloud, launch):
    done = launch("create", *WHERE, *SLICE, "--dry-run", "--", "--config.seed=1")
    (line,) = [line for line in done.stdout.splitlines() if "masksearch_jax.doctor" in line]
    assert line.endswith("masksearch_jax.doctor --config=configs/dapo.py --workdir=W --config.seed=1")


def test_a_single_host_may_prepare_for_itself(cloud, launch):
    (cloud / "gs/bucket/runs/demo/data/manifest.json").unlink()
    one = ("--accelerator=v5e-4", "--config=configs/dapo.py")
    assert launch("create", *WHERE, *one).returncode == 1  # without TensorFlow it cannot
    assert launch("create", *WHERE, *one, "--extras=tpu,all").returncode == 0


def test_the_cost_note_knows_money_only_from_the_user(cloud, launch):
    def note(*arguments):
        done = launch("create", *WHERE, *SLICE, "--dry-run", *arguments)
        return done.stdout.splitlines()[0]

    assert "16 chip-hours an hour" in note()
    assert "160 chip-hours" in note("--hours=10")
    assert "160 chip-hours, 80.00 at 0.5 a chip-hour" in note("--hours=10", "--price=0.5")


@pytest.mark.parametrize("workdir", ["runs/demo", "gs://bucket", "gs://bucket/runs/Demo", "gs://bucket/runs/9lives"])
def test_a_workdir_that_cannot_name_a_run_is_refused(cloud, launch, workdir):
    done = launch("create", "--project=p", "--zone=z", f"--workdir={workdir}", *SLICE, "--dry-run")
    assert done.returncode == 1 and workdir in done.stderr and "Traceback" not in done.stderr
