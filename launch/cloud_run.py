"""A run in the cloud as both launchers see it: its name and folder in a bucket, its code, its outcome, its cost.

The run id is the output folder: gs://BUCKET/PATH/NAME holds everything the run makes, and every resource is called
NAME, so that the same line twice makes one run. The bucket is mounted (Cloud Storage FUSE), since the trainers read
and write paths of a file system; NAME/launch holds the code of the run and one file `exit-<host>` per finished host.
Standard library only: a launcher runs on a laptop, where nothing of the project needs to be installed.
"""

import argparse
import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

from accelerators import Accelerator, accelerator

ROOT = Path(__file__).resolve().parent.parent
MOUNT = "/mnt/masksearch"  # the bucket, on every host
RETRY = 75  # EX_TEMPFAIL: not done yet, and worth going on
_ABSENT = ("matched no objects", "not found", "404")  # of gcloud storage, where nothing is there
_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_LONGEST_FLEX_START_S = 7 * _SECONDS["d"]
# Labels, Kubernetes names (with '-slice-0-<host>' behind them) and Cloud TPU ids all take this.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: workdir gs://bucket/folder, whose last part is its name."""

    bucket: str
    folder: str

    @classmethod
    def parse(cls, workdir: str) -> "Run":
        """Reads gs://BUCKET/[PATH/]NAME; raises ValueError if it is not one."""
        match = re.fullmatch(r"gs://([^/]+)/(.+?)/?", workdir)
        if not match:
            raise ValueError(
                f"--workdir={workdir}: not of the form gs://BUCKET/PATH/NAME; a slice needs a shared folder"
            )
        run = cls(*match.groups())
        if not _NAME.fullmatch(run.name):
            raise ValueError(
                f"--workdir={workdir}: its last part {run.name!r} names the run: a letter, then letters, digits or "
                "'-', at most 40, all lower case"
            )
        return run

    @property
    def name(self) -> str:
        return self.folder.rpartition("/")[2]

    @property
    def url(self) -> str:
        return f"gs://{self.bucket}/{self.folder}"

    @property
    def path(self) -> str:
        """The workdir as the hosts see it."""
        return f"{MOUNT}/{self.folder}"


class Shell:
    """Runs commands and shows each one first; a dry run only shows them."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def print_comment(self, text: str) -> None:
        print(f"# {text}", file=sys.stdout if self.dry_run else sys.stderr, flush=True)

    def run(self, *command: str, stdin: str | None = None) -> None:
        """Runs a command. Raises SystemExit with its exit status if it fails; its message stands on stderr."""
        self._show(command)
        if not self.dry_run:
            done = subprocess.run(command, input=stdin, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command[:4])} .. failed with exit status {done.returncode}, see above")

    def ask(self, *command: str, absent: tuple[str, ...]) -> str | None:
        """The output of a command that only reads, None in a dry run, or if its error says one of `absent`."""
        self._show(command)
        if self.dry_run:
            return None
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        if any(words.lower() in done.stderr.lower() for words in absent):
            return None
        raise SystemExit(f"{done.stderr.strip()}\n{shlex.join(command)}\nfailed with exit status {done.returncode}")

    def _show(self, command: tuple[str, ...]) -> None:
        print(f"$ {shlex.join(command)}", file=sys.stdout if self.dry_run else sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every subcommand of both launchers takes."""
    parser.add_argument("--workdir", required=True, help="gs://BUCKET/PATH/NAME; NAME is the run")
    parser.add_argument("--dry-run", action="store_true", help="show every command and file, run nothing")


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    """What creating a run takes in both launchers."""
    parser.add_argument("--accelerator", required=True, help="v5e-16, v6e-8, v5p-128, v4-32 ..")
    parser.add_argument("--config", required=True, help="config, e.g. configs/dapo.py")
    parser.add_argument("--extras", default="tpu,retrieval,service", help="what launch/setup.sh installs on each host")
    capacity = parser.add_mutually_exclusive_group()
    capacity.add_argument("--spot", action="store_true", help="cheapest; may be taken away at any moment")
    capacity.add_argument("--flex-start", metavar="DURATION", help="e.g. 4h or 1d12h, 7d at most; not v4")
    capacity.add_argument(
        "--reserved", metavar="RESERVATION", nargs="?", const="",
        help="capacity you have reserved; GKE and XPK need the name of the reservation",
    )  # fmt: skip
    parser.add_argument("--hours", type=float, help="for the cost note: how long you expect it to run")
    parser.add_argument("--price", type=float, help="for the cost note: of one chip-hour, from your price list")


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """What `logs` takes in both launchers."""
    parser.add_argument("--host", type=int, default=0, help="number of the host, from 0")
    parser.add_argument("--follow", action="store_true", help="as it is written, until you interrupt it")


