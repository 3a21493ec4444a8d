"""The core imports where TensorFlow and what drags it in do not exist."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKED = ("tensorflow", "tensorflow_text", "seqio", "tensorflow_datasets", "clu", "keras")

# None in sys.modules makes the import fail and leaves importlib.util.find_spec alone, which etils.epath (Orbax) asks
# about TensorFlow on every path; an import hook that raises would break it.
BLOCK = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in BLOCKED)

CORE = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "masksearch_jax").rglob("*.py")
    if path.relative_to(ROOT).parts[1] not in ("prep", "prepare.py")
)

IMPORT_ALL = """
import importlib
for name in {names!r}:
    importlib.import_module(name)
for name in {blocked!r}:
    assert sys.modules[name] is None, name + " came back"
print("imported", len({names!r}))
"""


def run_blocked(code: str) -> str:
    """Runs code in a fresh Python without TensorFlow; returns what it printed."""
    result = subprocess.run([sys.executable, "-c", BLOCK + code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def test_core_imports_without_tensorflow():
    assert len(CORE) > 20
    assert f"imported {len(CORE)}" in run_blocked(IMPORT_ALL.format(names=CORE, blocked=BLOCKED))


def test_the_block_blocks():
    with pytest.raises(AssertionError, match="import of tensorflow halted"):
        run_blocked("import tensorflow")
