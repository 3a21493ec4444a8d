"""The notebook: valid, clean, and (slow) run from its first cell to its last on a CPU without TensorFlow."""

import ast
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "launch" / "colab" / "masksearch.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]

# A kernel without IPython: one namespace, cell after cell. None in sys.modules makes an import of TensorFlow fail.
RUNNER = """
import json, sys
for name in ("tensorflow", "seqio", "tensorflow_text"):
    sys.modules[name] = None
namespace = {"__name__": "__main__"}
for number, source in enumerate(json.load(open(sys.argv[1]))):
    print(f"[{number}]", flush=True)
    exec(compile(source, f"cell {number}", "exec"), namespace)
"""


def test_it_is_stored_without_outputs():
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in CELLS)


def test_cells_are_plain_python():
    """So that one runner serves Colab and this test; magics and shell lines would not compile."""
    for number, source in enumerate(CODE):
        compile(source, f"cell {number}", "exec")


def test_one_cell_installs_and_what_it_installs_is_pinned():
    (installing,) = [source for source in CODE if "pip" in source]
    assert "launch/constraints.txt" in installing and "launch/setup.sh" in installing


def test_flags_are_marked_before_anything_reads_them():
    first = next(number for number, source in enumerate(CODE) if "mark_as_parsed()" in source)
    assert not any("masksearch_jax import" in source or "masksearch_jax." in source for source in CODE[:first])


def test_the_names_that_it_uses_exist():
    """A move or a new name breaks a notebook in silence: it is run by hand and by a slow test only."""
    modules, used = {}, []
    for node in (node for source in CODE for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("masksearch_jax"):
            for name in (alias.name for alias in node.names):
                package = importlib.import_module(node.module)
                modules[name] = getattr(package, name, None) or importlib.import_module(f"{node.module}.{name}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.append((node.value.id, node.attr))
    assert len(modules) >= 6
    assert [pair for pair in used if pair[0] in modules and not hasattr(modules[pair[0]], pair[1])] == []


@pytest.mark.slow
def test_it_runs_from_the_first_cell_to_the_last(tmp_path):
    """As on a CPU runtime with one device. The preparation gets this test's Python, instead of a .venv to install."""
    (tmp_path / "cells.json").write_text(json.dumps(CODE))
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu",
        "PIP_NO_INDEX": "1",  # the installation cell finds its versions here, or fails
        "MASKSEARCH_PREPARE_PYTHON": sys.executable,
        "MASKSEARCH_NOTEBOOK_WORKDIR": str(tmp_path / "run"),
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path / "cells.json")],
        cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout, f"{took:.0f} s")
    assert took < 360
    for number in range(1, 5):  # resumed: every iteration once, in order
        assert done.stdout.count(f"iteration {number}: reward") == 1
    for words in ("DAPO", "2 masks", "passage:", "no TensorFlow in this kernel"):
        assert words in done.stdout
