"""Runs a training job on a TPU slice of a GKE cluster, as a JobSet.

    python launch/gke.py create --accelerator=v5e-16 --workdir=gs://B/runs/NAME --config=configs/dapo.py --spot \\
        --service-account=trainer --dry-run -- --config.dapo.iterations=200
    python launch/gke.py status --workdir=gs://B/runs/NAME
    python launch/gke.py logs   --workdir=gs://B/runs/NAME [--host=0] [--follow]
    python launch/gke.py delete --workdir=gs://B/runs/NAME
    python launch/gke.py xpk    --accelerator=... --cluster=C --project=P --zone=Z ...     prints the same job for XPK

The JobSet is launch/gke.yaml, filled in; each pod runs launch/worker.sh. A pod that ends with 75, or whose node is
taken away, restarts all pods from the last checkpoint, --max-restarts times; any other failure fails the JobSet.
Exit status of `status`: 0 done, 75 not yet, 1 failed. `--dry-run` shows every command and the manifest and runs
nothing. Needs kubectl with the cluster's credentials, gcloud, a cluster with JobSet and the Cloud Storage FUSE driver,
and a Kubernetes service account that may read and write the bucket.
"""

import argparse
import json
import shlex
import string
import sys
import tempfile
from pathlib import Path

import cloud_run
from accelerators import Accelerator
from cloud_run import MOUNT, RETRY, Run, Shell

_MOUNT_OPTIONS = "implicit-dirs,rename-dir-limit=10000,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0"
_TEMPLATE = Path(__file__).with_name("gke.yaml")
_UNPACK = (
    "mkdir -p /opt/masksearch && tar -xzf {archive} -C /opt/masksearch && exec bash /opt/masksearch/launch/worker.sh"
)


