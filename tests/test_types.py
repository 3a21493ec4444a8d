"""mypy accepts the package (mypy.ini), and no type is open without a name that gives the reason."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs import common, dapo
from masksearch_jax.trainers import stage_settings

ROOT = Path(__file__).parent.parent
MOST_OPEN = 100  # lines of code that name Any


def test_mypy_accepts_the_package():
    pytest.importorskip("mypy", reason="pip install -c launch/constraints.txt -e '.[test]'")
    done = subprocess.run(
        [sys.executable, "-m", "mypy"],
        cwd=ROOT,
        env=os.environ | {"MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_open_types_are_few_and_exceptions_have_a_code():
    lines = [
        (path, line)
        for path in sorted((ROOT / "masksearch_jax").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert len([line for _, line in lines if re.search(r"\bAny\b", line)]) <= MOST_OPEN
    bare = [f"{path}: {line}" for path, line in lines if "type: ignore" in line and "type: ignore[" not in line]
    assert not bare


@pytest.mark.parametrize(
    ("view", "section"),
    [
        (stage_settings.SftSettings, common.sft()),
        (stage_settings.DapoSettings, dapo.dapo()),
        (stage_settings.StageSettings, common.sft()),
        (stage_settings.StageSettings, dapo.dapo()),
        (stage_settings.RollbackSettings, common.rollback()),
        (stage_settings.AlarmSettings, common.alarms().entropy),
    ],
)
def test_a_view_names_settings_that_the_config_has(view, section):
    assert set(view.__annotations__) <= set(section.keys())
