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


@pytest.mark.parametrize("command", alias.COMMANDS)
def test_help_says_what_there_is_and_imports_no_jax(command):
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('masksearch_jax.{command}', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    sys.stderr.write(' '.join(n for n in ('jax', 'tensorflow', 'matplotlib') if n in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith((ROOT / f"masksearch_jax/{command}.py").read_text().split('"""')[1].splitlines()[0])
    assert "Flags:\n" in done.stdout and ("--from" if command == "convert" else "--workdir") in done.stdout
    assert ("configs/dapo.py" in done.stdout) == (command not in ("convert", "report", "ask"))


def test_the_help_of_a_config_lists_its_variants_and_every_setting():
    def run(config):
        return subprocess.run(
            [sys.executable, "-m", "masksearch_jax.train", f"--config={config}", "--help"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    plain, short = run("configs/language_model.py"), run("configs/language_model.py:short")
    assert plain.returncode == short.returncode == 0 and "Variants: short, proof," in plain.stdout
    assert "--config.sft.steps=40\n" in short.stdout and "--config.sft.steps=40\n" not in plain.stdout
    assert "--config.dapo.reward.overlong_limit=224\n" in plain.stdout
    no_config = run("configs/common.py")
    assert no_config.returncode == 1 and "no function get_config" in no_config.stderr
    assert "Traceback" not in no_config.stderr
    wrong = run("configs/language_model.py:long")
    assert wrong.returncode == 1 and "takes one of short, proof" in wrong.stderr


def test_a_reader_of_the_help_may_stop_early():
    line = f"{sys.executable} -m masksearch_jax.train --config=configs/dapo.py --help"
    script = f"{line} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0"] and done.stderr == ""


def test_every_config_that_takes_an_argument_says_which():
    for file in (ROOT / "configs").glob("*.py"):
        text = file.read_text()
        assert ("check_argument(__file__, arg, *VARIANTS)" in text) == ("\nVARIANTS = " in text), file


def test_the_dtypes_of_convert_are_those_of_the_model():
    from masksearch_jax import convert
    from masksearch_jax.model import config

    assert convert._DTYPES == config.DTYPES
