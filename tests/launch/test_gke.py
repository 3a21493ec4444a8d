"""The JobSet of launch/gke.py against the published schema, and what it asks of the cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(Path(__file__).with_name("jobset.schema.json").read_text())
WORKDIR = "--workdir=gs://bucket/runs/demo"


@pytest.fixture
def manifest_of(launcher):
    """manifest_of(*arguments): the manifest of a dry run, parsed."""

    def run(*arguments: str) -> dict:
        done = launcher("gke", "create", WORKDIR, "--config=configs/dapo.py", "--dry-run", *arguments)
        assert done.returncode == 0, done.stderr
        return yaml.safe_load(
            done.stdout.partition("# the manifest on its standard input:\n")[2].partition("\n# next:")[0]
        )

    return run


def pod_of(manifest: dict) -> dict:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", ["v5e-1", "v5e-8", "v5e-16", "v6e-8", "v5p-128", "v4-32"])
@pytest.mark.parametrize("capacity", [(), ("--spot",), ("--flex-start=4h",), ("--reserved=mine",)])
def test_the_manifest_fits_the_schema(manifest_of, name, capacity):
    jsonschema.Draft7Validator(SCHEMA).validate(manifest_of(f"--accelerator={name}", *capacity))


def test_a_slice_of_four_hosts(manifest_of):
    manifest = manifest_of("--accelerator=v5e-16", "--spot", "--service-account=trainer", "--max-restarts=7")
    spec = manifest["spec"]
    assert spec["network"]["enableDNSHostnames"] is True
    assert spec["failurePolicy"]["maxRestarts"] == 7
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (4, 4, "Indexed")
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["serviceAccountName"] == "trainer"
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert {"name": "MASKSEARCH_WORKDIR", "value": "/mnt/masksearch/runs/demo"} in container["env"]
    # Exit statuses: only 75 leads to another start, and the rule must name the container that there is.
    rules = job["podFailurePolicy"]["rules"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["onExitCodes"] == {"containerName": container["name"], "operator": "NotIn", "values": [75]}


def test_overrides_reach_the_trainer_and_are_no_shell(manifest_of):
    override = '--config.sft.note=$(rm -rf /) "quoted" ${x}'
    (container,) = pod_of(manifest_of("--accelerator=v5e-4", "--", override, "--config.seed=1"))["containers"]
    *_, third, name, first, second = container["command"]
    assert third.endswith('worker.sh "$@"') and name == "bash"
    assert first == override.replace("$(", "$$(")  # which Kubernetes turns back
    assert second == "--config.seed=1"


@pytest.mark.parametrize(
    "path, wrong",
    [
        (("spec", "failurePolicy", "rules", 0, "action"), "Stop"),
        (("spec", "network", "enableDnsHostnames"), True),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "images"), "x"),
        (("spec", "replicatedJobs", 0, "template", "spec", "completions"), "4"),
        (("kind",), "Job"),
    ],
)
def test_the_schema_refuses_what_a_cluster_would(manifest_of, path, wrong):
    manifest = manifest_of("--accelerator=v5e-16")
    target = manifest
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(manifest)


def test_a_dry_run_shows_every_command_and_runs_none(launcher, tools, tmp_path):
    for tool in ("gcloud", "kubectl"):
        tools(tool, "touch $0.ran")
    done = launcher("gke", "create", WORKDIR, "--config=configs/dapo.py", "--accelerator=v5e-16", "--spot", "--dry-run")
    assert done.returncode == 0, done.stderr
    kubectl = "$ kubectl --namespace=default"
    for command in (f"{kubectl} get jobset demo", "$ gcloud storage cp", f"{kubectl} apply --filename=-"):
        assert command in done.stdout
    assert "--machine-type=ct5lp-hightpu-4t --tpu-topology=4x4" in done.stdout
    assert not list((tmp_path / "bin").glob("*.ran"))


def test_the_same_line_twice_applies_one_jobset(launcher, tools, tmp_path):
    """kubectl keeps the JobSet in a file, with its state; the bucket holds everything."""
    tools("gcloud", "exit 0")
    tools(
        "kubectl",
        f"""
        jobset={tmp_path}/jobset; echo "$2" >>{tmp_path}/verbs
        case $2 in
            get) [[ -f $jobset ]] && cat $jobset || {{ echo 'Error from server (NotFound): no' >&2; exit 1; }} ;;
            apply) cat >{tmp_path}/manifest; printf '' >$jobset ;;
            delete) rm -f $jobset ;;
        esac""",
    )
    arguments = ("gke", "create", WORKDIR, "--config=configs/dapo.py", "--accelerator=v5e-16")
    for state in (None, "", "Completed", "Failed"):
        if state is not None:
            (tmp_path / "jobset").write_text(state)
        done = launcher(*arguments)
        assert done.returncode == 0, done.stderr
    verbs = (tmp_path / "verbs").read_text().split()
    # None: applied. Running, Completed: looked at. Failed: replaced.
    assert verbs == ["get", "apply", "get", "get", "get", "delete", "apply"]
    jsonschema.Draft7Validator(SCHEMA).validate(yaml.safe_load((tmp_path / "manifest").read_text()))


@pytest.mark.parametrize(
    "state, code, words", [("Completed", 0, "done"), ("Failed", 1, "failed"), ("", 75, "not done")]
)
def test_status_of_a_jobset(launcher, tools, state, code, words):
    tools("kubectl", f"printf '{state}'")
    done = launcher("gke", "status", WORKDIR)
    assert done.returncode == code and words in done.stdout


def test_status_without_a_jobset_and_with_a_broken_cluster(launcher, tools):
    tools("kubectl", "echo 'Error from server (NotFound): jobsets \"demo\" not found' >&2; exit 1")
    assert launcher("gke", "status", WORKDIR).returncode == 75
    tools("kubectl", "echo 'connection refused' >&2; exit 1")
    done = launcher("gke", "status", WORKDIR)
    assert done.returncode == 1 and "connection refused" in done.stderr


def test_xpk_gets_its_own_count_of_hosts(launcher):
    where = ("--cluster=c", "--project=p", "--zone=z", "--config=configs/dapo.py", WORKDIR)
    done = launcher("gke", "xpk", "--accelerator=v6e-8", *where, "--", "--config.seed=1")
    assert done.returncode == 0, done.stderr
    # XPK makes a v6e-8 of two hosts, GKE and Cloud TPU of one.
    assert "MASKSEARCH_EXPECTED_HOSTS=2" in done.stdout and "--tpu-type=v6e-8" in done.stdout
    assert "--restart-on-exit-codes=75" in done.stdout
    refused = launcher("gke", "xpk", "--accelerator=v5e-4", *where)
    assert refused.returncode == 1 and "8 chips" in refused.stderr


def node_pool_of(launcher, *arguments: str) -> list[str]:
    """The words of the command that makes the node pool, as a dry run shows it."""
    done = launcher("gke", "create", WORKDIR, "--config=configs/dapo.py", "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "node-pools create" in line]
    return line.removeprefix("# ").split()


def test_each_capacity_is_what_the_node_pool_is_made_of(launcher):
    slice_ = "--accelerator=v5e-16"
    assert not [word for word in node_pool_of(launcher, slice_) if "spot" in word or "reserv" in word or "flex" in word]
    assert "--spot" in node_pool_of(launcher, slice_, "--spot")
    reserved = node_pool_of(launcher, slice_, "--reserved=mine")
    assert {"--reservation-affinity=specific", "--reservation=mine"} <= set(reserved)
    flexible = node_pool_of(launcher, slice_, "--flex-start=1d12h")
    assert {"--flex-start", "--max-run-duration=129600s", "--reservation-affinity=none"} <= set(flexible)


@pytest.mark.parametrize("command", ["create", "xpk"])
def test_reserved_without_a_name_never_orders_machines_on_demand(launcher, command):
    where = ("--cluster=c", "--project=p", "--zone=z") if command == "xpk" else ("--dry-run",)
    for flag in ("--reserved", "--reserved="):
        done = launcher(
            "gke", command, WORKDIR, "--config=configs/dapo.py", "--accelerator=v5e-16", *where, flag
        )  # fmt: skip
        assert done.returncode == 1 and "--reserved=NAME" in done.stderr and not done.stdout


def test_xpk_says_what_becomes_of_a_duration(launcher):
    where = ("--cluster=c", "--project=p", "--zone=z", "--config=configs/dapo.py", WORKDIR)
    done = launcher("gke", "xpk", "--accelerator=v6e-8", *where, "--flex-start=4h")
    assert done.returncode == 0 and "--flex" in done.stdout.split()
    assert "XPK takes no duration" in done.stdout and "xpk workload delete --workload=demo" in done.stdout


@pytest.mark.parametrize("name", ["gke", "tpu_vm"])
def test_a_duration_that_is_none_is_refused_by_each_launcher(launcher, name):
    where = ("--project=p", "--zone=z") if name == "tpu_vm" else ()
    arguments = (WORKDIR, *where, "--config=configs/dapo.py", "--accelerator=v5e-16", "--dry-run", "--flex-start=week")
    done = launcher(name, "create", *arguments)
    assert done.returncode == 1 and "--flex-start=week" in done.stderr


@pytest.mark.parametrize("name", ["gke", "tpu_vm"])
def test_a_launcher_needs_the_standard_library_only(name, tmp_path):
    # -S: without site-packages. From another folder and without PYTHONPATH: it finds the table of slices by itself.
    command = [sys.executable, "-S", str(ROOT / "launch" / f"{name}.py"), "create", "--help"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--accelerator" in done.stdout, done.stderr