def main(argv: list[str]) -> int:
    args, overrides, run, slice_ = cloud_run.parse(_parser(), argv)
    shell = Shell(args.dry_run)
    if args.command in ("create", "xpk") and args.reserved == "":
        raise SystemExit(
            "--reserved without a name: GKE would order machines on demand instead. It takes reserved TPUs by the name "
            "of their reservation: --reserved=NAME (gcloud compute reservations list)"
        )
    if args.command == "xpk":
        return print_xpk(run, slice_, args, overrides)
    if args.command == "create":
        return create(shell, run, slice_, args, overrides)
    if args.command == "status":
        return status(shell, run, args)
    if args.command == "logs":
        return logs(shell, run, args)
    return delete(shell, run, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("create", "status", "logs", "delete", "xpk"):
        command = commands.add_parser(name)
        cloud_run.add_arguments(command)
        if name in ("create", "xpk"):
            cloud_run.add_create_arguments(command)
            command.add_argument("--image", default="python:3.12", help="has bash, tar and Python 3.11 or 3.12")
            command.add_argument("--max-restarts", type=int, default=100)
        if name == "xpk":
            for flag in ("--cluster", "--project", "--zone"):
                command.add_argument(flag, required=True)
        else:
            command.add_argument("--namespace", default="default")
            command.add_argument("--context", help="of kubectl; default: the current one")
        if name == "create":
            command.add_argument("--service-account", default="default", help="Kubernetes service account of the pods")
        if name == "logs":
            cloud_run.add_log_arguments(command)
    return parser


def create(shell: Shell, run: Run, slice_: Accelerator, args: argparse.Namespace, overrides: list[str]) -> int:
    """Applies the JobSet unless it is there; one that has failed is replaced and goes on."""
    archive = cloud_run.code_archive(run)
    text = manifest(run, archive, slice_, args, overrides)
    shell.print_comment(cloud_run.cost_note(slice_, args.hours, args.price))
    shell.print_comment("the node pool, once:")
    shell.print_comment(shlex.join(node_pool_command(slice_, args)))
    state = jobset_state(shell, run, args)
    if state in ("", "Completed"):
        shell.print_comment(f"JobSet {run.name} exists and is {state or 'running'}: nothing to create")
        return 0
    cloud_run.require_data(shell, run, slice_, args, overrides)
    if state == "Failed" or shell.dry_run:
        shell.print_comment("a failed JobSet of this name is deleted first:")
        _delete(shell, run, args)
    cloud_run.forget_outcome(shell, run)
    with tempfile.TemporaryDirectory() as folder:
        cloud_run.upload_code(shell, run, archive, Path(folder))
    shell.run(*_kubectl(args), "apply", "--filename=-", stdin=text)
    if shell.dry_run:
        print(f"# the manifest on its standard input:\n{text}", end="")
    shell.print_comment(
        f"next: python launch/gke.py status --workdir={run.url}; to stop paying: delete with the same arguments"
    )
    return 0


def manifest(run: Run, archive: str, slice_: Accelerator, args: argparse.Namespace, overrides: list[str]) -> str:
    """The JobSet as YAML. JSON is YAML, so that lists, mappings and free text are put in as JSON."""
    selector = {
        "cloud.google.com/gke-tpu-accelerator": slice_.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": slice_.topology,
    }
    tolerations = [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}]
    if args.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations += [{"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}]
    if args.flex_start:
        selector["cloud.google.com/gke-flex-start"] = "true"
    if args.reserved:
        selector["cloud.google.com/reservation-name"] = args.reserved
    settings = cloud_run.host_environment(run, archive, slice_, args.config, args.extras)
    # "$@" behind the name of the shell: the overrides are arguments and never read as shell.
    command = ["bash", "-c", _UNPACK.format(archive=shlex.quote(f"{MOUNT}/{archive}")) + ' "$@"', "bash", *overrides]
    values = {
        "name": run.name,
        "namespace": args.namespace,
        "max_restarts": args.max_restarts,
        "hosts": slice_.hosts,
        "chips_per_host": slice_.chips_per_host,
        "service_account": args.service_account,
        "image": args.image,
        "mount": MOUNT,
        "mount_options": _MOUNT_OPTIONS,
        "bucket": run.bucket,
        "node_selector": selector,
        "tolerations": tolerations,
        # Kubernetes expands $(NAME) in commands and environments; a doubled dollar is one.
        "command": [part.replace("$(", "$$(") for part in command],
        "env": [{"name": name, "value": value.replace("$(", "$$(")} for name, value in settings.items()],
    }
    return string.Template(_TEMPLATE.read_text()).substitute({key: json.dumps(value) for key, value in values.items()})


def node_pool_command(slice_: Accelerator, args: argparse.Namespace) -> list[str]:
    """How the node pool that the manifest selects is made; capitals stand for what the cluster decides."""
    command = [
        "gcloud", "container", "node-pools", "create", f"tpu-{slice_.name}", "--cluster=CLUSTER", "--location=REGION",
        "--node-locations=ZONE", f"--machine-type={slice_.machine_type}",
    ]  # fmt: skip
    if slice_.hosts > 1:
        command += [f"--tpu-topology={slice_.topology}"]
    command += ["--scopes=cloud-platform", "--workload-metadata=GKE_METADATA"]
    if args.flex_start:
        lifetime = f"--max-run-duration={cloud_run.seconds_of(args.flex_start)}s"
        sizes = ["--num-nodes=0", "--enable-autoscaling", "--min-nodes=0", f"--max-nodes={slice_.hosts}"]
        return [*command, "--flex-start", lifetime, *sizes, "--reservation-affinity=none"]
    if args.spot:
        command += ["--spot"]
    if args.reserved:
        command += ["--reservation-affinity=specific", f"--reservation={args.reserved}"]
    return [*command, f"--num-nodes={slice_.hosts}"]


def print_xpk(run: Run, slice_: Accelerator, args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the commands that run the same job through XPK. Raises SystemExit for slices that XPK does not know."""
    if slice_.chips < 8 and slice_.gke_accelerator == "tpu-v5-lite-podslice":
        raise SystemExit(f"{slice_.name}: XPK starts v5e at 8 chips; take gke.py create or launch/tpu_vm.py")
    # XPK builds 2x4 from two hosts of four chips.
    hosts = max(1, slice_.chips // 4)
    archive = cloud_run.code_archive(run)
    settings = cloud_run.host_environment(run, archive, slice_, args.config, args.extras)
    settings["MASKSEARCH_EXPECTED_HOSTS"] = str(hosts)
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    unpack = _UNPACK.format(archive=shlex.quote(f"{MOUNT}/{archive}")).replace("exec bash", f"exec env {exports} bash")
    capacity = ["--spot"] if args.spot else ["--flex"] if args.flex_start else []
    if args.reserved:
        capacity = [f"--reservation={args.reserved}"]
    where = [f"--cluster={args.cluster}", f"--project={args.project}", f"--zone={args.zone}"]
    shell = Shell(dry_run=True)
    with tempfile.TemporaryDirectory() as folder:
        cloud_run.upload_code(shell, run, archive, Path(folder))
    storage = f"{run.name}-bucket"
    shell.run(
        "xpk", "storage", "attach", storage, "--type=gcsfuse", f"--bucket={run.bucket}", f"--mount-point={MOUNT}",
        "--readonly=false", "--auto-mount=false", "--size=1", f"--mount-options={_MOUNT_OPTIONS}",
        *where,
    )  # fmt: skip
    shell.run(
        "xpk", "workload", "create", f"--workload={run.name}", *where, f"--tpu-type={slice_.accelerator_type}",
        "--num-slices=1", f"--max-restarts={args.max_restarts}", "--restart-on-exit-codes=75", *capacity,
        f"--docker-image={args.image}", f"--storage={storage}", f"--command={unpack} {shlex.join(overrides)}".rstrip(),
    )  # fmt: skip
    if args.flex_start:
        shell.print_comment(
            f"XPK takes no duration: its flex-start nodes run for up to 7 days. To stop after {args.flex_start}: "
            f"xpk workload delete --workload={run.name} {' '.join(where)}"
        )
    shell.print_comment("XPK also restarts after 42 and 127 to 255, which launch/worker.sh means as a stop")
    return 0


def status(shell: Shell, run: Run, args: argparse.Namespace) -> int:
    """Says where the JobSet stands: 0 done, 75 not yet, 1 failed."""
    state = jobset_state(shell, run, args)
    if state == "Completed":
        print(f"{run.name}: done")
        return 0
    if state == "Failed":
        print(f"{run.name}: failed; why: python launch/gke.py logs --workdir={run.url}; then create goes on from there")
        return 1
    print(f"{run.name}: " + ("no JobSet has this name; run create" if state is None else "not done"))
    return RETRY


def logs(shell: Shell, run: Run, args: argparse.Namespace) -> int:
    """Shows the log of one pod of the newest start."""
    selector = f"jobset.sigs.k8s.io/jobset-name={run.name},batch.kubernetes.io/job-completion-index={args.host}"
    follow = ["--follow"] if args.follow else []
    shell.run(*_kubectl(args), "logs", f"--selector={selector}", "--container=train", "--tail=200", *follow)
    return 0


def delete(shell: Shell, run: Run, args: argparse.Namespace) -> int:
    """Deletes the JobSet and its pods; the node pool and what the run made stay."""
    _delete(shell, run, args)
    shell.print_comment(
        "the node pool is billed until it is deleted or scaled to 0: gcloud container node-pools delete NAME"
    )
    shell.print_comment(f"{run.url} stays; to remove it too: gcloud storage rm --recursive {run.url}")
    return 0


def _delete(shell: Shell, run: Run, args: argparse.Namespace) -> None:
    shell.run(*_kubectl(args), "delete", "jobset", run.name, "--ignore-not-found")


def jobset_state(shell: Shell, run: Run, args: argparse.Namespace) -> str | None:
    """'Completed', 'Failed' or '' while it runs; None if there is none."""
    return shell.ask(
        *_kubectl(args), "get", "jobset", run.name, "--output=jsonpath={.status.terminalState}", absent=("NotFound",)
    )


def _kubectl(args: argparse.Namespace) -> list[str]:
    context = [f"--context={args.context}"] if args.context else []
    return ["kubectl", *context, f"--namespace={args.namespace}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
