"""The console alias knows each command at the top of the package, and runs it as `python -m` does."""

import subprocess
import sys
from pathlib import Path

import pytest

from masksearch_jax import __main__ as alias

ROOT = Path(__file__).parent.parent


def test_every_command_is_known():
    found = {path.stem for path in (ROOT / "masksearch_jax").glob("*.py")} - {"__init__", "__main__"}
    assert found == set(alias.COMMANDS)


@pytest.mark.parametrize(
    "arguments, status, says",
    [(["--help"], 0, "prepare, synthesize"), ([], 2, "usage"), (["trian"], 2, "usage"), (["report"], 1, "--workdir")],
)
def test_the_alias_runs_a_command_or_lists_them(arguments, status, says):
    done = subprocess.run(
        [sys.executable, "-m", "masksearch_jax", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == status and says in done.stdout + done.stderr
