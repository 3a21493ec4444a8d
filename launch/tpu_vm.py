"""Runs a training job on a TPU slice through a queued resource of Cloud TPU.

    python launch/tpu_vm.py create --project=P --zone=Z --accelerator=v5e-16 --workdir=gs://B/runs/NAME \\
        --config=configs/dapo.py --spot --dry-run -- --config.dapo.iterations=200
    python launch/tpu_vm.py watch  ...    same arguments: creates it again after a preemption, deletes it at the end
    python launch/tpu_vm.py status --project=P --zone=Z --workdir=gs://B/runs/NAME
    python launch/tpu_vm.py logs   ... [--host=0] [--follow]
    python launch/tpu_vm.py delete ...

The queued resource, its node and the run share one name, so that the same line twice makes one slice. Each host runs
launch/worker.sh at every boot and goes on from the last checkpoint. Exit status of `status` and `watch`: 0 the run is
done, 75 not yet, anything else is that of the host that stopped. `--dry-run` shows every command and the start-up
script and runs nothing. Needs gcloud, and nothing of Python beyond the standard library.
"""

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

import cloud_run
from accelerators import Accelerator
from cloud_run import RETRY, Run, Shell

# States of a queued resource in which it will do nothing more; it must be deleted before its name is free again.
ENDED = ("FAILED", "SUSPENDED", "SUSPENDING")
_STARTUP = Path(__file__).with_name("tpu_vm_startup.sh")