def parse(
    parser: argparse.ArgumentParser, argv: list[str]
) -> tuple[argparse.Namespace, list[str], Run, Accelerator | None]:
    """The launcher's arguments, what stands behind '--' for the trainer, the run, and the slice if one is named.

    Raises SystemExit with a message for a workdir or an accelerator that there is not, and for a duration of
    --flex-start that is none.
    """
    at = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:at])
    try:
        slice_ = accelerator(args.accelerator) if "accelerator" in args else None
        if getattr(args, "flex_start", None) is not None:
            seconds_of(args.flex_start)
        return args, argv[at + 1 :], Run.parse(args.workdir), slice_
    except ValueError as error:
        raise SystemExit(str(error)) from None


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration of --flex-start, such as 4h, 90m or 1d12h.

    Raises ValueError for other text, and for less than a minute or more than the seven days of flex-start.
    """
    parts = re.findall(r"(\d+)([dhms])", duration)
    seconds = sum(int(count) * _SECONDS[unit] for count, unit in parts)
    if "".join(map("".join, parts)) != duration or not _SECONDS["m"] <= seconds <= _LONGEST_FLEX_START_S:
        raise ValueError(f"--flex-start={duration}: not a duration from 1m to 7d, such as 4h, 90m or 1d12h")
    return seconds


def code_archive(run: Run) -> str:
    """The name of the archive of HEAD in the bucket; says what is not in it. Raises SystemExit outside a checkout."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode:
        raise SystemExit(
            f"{ROOT} is no git checkout: a run ships the commit that is checked out; git clone the project"
        )
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if changed.stdout.strip():
        print(
            "warning: what is not committed is not part of the run; git commit",
            file=sys.stderr,
        )
    return f"{run.folder}/launch/code-{head.stdout.strip()[:12]}.tar.gz"


def upload_code(shell: Shell, run: Run, archive: str, folder: Path) -> None:
    """Puts the archive of HEAD into the bucket, unless it is there."""
    local = str(folder / Path(archive).name)
    shell.run("git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={local}", "HEAD")
    shell.run("gcloud", "storage", "cp", "--no-clobber", local, f"gs://{run.bucket}/{archive}")


def host_environment(run: Run, archive: str, slice_: Accelerator, config: str, extras: str) -> dict[str, str]:
    """The settings that launch/worker.sh reads on every host."""
    return {
        "MASKSEARCH_CODE": f"{MOUNT}/{archive}",
        "MASKSEARCH_WORKDIR": run.path,
        "MASKSEARCH_CONFIG": config,
        "MASKSEARCH_EXTRAS": extras,
        "MASKSEARCH_EXPECTED_HOSTS": str(slice_.hosts),
    }


def require_data(shell: Shell, run: Run, slice_: Accelerator, args: argparse.Namespace, overrides: list[str]) -> None:
    """Raises SystemExit with the commands to run if the hosts would stop for want of data, before a slice is paid.

    Whether data and demonstrations were made with the settings of this run is not checked, since that takes the project
    and not the standard library alone. The command that checks it is printed.
    """
    if slice_.hosts == 1 and not {"prep", "all"}.isdisjoint(args.extras.split(",")):
        return  # a single host with TensorFlow prepares for itself
    settings = shlex.join([f"--config={args.config}", "--workdir=W", *overrides])
    for folder, entry in (("data", "prepare"), ("demonstrations", "synthesize")):
        manifest = f"{run.url}/{folder}/manifest.json"
        missing = shell.ask("gcloud", "storage", "ls", manifest, absent=_ABSENT) is None and not shell.dry_run
        if missing and (folder == "data" or slice_.hosts > 1):
            raise SystemExit(
                f"{manifest} is missing, and the hosts would stop for want of it. On a machine with CPUs, for a local "
                f"folder W (and with local paths in place of those below {MOUNT}):\n  bash launch/setup.sh all\n"
                f"  .venv/bin/python -m masksearch_jax.{entry} {settings}\n"
                f"  gcloud storage rsync --recursive W {run.url}"
            )
    shell.print_comment(
        "not checked here: whether data and demonstrations have this run's settings. Before you pay, where W is their "
        f"local folder: .venv/bin/python -m masksearch_jax.doctor {settings}"
    )


def outcome(shell: Shell, run: Run) -> int | None:
    """0 if every host finished well, the exit status of one that stopped, None if the run is under way or not begun."""
    found = shell.ask("gcloud", "storage", "cat", f"{run.url}/launch/exit-*", absent=_ABSENT)
    codes = {}
    for line in (found or "").splitlines():
        host, hosts, code = (int(part) for part in line.split()[:3])
        codes[host] = code
    stopped = [code for code in codes.values() if code]
    if stopped:
        return stopped[0]
    return 0 if codes and len(codes) == hosts else None


def forget_outcome(shell: Shell, run: Run) -> None:
    """Removes what a stopped run left, so that the hosts start again."""
    shell.ask("gcloud", "storage", "rm", f"{run.url}/launch/exit-*", absent=_ABSENT)


def cost_note(slice_: Accelerator, hours: float | None, price: float | None) -> str:
    """Chip-hours, and money only from a price that the user gave: list prices change by region and by month."""
    note = f"{slice_.name}: {slice_.chips} chips on {slice_.hosts} host(s), {slice_.chips} chip-hours an hour"
    if hours is not None:
        note += f"; {hours:g} h are {slice_.chips * hours:g} chip-hours"
    if price is not None:
        note += f", {slice_.chips * (hours or 1) * price:,.2f} at {price:g} a chip-hour" + (
            "" if hours else " each hour"
        )
    return note + ". Billed from ACTIVE until deleted, idle or not."
