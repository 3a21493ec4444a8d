"""Configs are found in a clone, and from any folder after an installation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from masksearch_jax.runtime import config_files

ROOT = Path(__file__).parent.parent.parent


def test_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "dapo.py").write_text("")
    assert config_files.find_config("configs/dapo.py:dump") == "configs/dapo.py:dump"
    assert config_files.find_config("configs/sft.py:dump") == f"{ROOT / 'configs' / 'sft.py'}:dump"
    assert config_files.find_config(str(tmp_path / "configs" / "dapo.py")) == str(tmp_path / "configs" / "dapo.py")


@pytest.mark.parametrize("name", ["configs/dap.py", "dapo.py", "configs/../setup.py/x", "/nowhere/configs/dapo.py:x"])
def test_a_missing_config_names_both_places_and_what_there_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as raised:
        config_files.find_config(name)
    assert str(tmp_path) in str(raised.value)
    assert "configs/dapo.py" in str(raised.value) and "configs/sft.py" in str(raised.value)


@pytest.mark.slow
def test_a_wheel_starts_from_another_folder(tmp_path):
    """pip builds and unpacks the wheel; dependencies are those of this environment."""
    built = tmp_path / "built"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(built), str(source)], check=True)
    assert not (built / "configs").exists()
    assert (built / "masksearch_jax" / "configs" / "dapo.py").is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = os.environ | {"PYTHONPATH": str(built), "XLA_FLAGS": ""}  # the devices of a user's machine, not of the tests
    command = [sys.executable, "-m", "masksearch_jax.train", "--config=configs/dapo.py"]
    # A small toy, and as few steps as show that each stage starts.
    small = [
        "prepare.entities=240", "prepare.tasks.epochs=1", "sft.steps=2", "sft.eval_every=0", "dapo.iterations=1",
        "dapo.eval_every=0", "dapo.prompts=8", "dapo.groups=4", "dapo.max_generations=1",
        "synthesize.examples.ramp_1=60", "synthesize.examples.ramp_2=40", "synthesize.examples.ramp_3=20",
        "synthesize.examples.ramp_4=10",
        # Two steps teach no answer, and a stage without any update is refused: here lengths decide the rewards.
        "dapo.dynamic_sampling=False", "dapo.reward.overlong_limit=400", "dapo.reward.overlong_cache=399",
    ]  # fmt: skip
    command += [f"--config.{setting}" for setting in small]
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (elsewhere / "runs" / "dapo" / "dapo" / "checkpoints" / "1").is_dir()
    where = subprocess.run(
        [sys.executable, "-c", "import masksearch_jax; print(masksearch_jax.__file__)"],
        cwd=elsewhere, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(built))
