"""The import table of the design: which package may import which, ours and third party, read from the syntax trees.

Imports inside functions count too, and so does what is imported through others: training and evaluation reach no
preparation code, the core reaches no TensorFlow.
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "masksearch_jax"
# Commands and workflows may import everything of ours.
FREE = {"workflows"}

# Package -> what it may import of ours besides itself: whole packages or single modules.
OURS = {
    "prep": {"text", "scoring", "data.records", "toywiki", "evals.benchmarks", "evals.corpora", "evals.question_forms"},
    "trainers": {
        "data",
        "model",
        "rollout",
        "rl",
        "evals",
        "runtime",
        "scoring",
        "text",
        "retrieval.interface",
        "trajectories",
    },  # fmt: skip
    "evals": {"rollout", "text", "scoring", "data.records", "retrieval.interface"},
    "trajectories": {"text.tags"},
    # The HTTP server of the search service, which limits what clients take up, also serves policies.
    "serving": {"model", "rollout", "text", "retrieval.interface", "retrieval.service.http_server", "runtime.mesh"},
    "viewer": {"trajectories", "evals", "scoring", "text", "data.records"},
    "aot": {"model", "trainers", "rollout", "rl", "runtime", "text"},  # all that a compiled program is made of
    "teachers": {"rollout", "text", "scoring", "data.records", "retrieval.interface"},
    "agents": {"llm", "rollout", "text", "scoring", "data.records", "retrieval.interface"},
    "llm": {"text", "rollout"},
    "rl": {"rollout.trajectory", "scoring", "data.packing"},
    "rollout": {"model", "text", "data.records", "retrieval.interface", "runtime.mesh", "runtime.distributed"},
    "retrieval": {"data.records", "text", "model", "runtime.mesh"},
    "data": set(),
    "model": {"runtime.mesh"},
    "text": set(),
    "scoring": {"text.tags", "text.normal_forms"},
    "toywiki": set(),
    "runtime": set(),
}
# Modules that all of ours may import: they import nothing of ours but each other.
FOR_ALL = {"runtime.json_files", "runtime.types"}

# Third party besides numpy: package -> libraries, or {library: the only modules, or packages of such, that may import
# it}.
THIRD_PARTY = {
    "prep": {"tensorflow", "seqio", "tensorflow_text", "apache_beam", "mwparserfromhell"},
    "trainers": {"jax", "flax", "optax"},
    "evals": {"matplotlib": {"evals.report"}, "jinja2": {"evals.report"}, "pyarrow": {"evals.data_rows"}},
    "trajectories": set(),
    "viewer": {"starlette", "uvicorn"},
    "serving": {"jax", "starlette"},
    "aot": {"jax"},
    "teachers": set(),
    "agents": {"jinja2"},
    "llm": {"openai": None, "httpx2": {"llm.bounded_http"}},
    "rl": {"jax"},
    "rollout": {"jax", "flax"},
    "retrieval": {
        "jax": None,
        "flax": None,
        "scann": {"retrieval.index"},
        "bm25s": {"retrieval.index"},
        "starlette": {"retrieval.service"},
        "uvicorn": {"retrieval.service"},
        "httpx2": {"retrieval.service"},
        "mcp": {"retrieval.service"},
    },
    "data": {"grain", "array_record", "msgpack"},
    "model": {
        "jax": None,
        "flax": None,
        "safetensors": {"model.published"},
        "gguf": {"model.published"},
        "huggingface_hub": {"model.published"},
        "qwix": {"model.lora"},
    },
    "text": {"sentencepiece": None, "tokenizers": None, "jinja2": {"text.jinja_sandbox"}},
    "scoring": set(),
    "toywiki": set(),
    "runtime": {"jax", "flax", "orbax", "grain", "absl", "ml_collections", "tensorboardX", "rich", "wandb"},
}
COMMAND_THIRD_PARTY = {"absl", "ml_collections", "jax"}
NEVER_IN_CORE = {"tensorflow", "tensorflow_text", "seqio", "tensorflow_datasets", "clu", "keras", "apache_beam"}


def module_name(path: Path) -> str:
    """'data.packing' of masksearch_jax/data/packing.py; a package is named by its folder."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """Returns (modules of ours, third-party libraries) that a module imports anywhere."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import on line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            library, _, inner = name.partition(".")
            if library == PACKAGE:
                # `from package.module import name` and `from package import module` alike.
                while inner and inner not in MODULES:
                    inner = inner.rpartition(".")[0]
                ours.add(inner)
            elif library not in sys.stdlib_module_names:
                others.add(library)
    return ours - {""}, others - {"numpy"}


