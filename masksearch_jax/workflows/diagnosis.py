"""Check whether a run can start here, before it costs anything (masksearch_jax.doctor).

The checks cover Python and the tested package versions, the devices and their memory, the number of processes and the
mesh that the config asks for, ScaNN, what the workdir allows, and the data and demonstrations in it. The command prints
a table and, for each failure, what to do next; its exit status is 0 if all is well, else 1. Devices are opened in a
separate process with a time limit, because JAX does not fail but waits if a host of the slice is missing. On a slice,
run it on every host at once, like the trainer.
Left out: whether a recipe fits into memory, which masksearch_jax.compile tells without a device.
"""

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.data import stream_fingerprint
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.workflows import prepared_data, synthesis_stage, training
from masksearch_jax.workflows.settings import trains_sft

_ROOT = Path(__file__).parent.parent.parent
_CONSTRAINTS = _ROOT / "launch" / "constraints.txt"
_GIB = 1 << 30
_SYNTHESIZE = "python -m masksearch_jax.synthesize with this --config, --workdir and overrides, but for distributed"
_MOUNT = "/mnt/masksearch"  # where the launchers mount a bucket

# Prints as JSON what JAX sees. Arguments: coordinator, processes, process id, time limit, mesh as JSON or ''.
_LOOK_AT_DEVICES = """
import json, sys
import jax
from masksearch_jax.runtime import mesh as mesh_lib
coordinator, mesh = sys.argv[1], sys.argv[5]
processes, process_id, seconds = map(int, sys.argv[2:5])
if processes > 1:
    where = (coordinator, processes, process_id) if coordinator else ()
    jax.distributed.initialize(*where, initialization_timeout=seconds)
local = jax.local_devices()
memory = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in local]
seen = {"platform": local[0].platform, "kind": local[0].device_kind, "local": len(local),
        "devices": jax.device_count(), "processes": jax.process_count(), "memory": min(memory)}
if mesh:
    try:
        seen["mesh"] = dict(mesh_lib.make_mesh(**json.loads(mesh)).shape)
    except ValueError as error:
        seen["mesh_error"] = str(error)
print(json.dumps(seen))
"""


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the table. ok: None if there was nothing to check. next: what to do about a failure."""

    name: str
    ok: bool | None
    found: str
    next: str = ""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    cfg: the config, or None. devices: the expected number of devices, 0 for any. seconds: the time limit for opening
    them.
    """

    cfg: ConfigDict
    workdir: Path | None
    devices: int
    seconds: int


def run(wanted: Wanted) -> list[Check]:
    """Run every check. An exception in a check counts as its failure, and the others still run."""
    checks: list[Check] = []
    looks = (
        check_python, check_versions, check_devices, check_settings, check_scann, check_storage, check_data,
        check_demonstrations,
    )  # fmt: skip
    for look in looks:
        try:
            checks += look(wanted)
        except Exception as error:  # the doctor must report problems, and not die of them
            checks.append(Check(look.__name__.removeprefix("check_"), False, f"{type(error).__name__}: {error}"))
    return checks


def check_python(wanted: Wanted) -> list[Check]:
    found = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [
        Check("python", found in ("3.11", "3.12"), found, "install Python 3.11 or 3.12; then: bash launch/setup.sh")
    ]


def check_versions(wanted: Wanted) -> list[Check]:
    """Check that the base requirements are installed, and that versions are those of launch/constraints.txt."""
    pinned = _pins(_CONSTRAINTS.read_text())
    installed = {_key(found.name): found.version for found in importlib.metadata.distributions() if found.name}
    install = "bash launch/setup.sh (with the extras you need, e.g. tpu,retrieval)"
    if "masksearch-jax" not in installed:
        return [Check("versions", False, "masksearch_jax is not installed", install)]
    needed = [_requirement(line) for line in importlib.metadata.requires("masksearch_jax") or [] if "extra" not in line]
    missing = [name for name in needed if name not in installed]
    if missing:
        return [Check("versions", False, f"not installed: {', '.join(missing)}", install)]
    other = [
        f"{name} {installed[name]} instead of {version}"
        for name, version in pinned.items()
        if name in installed and installed[name] != version
    ]
    if other:
        more = f" and {len(other) - 6} more" if len(other) > 6 else ""
        return [Check("versions", False, f"not those tested together: {', '.join(other[:6])}{more}", install)]
    held = sum(name in installed for name in pinned)
    return [Check("versions", True, f"{held} packages as in launch/constraints.txt")]


