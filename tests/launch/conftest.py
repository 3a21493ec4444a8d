"""Runs a launcher in this process, which is far quicker than starting one, with stand-ins for the tools it calls."""

import contextlib
import dataclasses
import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Done:
    """How a launcher ended: exit status, and what Python printed (not what its commands did)."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def launcher(monkeypatch) -> Callable[..., Done]:
    """launcher(module, *arguments, **environment): as `python launch/<module>.py arguments` from the project's root."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    monkeypatch.chdir(ROOT)

    def run(module: str, *arguments: str, **environment: str) -> Done:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = importlib.import_module(module).main(list(arguments))
            except SystemExit as ending:  # as the interpreter would
                code = ending.code
                if isinstance(code, str):
                    print(code, file=sys.stderr)
                    code = 1
        return Done(code or 0, out.getvalue(), err.getvalue())

    yield run
    for name in ("accelerators", "cloud_run", "dataflow", "gke", "tpu_vm"):
        sys.modules.pop(name, None)


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """tools(name, script): puts a shell script in front of the real tool of that name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return make