def main(argv: list[str]) -> int:
    args, overrides, run, slice_ = cloud_run.parse(_parser(), argv)
    shell = Shell(args.dry_run)
    if args.command == "create":
        return create(shell, run, slice_, args, overrides)
    if args.command == "watch":
        return watch(shell, run, slice_, args, overrides)
    if args.command == "status":
        return status(shell, run, args)
    if args.command == "logs":
        return logs(shell, run, args)
    return delete(shell, run, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("create", "watch", "status", "logs", "delete"):
        command = commands.add_parser(name)
        cloud_run.add_arguments(command)
        command.add_argument("--project", required=True)
        command.add_argument("--zone", required=True)
        if name in ("create", "watch"):
            cloud_run.add_create_arguments(command)
            command.add_argument("--runtime-version", help="image of the TPU VMs; default: that of the TPU version")
            command.add_argument(
                "--valid-for", metavar="DURATION", help="give up if there is no capacity by then, e.g. 6h"
            )
            command.add_argument("--service-account", help="which must read and write the bucket")
            command.add_argument("--network")
            command.add_argument("--subnetwork")
            command.add_argument("--restarts", type=int, default=20, help="of the trainer on a host, per boot")
        if name == "watch":
            command.add_argument("--every", type=float, default=60, help="seconds between two looks")
            command.add_argument("--recreations", type=int, default=100, help="then it ends with 75")
        if name == "logs":
            cloud_run.add_log_arguments(command)
    return parser


def create(shell: Shell, run: Run, slice_: Accelerator, args: argparse.Namespace, overrides: list[str]) -> int:
    """Creates the queued resource unless it is there; one that was preempted or failed is replaced."""
    shell.print_comment(cloud_run.cost_note(slice_, args.hours, args.price))
    if cloud_run.outcome(shell, run) == 0:
        shell.print_comment(f"{run.url} is done; to train on, change the settings and remove {run.url}/launch/exit-*")
        return 0
    state = resource_state(shell, run, args)
    if state is not None and state not in ENDED:
        shell.print_comment(f"{run.name} exists and is {state}: nothing to create")
        return 0
    cloud_run.require_data(shell, run, slice_, args, overrides)
    cloud_run.forget_outcome(shell, run)
    make(shell, run, slice_, args, overrides, replace=state is not None)
    shell.print_comment(
        f"next: python launch/tpu_vm.py status {_where(run, args)}; to stop paying: delete with the same arguments"
    )
    return 0


def make(
    shell: Shell, run: Run, slice_: Accelerator, args: argparse.Namespace, overrides: list[str], replace: bool
) -> None:
    """Uploads the code and requests the slice; replace: an ended one of the same name is deleted first."""
    archive = cloud_run.code_archive(run)
    script = startup_script(run, archive, slice_, args, overrides)
    with tempfile.TemporaryDirectory() as folder:
        startup = Path(folder) / "startup.sh"
        startup.write_text(script)
        cloud_run.upload_code(shell, run, archive, Path(folder))
        if replace:
            _delete(shell, run, args)
        elif shell.dry_run:
            shell.print_comment("an ended resource of this name, e.g. after a preemption, is deleted first:")
            _delete(shell, run, args)
        shell.run(*create_command(run, slice_, args, startup))
        if shell.dry_run:
            print(f"# {startup}:\n{script}", end="")


def create_command(run: Run, slice_: Accelerator, args: argparse.Namespace, startup: Path) -> list[str]:
    # Flex-start and named reservations stand in the alpha commands only (gcloud 528).
    alpha = ["alpha"] if args.flex_start or args.reserved else []
    command = [
        "gcloud", *alpha, "compute", "tpus", "queued-resources", "create", run.name, f"--node-id={run.name}",
        f"--project={args.project}", f"--zone={args.zone}", f"--accelerator-type={slice_.accelerator_type}",
        f"--runtime-version={args.runtime_version or slice_.runtime_version}", f"--labels=masksearch-run={run.name}",
        f"--metadata-from-file=startup-script={startup}",
    ]  # fmt: skip
    if args.spot:
        command += ["--spot"]
    if args.flex_start:
        command += ["--provisioning-model=flex-start", f"--max-run-duration={args.flex_start}"]
    if args.reserved is not None:
        command += [f"--reservation={args.reserved}"] if args.reserved else ["--reserved"]
    if args.valid_for:
        command += [f"--valid-until-duration={args.valid_for}"]
    for name in ("service_account", "network", "subnetwork"):
        if getattr(args, name):
            command += [f"--{name.replace('_', '-')}={getattr(args, name)}"]
    return [*command, "--async", "--quiet"]


def startup_script(run: Run, archive: str, slice_: Accelerator, args: argparse.Namespace, overrides: list[str]) -> str:
    """What every host runs at every boot: the settings, then launch/tpu_vm_startup.sh."""
    settings = cloud_run.host_environment(run, archive, slice_, args.config, args.extras) | {
        "MASKSEARCH_BUCKET": run.bucket,
        "MASKSEARCH_MOUNT": cloud_run.MOUNT,
        "MASKSEARCH_RESTARTS": str(args.restarts),
    }
    lines = ["#!/usr/bin/env bash", *(f"export {name}={shlex.quote(value)}" for name, value in settings.items())]
    return "\n".join([*lines, f"overrides=({shlex.join(overrides)})", _STARTUP.read_text()])


def watch(shell: Shell, run: Run, slice_: Accelerator, args: argparse.Namespace, overrides: list[str]) -> int:
    """Creates the slice, creates it again whenever it was preempted, and deletes it once the run has ended."""
    if shell.dry_run:
        create(shell, run, slice_, args, overrides)
        shell.print_comment(
            f"then every {args.every:g} s the first two commands; the slice is created again when it was preempted"
        )
        _delete(shell, run, args)
        return RETRY
    if cloud_run.outcome(shell, run) is None:
        create(shell, run, slice_, args, overrides)
    recreated = 0
    while (code := status(shell, run, args)) == RETRY:
        if resource_state(shell, run, args) in (None, "SUSPENDED"):
            if recreated == args.recreations:
                shell.print_comment(f"created again {recreated} times and not done; the same line goes on")
                return RETRY
            recreated += 1
            make(shell, run, slice_, args, overrides, replace=resource_state(shell, run, args) is not None)
        time.sleep(args.every)
    delete(shell, run, args)
    return code


def status(shell: Shell, run: Run, args: argparse.Namespace) -> int:
    """Says where the run stands: 0 done, 75 not yet, otherwise it has stopped."""
    code = cloud_run.outcome(shell, run)
    state = resource_state(shell, run, args)
    where = _where(run, args)
    bill = f"; it is still billed: python launch/tpu_vm.py delete {where}" if state not in (None, *ENDED) else ""
    if code == 0:
        print(f"{run.name}: done{bill}")
    elif code is not None:
        print(f"{run.name}: stopped with exit status {code}; why: python launch/tpu_vm.py logs {where}{bill}")
    elif state is None:
        print(f"{run.name}: not done, and no queued resource has this name; run create (again)")
    elif state == "FAILED":
        print(
            f"{run.name}: the request failed (bad request, no quota, or no capacity in time); why: gcloud compute tpus "
            f"queued-resources describe {run.name} --project={args.project} --zone={args.zone}"
        )
        return 1
    elif state in ENDED:
        print(f"{run.name}: {state}, i.e. preempted or out of time; run create again and it goes on")
    else:
        print(f"{run.name}: {state}, not done")
    return RETRY if code is None else code


def logs(shell: Shell, run: Run, args: argparse.Namespace) -> int:
    """Shows a host's log: the copy in the bucket, which outlives the slice, or the log itself as it is written."""
    if args.follow:
        shell.run(
            "gcloud", "compute", "tpus", "tpu-vm", "ssh", run.name, f"--project={args.project}", f"--zone={args.zone}",
            f"--worker={args.host}", "--command=sudo tail -n 200 -F /var/log/masksearch.log",
        )  # fmt: skip
    else:
        shell.run("gcloud", "storage", "cat", f"{run.url}/launch/log-{args.host}.txt")
    return 0


def delete(shell: Shell, run: Run, args: argparse.Namespace) -> int:
    """Deletes the queued resource and its hosts; what the run made stays in the bucket."""
    if resource_state(shell, run, args) is None and not shell.dry_run:
        shell.print_comment(f"no queued resource {run.name}: nothing to delete")
        return 0
    _delete(shell, run, args)
    shell.print_comment(f"{run.url} stays; to remove it too: gcloud storage rm --recursive {run.url}")
    return 0


def _delete(shell: Shell, run: Run, args: argparse.Namespace) -> None:
    shell.run(
        "gcloud", "compute", "tpus", "queued-resources", "delete", run.name, f"--project={args.project}",
        f"--zone={args.zone}", "--force", "--quiet",
    )  # fmt: skip


def resource_state(shell: Shell, run: Run, args: argparse.Namespace) -> str | None:
    """ACTIVE, SUSPENDED .. of the queued resource; None if there is none."""
    return shell.ask(
        "gcloud", "compute", "tpus", "queued-resources", "describe", run.name, f"--project={args.project}",
        f"--zone={args.zone}", "--format=value(state.state)", absent=("NOT_FOUND", "was not found"),
    )  # fmt: skip


def _where(run: Run, args: argparse.Namespace) -> str:
    return f"--project={args.project} --zone={args.zone} --workdir={run.url}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