IMPORTS = {module: imports_of(module) for module in MODULES}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def is_within(module: str, names: set[str]) -> bool:
    """True for a module of `names`, or one below a package of them."""
    return any(module == name or module.startswith(name + ".") for name in names)


def reached_from(module: str) -> set[str]:
    """Every module of ours that importing `module` can come to import; packages run their __init__."""
    reached, frontier = set(), {module}
    while frontier:
        current = frontier.pop()
        reached.add(current)
        parents = {current.rpartition(".")[0]} - {""}
        frontier |= (IMPORTS[current][0] | parents) - reached
    return reached


COMMANDS = [module for module in MODULES if module and "." not in module and not MODULES[module].name.startswith("__")]
WORKFLOWS = [module for module in MODULES if package_of(module) in FREE]
LAYERED = [module for module in MODULES if "." in module and module not in WORKFLOWS or package_of(module) in OURS]


def test_every_package_is_in_the_table():
    assert {package_of(module) for module in LAYERED} <= set(OURS)


@pytest.mark.parametrize("module", LAYERED)
def test_imports_of_ours(module):
    package = package_of(module)
    allowed = OURS[package] | FOR_ALL
    wrong = {
        name
        for name in IMPORTS[module][0]
        if package_of(name) != package and name not in allowed and package_of(name) not in allowed
    }
    assert not wrong, f"{module} imports {sorted(wrong)}; {package} may import {sorted(allowed)} of ours"


def test_no_package_imports_one_that_imports_it():
    """Cycles, of types too: a package reaches itself through no other one."""
    packages = {name: {package_of(i) for m in LAYERED if package_of(m) == name for i in IMPORTS[m][0]} for name in OURS}

    def reached(package: str) -> set[str]:
        found, frontier = set(), packages[package] - {package}
        while frontier:
            found |= frontier
            frontier = {name for one in frontier for name in packages.get(one, ())} - found
        return found

    assert not [package for package in packages if package in reached(package)]


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_is_flags_and_one_call(module):
    """At the top of the package lie commands alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert names in ([], ["main"])
    assert IMPORTS[module][0] <= {
        "aot",
        *WORKFLOWS,
        *(m for m in MODULES if package_of(m) in ("aot", "runtime", "model")),
    }


@pytest.mark.parametrize("module", LAYERED)
def test_imports_of_third_party(module):
    allowed = THIRD_PARTY[package_of(module)]
    for library in IMPORTS[module][1]:
        assert library in allowed, f"{module} imports {library}; {package_of(module)} may import {sorted(allowed)}"
        only = allowed[library] if isinstance(allowed, dict) else None
        assert only is None or is_within(module, only), f"{module} imports {library}, which only {sorted(only)} may"


@pytest.mark.parametrize("module", [*COMMANDS, *WORKFLOWS])
def test_commands_and_workflows_import_no_library_of_a_stage(module):
    assert IMPORTS[module][1] <= COMMAND_THIRD_PARTY


@pytest.mark.parametrize("module", ["train", "evaluate"])
def test_training_and_evaluation_reach_no_preparation(module):
    reached = reached_from(module)
    assert not {name for name in reached if package_of(name) == "prep" or name == "workflows.data_preparation"}


@pytest.mark.parametrize("module", [module for module in MODULES if package_of(module) != "prep"])
def test_core_names_no_tensorflow(module):
    assert not IMPORTS[module][1] & NEVER_IN_CORE


def test_metrics_of_evaluation_do_not_depend_on_rewards():
    for module in MODULES:
        if package_of(module) == "evals":
            assert not {name for name in reached_from(module) if package_of(name) == "rl"}


def test_the_table_is_enforced(tmp_path, monkeypatch):
    """The reader of imports sees each way to write one."""
    source = "import masksearch_jax.data.packing\nfrom masksearch_jax.text import tags\n"
    source += "def late():\n    from tensorflow.io import gfile\n    import scann, os\n    return gfile, scann, os\n"
    path = tmp_path / "module.py"
    path.write_text(source)
    monkeypatch.setitem(MODULES, "module", path)
    assert imports_of("module") == ({"data.packing", "text.tags"}, {"tensorflow", "scann"})
    assert is_within("evals.report.plots", {"evals.report"}) and not is_within("evals.reports", {"evals.report"})
    path.write_text("from .text import tags\n")
    with pytest.raises(AssertionError, match="relative import on line 1"):
        imports_of("module")
