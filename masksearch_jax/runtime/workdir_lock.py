"""A lock file that lets only one run work in a folder; a run takes over the lock of a run that is gone.

`FOLDER/lock.json` names host, process, command and start time. On one machine the kernel's lock on that file and the
process table decide: a holder is gone if it was killed, or if its process id belongs to another process by now. File
systems that several hosts mount may not pass on kernel locks. So the holder also touches the file every few seconds. A
run that wants the folder of a holder on another machine waits for a while, and if the file is not touched meanwhile,
the holder counts as gone.
Left out: readers, which need no lock.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from masksearch_jax.runtime import json_files
from masksearch_jax.runtime.types import JsonObject

FILE = "lock.json"
VARIABLE = "MASKSEARCH_LOCKS"  # the tokens of locks that a parent process holds, for its children
_BEAT_SECONDS = 15.0
# Mounted buckets and NFS may show an old state of a file for a minute.
_SILENT_SECONDS = 90.0
_DYING_SECONDS = 10.0  # how long a killed process may take to release its files
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_held: set[str] = set()


def tokens() -> str:
    """Return the tokens of the locks of this process and its parents, for the environment of its children."""
    return ",".join(sorted(_held | _inherited()))


@contextlib.contextmanager
def locked(folder: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of `folder` until the end of the block; make the folder if it is missing.

    wait_s: how long to wait for another run there to end. Does nothing if the process that started this one holds the
    lock. Raises ValueError that names the other run and says what to do, or that names a folder which cannot be
    written.
    """
    folder = Path(folder)
    path, made = folder / FILE, not folder.exists()
    ends, told = time.monotonic() + wait_s, False
    while True:
        found = _acquire(path)
        if not isinstance(found, dict):
            break
        if time.monotonic() >= ends:
            raise ValueError(_refusal(folder, found))
        if not told:
            _print_line(f"waiting for {_described(found)}, which works in {folder}")
            told = True
        time.sleep(0.2)
    if found is None:  # the parent holds it
        yield
        return
    file, token = found
    _held.add(token)
    stopped = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, token, stopped), name="workdir lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stopped.set()
        beat.join()
        _held.discard(token)
        if _token(path) == token:
            path.unlink(missing_ok=True)
        file.close()
        if made:
            with contextlib.suppress(OSError):  # the folder is not empty
                folder.rmdir()


def _acquire(path: Path) -> tuple[TextIO, str] | JsonObject | None:
    """Try to take the lock.

    Returns (the open lock file, its token), or the content of the lock if another run holds it, or None if a parent of
    this process holds it.
    """
    ends = time.monotonic() + _DYING_SECONDS
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        except OSError as error:
            # Another run that ends removes its empty folder, possibly between two of these calls.
            going = isinstance(error, FileExistsError | FileNotFoundError) and not path.parent.is_file()
            if going and time.monotonic() < ends:
                time.sleep(0.05)
                continue
            raise ValueError(
                f"{path} cannot be written ({error.strerror or error}); a run needs a folder that it can write to: "
                "take another --workdir"
            ) from error
        kernel = _flock(file)
        if kernel and not _is_at(file, path):  # the holder has released and removed it meanwhile
            file.close()
            continue
        owner = _owner(path, wait=kernel is False)
        if owner.get("token") in _inherited():
            file.close()
            return None
        if kernel is False and _is_dead(owner) and time.monotonic() < ends:
            file.close()  # a killed process releases its files when its last thread has ended
            time.sleep(0.05)
            continue
        if kernel is False or (owner and not _is_gone(owner, path)):
            file.close()
            return owner
        token = secrets.token_hex(8)
        file.seek(0)
        file.truncate()
        file.write(json.dumps(_self(token), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
        if kernel is None:  # without kernel locks only the content shows which of two runs at the same time got it
            time.sleep(1.0)
            if _token(path) != token:
                file.close()
                return _owner(path)
        return file, token


def _flock(file: TextIO) -> bool | None:
    """Take the kernel's lock: True on success, False if another process has it, None if the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(path: Path, wait: bool = False) -> JsonObject:
    """Return the content of the lock, {} if it is missing or cannot be read.

    wait: give a holder that is just writing it up to a second.
    """
    for _ in range(20 if wait else 1):
        try:
            found = json_files.read_json(path, "")
        except (ValueError, FileNotFoundError):
            found = None
        if isinstance(found, dict) and {"token", "machine", "pid"} <= found.keys():
            return found
        if wait:
            time.sleep(0.05)
    return {}


def _token(path: Path) -> str | None:
    return _owner(path).get("token")


def _is_gone(owner: JsonObject, path: Path) -> bool:
    """Return whether the holder has ended. For a holder on another machine, wait for a sign of life."""
    if owner.get("machine") == _machine():
        gone = _is_dead(owner)
    else:
        seen, ends, gone = _sign(path), time.monotonic() + _SILENT_SECONDS, True
        _print_line(
            f"{path.parent} was in use by {_described(owner)}; waiting up to {_SILENT_SECONDS:g} s for a sign of it"
        )
        while gone and time.monotonic() < ends:
            time.sleep(min(1.0, _SILENT_SECONDS / 10))
            gone = _sign(path) == seen
    if gone:
        _print_line(f"{path.parent} was in use by {_described(owner)}, which is gone: this run takes over")
    return gone


def _is_dead(owner: JsonObject) -> bool:
    """Return whether the holder is a process of this machine that has ended."""
    if not owner or owner.get("machine") != _machine():
        return False
    started = _started(owner.get("pid", 0))
    return not started or started != owner.get("started")


def _sign(path: Path) -> tuple[int, bytes] | None:
    try:
        with path.open("rb") as file:  # opening makes a file server return the newest state
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    except FileNotFoundError:
        return None


def _beat(path: Path, token: str, stopped: threading.Event) -> None:
    """Touch the lock regularly, to show that this run is alive; end it if another run has taken the folder."""
    while not stopped.wait(_BEAT_SECONDS):
        with contextlib.suppress(OSError):  # the file was removed, or the server is away for a moment
            os.utime(path)
        owner = _owner(path)
        if not stopped.is_set() and owner.get("token", token) != token:
            _print_line(
                f"{path.parent} was taken over by {_described(owner)}; this run ends, or both would spoil its files"
            )
            os._exit(1)


def _self(token: str) -> JsonObject:
    main = sys.modules["__main__"]
    module = getattr(getattr(main, "__spec__", None), "name", "")
    line = ["python", "-m", module, *sys.argv[1:]] if module else sys.argv
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": shlex.join(line),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "started": _started(os.getpid()),
        "token": token,
    }


def _machine() -> str:
    """Return what identifies the scope of a process id: the host, its boot, and its container."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(found)


def _started(pid: int) -> str:
    """Return when a process started, as the system counts; '' if there is no such process or it has ended."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _inherited() -> set[str]:
    return set(filter(None, os.environ.get(VARIABLE, "").split(",")))


def _described(owner: JsonObject) -> str:
    if not owner:
        return "a process that does not say which"
    return (
        f"process {owner.get('pid')} on {owner.get('host')}, running since {owner.get('since')}: "
        f"`{owner.get('command')}`"
    )


def _refusal(folder: Path, owner: JsonObject) -> str:
    stop = f" or stop it (`kill {owner['pid']}` on {owner['host']})" if owner.get("pid") and owner.get("host") else ""
    return (
        f"{folder} is in use by {_described(owner)}. Two runs in one folder would spoil each other's files: wait for "
        f"it{stop}, or take another --workdir"
    )


def _print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