def check_devices(wanted: Wanted) -> list[Check]:
    """Check devices, memory, processes and mesh, as a separate process sees them."""
    distributed = wanted.cfg.distributed if wanted.cfg is not None else None
    processes = distributed.processes if distributed else 1
    place = [distributed.coordinator, str(processes), str(distributed.process_id)] if distributed else ["", "1", "0"]
    mesh = json.dumps(wanted.cfg.mesh.to_dict()) if wanted.cfg is not None else ""
    command = [sys.executable, "-c", _LOOK_AT_DEVICES, *place, str(wanted.seconds), mesh]
    hosts = (
        f"start the same line on all {processes} hosts at once; is port {place[0].rpartition(':')[2] or 8482} open?"
        if processes > 1
        else "does another process hold the chips (lsof /dev/accel* /dev/vfio/*)? On a slice of several hosts, start "
        "the line on all of them, with --config.distributed.processes=<hosts>"
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=wanted.seconds, check=False)
    except subprocess.TimeoutExpired:
        return [Check("devices", False, f"no answer from JAX in {wanted.seconds} s", hosts)]
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return [Check("devices", False, reason[:300], hosts)]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    checks = [_device_check(seen, wanted.devices), _memory_check(seen)]
    if wanted.cfg is not None:
        checks += [_process_check(seen, processes), _mesh_check(seen)]
    return checks


def _device_check(seen: JsonObject, expected: int) -> Check:
    found = f"{seen['devices']} x {seen['kind']} ({seen['platform']}), {seen['local']} on this host"
    if expected and seen["devices"] != expected:
        return Check("devices", False, f"{found}; expected {expected}", "is the slice whole, and is this its line?")
    asked = os.environ.get("JAX_PLATFORMS", "")
    if seen["platform"] == "cpu" and asked != "cpu" and _has_accelerator():
        return Check("devices", False, f"{found}, though this host has TPU chips", "bash launch/setup.sh tpu,retrieval")
    return Check("devices", True, found)


def _has_accelerator() -> bool:
    return any(Path("/dev").glob("accel*")) or any(Path("/dev").glob("vfio/[0-9]*"))


def _memory_check(seen: JsonObject) -> Check:
    if not seen["memory"]:
        return Check("memory", None, f"{seen['platform']} devices report none")
    return Check("memory", True, f"{seen['memory'] / _GIB:.1f} GiB a device")


def _process_check(seen: JsonObject, expected: int) -> Check:
    found = f"{seen['processes']} of {expected}"
    advice = f"--config.distributed.processes={seen['processes']}, or start the line on every host"
    return Check("processes", seen["processes"] == expected, found, advice)


def _mesh_check(seen: JsonObject) -> Check:
    advice = "--config.mesh.data=-1 --config.mesh.fsdp=1 --config.mesh.tensor=1 takes any number of devices"
    if "mesh_error" in seen:
        return Check("mesh", False, seen["mesh_error"], advice)
    return Check("mesh", True, ", ".join(f"{name} {size}" for name, size in seen["mesh"].items()))


def check_settings(wanted: Wanted) -> list[Check]:
    """Check the settings as the trainer does at its start."""
    if wanted.cfg is None:
        return [Check("settings", None, "no --config")]
    if "stage" not in wanted.cfg:
        return [Check("settings", None, "not a config of the trainer")]
    try:
        training.validate_training(wanted.cfg)
    except (ValueError, FileNotFoundError) as error:
        return [Check("settings", False, str(error), "change the setting that it names")]
    return [Check("settings", True, f"stage {wanted.cfg.stage}")]


def check_scann(wanted: Wanted) -> list[Check]:
    """Check that ScaNN can be imported without TensorFlow, as the index imports it.

    The check runs in its own process, since mismatched versions can end the process.
    """
    code = "import sys; sys.modules['tensorflow'] = None; import scann; print(scann.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return [
            Check("scann", False, reason[:300], "bash launch/setup.sh tpu,retrieval (or retrieval, on a CPU machine)")
        ]
    return [Check("scann", True, "imports")]


def check_storage(wanted: Wanted) -> list[Check]:
    """Check that the workdir allows writing, renaming a file and a folder (as checkpoints need) and deleting."""
    if wanted.workdir is None:
        return [Check("storage", None, "no --workdir")]
    workdir = wanted.workdir
    if str(workdir).startswith(("gs:/", "s3:/")):
        name = str(workdir).partition(":/")[2].lstrip("/")
        bucket = name.partition("/")[0]
        return [
            Check(
                "storage", False, f"{workdir}: the trainer reads and writes a file system",
                f"mkdir -p {_MOUNT} && gcsfuse --implicit-dirs --rename-dir-limit=10000 {bucket} {_MOUNT}; "
                f"then --workdir={_MOUNT}/{name.partition('/')[2]}",
            )
        ]  # fmt: skip
    probe = workdir / f".doctor-{uuid.uuid4().hex[:8]}"
    steps: list[tuple[str, Callable[[], object]]] = [
        ("make a folder", lambda: (probe / "a").mkdir(parents=True)),
        ("write", lambda: (probe / "a" / "file").write_bytes(b"x" * 4096)),
        ("rename a file", lambda: (probe / "a" / "file").rename(probe / "a" / "renamed")),
        ("rename a folder", lambda: (probe / "a").rename(probe / "b")),
        ("read back", lambda: _same(probe / "b" / "renamed", b"x" * 4096)),
        ("delete", lambda: shutil.rmtree(probe)),
    ]
    existed = workdir.is_dir()
    for doing, step in steps:
        try:
            step()
        except OSError as error:
            shutil.rmtree(probe, ignore_errors=True)
            advice = f"give this user the right to (now: {_who()}), or take another --workdir"
            if doing == "rename a folder":
                advice = "a mounted bucket needs gcsfuse --rename-dir-limit=10000, or a hierarchical namespace"
            return [Check("storage", False, f"{workdir}: cannot {doing}: {error}", advice)]
    free = shutil.disk_usage(workdir).free
    if not existed:
        workdir.rmdir()
    return [Check("storage", True, f"{workdir}: write, rename, delete; {free / _GIB:.0f} GiB free")]


