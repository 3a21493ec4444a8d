"""A disk that fills: the run ends with a sentence and, once there is room, goes on to the same results.

The workdir is a small file system in memory where this user may mount one (root may). Elsewhere a limit on the size of
a file stands in for it: every write beyond it fails, in Python and in the libraries below alike.
"""

import contextlib
import functools
import random
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.drills import runs
from benchmarks.drills.outcomes import Outcome

_ROOMY = 512 << 20  # bytes
_PARTS = ("demonstrations", "sft", "dapo", "evaluate", "data")  # whose making meets the full disk, in turn
_OUR_FRAME = re.compile(r'File "[^"]*/masksearch_jax/[^"]*", line ')  # of a traceback, of a child process too


def drill(number: int, seed: int, folder: Path) -> Outcome:
    """Run with little room, then with enough."""
    rng = random.Random(f"disk {seed} {number}")
    part = _PARTS[number % len(_PARTS)]
    made = runs.Runs(folder)
    made.make_whole()
    workdir = folder / f"disk_{number}"
    if workdir.is_mount():  # of a drill that was killed
        subprocess.run(["umount", str(workdir)], check=True)
    made.forget(workdir)
    workdir.mkdir()
    room = rng.randint(8 << 10, _size(made.whole / part) - (4 << 10))  # less than the part takes
    with _mounted(workdir) as resize:
        made.copy(workdir.name, part, workdir)
        if resize is None:
            limit = rng.randint(1 << 10, 64 << 10)
            before, kind = (
                functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
                "files end",
            )
            room = limit
        else:
            resize(_used(workdir) + room)
            before, kind = None, "disk full"
        what = f"{kind} after {room} bytes in {part}"
        command = "evaluate" if part == "evaluate" else "train"
        status = made.ended(made.start(workdir, command, before))
        said = made.said(workdir)
        sentences = [line for line in said.splitlines() if line.startswith("page: ")]
        lost = []
        # Threads of tensorstore may print tracebacks of their own: the loop that they report to is closed.
        if status and (not sentences or _OUR_FRAME.search(said)):
            lost.append(f"a traceback in place of a sentence: {said[-800:]}")
        if status < 0:
            lost.append(f"it ended by signal {-status}")
        if resize is not None:
            resize(_ROOMY)
        try:
            made.to_its_end(workdir)
            made.check_equal(workdir)
        except runs.LostError as error:
            lost.append(str(error))
        if lost:
            shutil.copytree(workdir, folder / f"{workdir.name}_kept", dirs_exist_ok=True)
    if not lost:
        made.forget(workdir)
    return Outcome(
        1,
        tuple(f"{workdir}: {what}: {one}" for one in lost),
        f"{what}: ended with {status}: {sentences[-1][:160] if sentences else ''}",
    )


@contextlib.contextmanager
def _mounted(workdir: Path) -> Iterator[Callable[[int], None] | None]:
    """Mount a file system in memory; yields a function that sets its bytes, None where that is not allowed."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(workdir)]
        return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0

    if not mount(f"size={_ROOMY}"):
        yield None
        return
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(workdir)], check=True)
    finally:
        subprocess.run(["umount", str(workdir)], check=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _used(workdir: Path) -> int:
    """Return the bytes in use on the file system of a workdir, in whole pages."""
    return shutil.disk_usage(workdir).used
