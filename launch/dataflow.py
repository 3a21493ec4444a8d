"""Prepares a whole dump of Wikipedia with Apache Beam on Dataflow.

    python launch/dataflow.py run --project=P --region=R --workdir=gs://B/runs/NAME \\
        --image=R-docker.pkg.dev/P/REPOSITORY/masksearch --dump=gs://B/enwiki-DATE-pages-articles-multistream.xml.bz2 \\
        --index=gs://B/enwiki-DATE-pages-articles-multistream-index.txt.bz2 --dry-run -- --config.tasks.epochs=2
    python launch/dataflow.py status --project=P --region=R --workdir=gs://B/runs/NAME
    python launch/dataflow.py cancel --project=P --region=R --workdir=gs://B/runs/NAME --job=ID

`run` builds the workers' image of the commit that is checked out, then runs prepare here, which gives its two long
stages to Dataflow and does the rest (tokenizer, indices), and copies the data to the bucket, where the trainers of
launch/tpu_vm.py and launch/gke.py look for it. This machine needs gcloud, Python 3.11, as the image has, and disk for
the data; a VM beside the bucket is best. The same line after a kill goes on: finished shards wait in NAME/shards.
`--dry-run` shows every command and runs nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import cloud_run
from cloud_run import ROOT, Run, Shell

_PYTHON = str(ROOT / ".venv-beam" / "bin" / "python")


def main(argv: list[str]) -> int:
    args, overrides, run, _ = cloud_run.parse(_parser(), argv)
    shell = Shell(args.dry_run)
    if args.command == "run":
        return prepare(shell, run, args, overrides)
    where = (f"--project={args.project}", f"--region={args.region}")
    if args.command == "status":
        shell.run("gcloud", "dataflow", "jobs", "list", *where, f"--filter=labels.masksearch-run={run.name}")
    else:
        shell.run("gcloud", "dataflow", "jobs", "cancel", args.job, *where)
        shell.print_comment(
            f"finished shards stay in {run.url}/shards; to remove them: gcloud storage rm --recursive there"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "status", "cancel"):
        command = commands.add_parser(name)
        cloud_run.add_arguments(command)
        command.add_argument("--project", required=True)
        command.add_argument("--region", required=True)
        if name == "cancel":
            command.add_argument("--job", required=True, help="id of the job, as status shows it")
        if name == "run":
            command.add_argument("--dump", required=True, help="multistream dumps, gs://..xml.bz2, commas between")
            command.add_argument("--index", required=True, help="its index, gs://..-index.txt.bz2; as many as dumps")
            command.add_argument("--image", required=True, help="where the workers' image goes, without a tag")
            command.add_argument("--config", default="configs/prepare.py:wikipedia", help="of prepare or of a run")
            command.add_argument("--local", help="folder for the data on this machine; default runs/NAME")
            command.add_argument("--shard-mb", type=float, default=64, help="compressed, of the dump")
            command.add_argument("--max-workers", type=int, default=64)
            command.add_argument("--machine-type", default="n2-standard-4")
            command.add_argument("--service-account", help="of the workers; must read the dump and write the bucket")
            command.add_argument("--subnetwork", help="regions/R/subnetworks/NAME; workers without public address")
    return parser


def prepare(shell: Shell, run: Run, args: argparse.Namespace, overrides: list[str]) -> int:
    """Builds the image, prepares, and copies the data to the bucket."""
    for flag in ("dump", "index"):
        if not all(path.startswith("gs://") for path in getattr(args, flag).split(",")):
            raise SystemExit(f"--{flag}={getattr(args, flag)}: workers read buckets; gcloud storage cp it to {run.url}")
    archive = Path(cloud_run.code_archive(run)).name
    image = f"{args.image}:{archive.removeprefix('code-').partition('.')[0]}"
    with tempfile.TemporaryDirectory() as folder:
        local = f"{folder}/{archive}"
        shell.run("git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={local}", "HEAD")
        shell.run(
            "gcloud", "builds", "submit", local, f"--project={args.project}",
            f"--config={ROOT / 'launch' / 'dataflow_image.yaml'}", f"--substitutions=_IMAGE={image}",
        )  # fmt: skip
    shell.run("bash", str(ROOT / "launch" / "setup.sh"), "beam")
    workdir = args.local or f"runs/{run.name}"
    shell.run(*command(run, args, image, workdir, overrides))
    shell.run("gcloud", "storage", "rsync", "--recursive", f"{workdir}/data", f"{run.url}/data")
    shell.print_comment(
        f"done; the shards are no longer needed: gcloud storage rm --recursive {run.url}/shards {run.url}/tmp"
    )
    return 0


def command(run: Run, args: argparse.Namespace, image: str, workdir: str, overrides: list[str]) -> list[str]:
    """The command that prepares here, with its long stages on Dataflow."""
    options = [
        f"--project={args.project}", f"--region={args.region}", f"--temp_location={run.url}/tmp",
        f"--labels=masksearch-run={run.name}", f"--sdk_container_image={image}", "--sdk_location=container",
        f"--max_num_workers={args.max_workers}", f"--worker_machine_type={args.machine_type}",
    ]  # fmt: skip
    if args.service_account:
        options.append(f"--service_account_email={args.service_account}")
    if args.subnetwork:
        options += [f"--subnetwork={args.subnetwork}", "--no_use_public_ips"]
    # The config of a run has the settings of prepare in a section.
    prefix = "--config." if Path(args.config.partition(":")[0]).name == "prepare.py" else "--config.prepare."
    return [
        _PYTHON, "-m", "masksearch_jax.prepare", f"--config={args.config}", f"--workdir={workdir}",
        f"{prefix}dump={args.dump}", f"{prefix}beam.runner=DataflowRunner", f"{prefix}beam.index={args.index}",
        f"{prefix}beam.folder={run.url}/shards", f"{prefix}beam.shard_mb={args.shard_mb:g}",
        f"{prefix}beam.options={tuple(options)!r}", *overrides,
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