def _same(path: Path, content: bytes) -> None:
    if path.read_bytes() != content:
        raise OSError(f"{path} came back changed")


def _who() -> str:
    return f"uid {os.getuid()}"


def check_data(wanted: Wanted) -> list[Check]:
    """Check that W/data is as prepare left it, and that it has the settings that the run states.

    Each file has its size, and each ArrayRecord is readable to its end.
    """
    if wanted.workdir is None:
        return [Check("data", None, "no --workdir")]
    data = wanted.workdir / "data"
    if wanted.cfg is not None and "prepare" in wanted.cfg:
        prepare = " ".join(training.prepare_command(wanted.cfg.prepare, wanted.workdir))
    else:
        prepare = f"python -m masksearch_jax.prepare --config=configs/prepare.py --workdir={wanted.workdir}"
    manifest = data / "manifest.json"
    if not manifest.exists():
        # A run of one process prepares by itself; a run of several refuses to, since all of them would do it.
        return [Check("data", False, f"{manifest} is missing: not prepared", prepare)]
    try:
        listed = read_json_object(manifest, "it cannot be checked", ("files",))["files"]
    except ValueError as error:
        return [Check("data", False, str(error), f"copy {data} again, or: rm -r {data} && {prepare}")]
    again = f"copy {data} again, or: rm -r {data} && {prepare}"
    for name, fact in listed.items():
        path = data / name
        if not path.exists():
            return [Check("data", False, f"{path} is missing", again)]
        if path.stat().st_size != fact["bytes"]:
            found = f"{path} has {path.stat().st_size} bytes, the manifest says {fact['bytes']}"
            return [Check("data", False, found, again)]
    records = 0
    for name in (name for name in listed if name.endswith(".array_record")):
        try:
            records += stream_fingerprint.describe_file(data / name)["records"]
        except Exception as error:  # a damaged file can make the reader raise anything
            return [Check("data", False, f"{data / name} cannot be read: {error}", again)]
    if wanted.cfg is not None and "prepare" in wanted.cfg:
        try:
            prepared_data.check_prepared(wanted.cfg, wanted.workdir, prepare, warn=False)
        except ValueError as error:
            return [Check("data", False, str(error), "the trainer would refuse it: change what it names")]
    return [Check("data", True, f"{len(listed)} files, {records} records")]


def check_demonstrations(wanted: Wanted) -> list[Check]:
    """Check that the demonstrations were made with the settings of this run.

    If they are missing, a run of one process makes them; a run of several refuses to.
    """
    if wanted.workdir is None or wanted.cfg is None or "stage" not in wanted.cfg:
        return [Check("demonstrations", None, "no --workdir, or no config of the trainer")]
    if not trains_sft(wanted.cfg):
        return [Check("demonstrations", None, "not needed: this run trains no SFT")]
    manifest = wanted.workdir / "demonstrations" / "manifest.json"
    if manifest.exists():
        try:
            tasks = read_json_object(manifest, "it cannot be used", ("tasks",))["tasks"]
        except ValueError as error:
            again = f"rm -r {manifest.parent}: the trainer, or masksearch_jax.synthesize, makes it again"
            return [Check("demonstrations", False, str(error), again)]
        try:
            synthesis_stage.check_made(wanted.cfg, wanted.workdir)
        except ValueError as error:
            return [Check("demonstrations", False, str(error), f"rm -r {manifest.parent}; then {_SYNTHESIZE}")]
        return [Check("demonstrations", True, f"{len(tasks)} tasks")]
    if wanted.cfg.distributed.processes == 1:
        return [Check("demonstrations", None, "missing: the trainer makes them")]
    found = f"{manifest} is missing, and several processes would all make it"
    return [Check("demonstrations", False, found, f"once, on a machine with CPUs: {_SYNTHESIZE}")]


def _pins(constraints: str) -> dict[str, str]:
    """Return {name: version} of the lines `name==version`."""
    return {_key(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", constraints, flags=re.M)}


def _requirement(line: str) -> str:
    return _key(re.split(r"[^\w.-]", line, maxsplit=1)[0])


def _key(name: str) -> str:
    """Return the normalised name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def print_table(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = {True: "ok", False: "FAIL", None: "-"}[check.ok]
        print(f"{check.name:<{width}}  {mark:<4}  {check.found}")
    for check in checks:
        if check.ok is False:
            print(f"\n{check.name}: {check.found}" + (f"\n  next: {check.next}" if check.next else ""))
